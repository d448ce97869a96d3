"""Kafka bytes to typed, de-identified, append-only change logs."""
