"""Tests of contracts: what a source table looks like."""
