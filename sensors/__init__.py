"""What wakes the platform."""
