"""Tests of landing: exactly once, in order, de-identified."""
