"""Benchmarks: ratios to a baseline of the same run, on the machine that runs them."""
