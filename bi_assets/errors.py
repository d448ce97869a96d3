"""Errors that a user reads."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend; the message says what is wrong, where, and what to do."""
