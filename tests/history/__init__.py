"""Tests of history: what was true when, however it arrived."""
