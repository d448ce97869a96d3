"""How often to publish: what takes long is done less often."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb

_AT_ONCE_SECONDS = 0.3
_TIMES = 5


@dataclass(frozen=True)
class LastPublication:
    """The newest publication, as the core database remembers it."""

    published_at: datetime
    how: str
    bytes: int
    seconds: float
    age: float

    @property
    def due_in(self) -> float:
        """Seconds until the next publication is due; 0 where it is."""
        longest = pause(self.seconds)
        return min(max(longest - self.age, 0.0), longest)  # whatever the clock does

    def told(self) -> dict[str, Any]:
        """Return what `status` tells."""
        return {
            "published_at": self.published_at,
            "how": self.how,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 3),
        }


def spacing(seconds: float) -> float:
    """Return how far apart publications begin that take so long: five times that, or 0 for short ones."""
    return seconds * _TIMES if seconds > _AT_ONCE_SECONDS else 0.0


def pause(seconds: float) -> float:
    """Return how long to wait after a publication that took so long, before the next begins."""
    return max(spacing(seconds) - seconds, 0.0)


def last_publication(con: duckdb.DuckDBPyConnection) -> LastPublication | None:
    """Return the newest publication, if there was one."""
    row = con.execute(
        "SELECT published_at, how, bytes, seconds, epoch(CAST(now() AS TIMESTAMP) - published_at) "
        "FROM meta.publications ORDER BY published_at DESC LIMIT 1"
    ).fetchone()
    return LastPublication(*row) if row else None
