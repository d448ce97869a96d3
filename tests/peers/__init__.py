"""What users of other tools rely on, and what they get here."""
