"""What leaves the platform."""
