"""Tests of the platform as Dagster sees it."""
