"""The simulated online pharmacy, its change data capture and an embedded broker."""
