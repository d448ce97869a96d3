"""Tests of refresh: the marts, computed for the partitions that need it."""
