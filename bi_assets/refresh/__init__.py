"""Computes the marts, for the partitions that need it."""
