"""Tests of the whole chain on real servers: `make test-stack`."""
