"""Tests: one rule each, named for it."""
