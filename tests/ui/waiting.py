"""Waiting for something by looking for it again and again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_LOOK_EVERY_SECONDS = 0.25


def until(condition: Callable[[], T], what: str | Callable[[], str], *, seconds: float = 60.0) -> T:
    """Return the first true result of `condition`.

    `what` tells what was waited for, and what was there instead.
    Errors: `AssertionError` with `what`, after that many seconds.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not in {seconds:.0f} s: {what if isinstance(what, str) else what()}")
        time.sleep(_LOOK_EVERY_SECONDS)
    return found
