"""Tests of outputs: what leaves the platform."""
