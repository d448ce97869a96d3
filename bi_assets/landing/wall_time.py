"""The shop's wall time to UTC, and UTC to business dates.

MySQL's DATETIME has no zone: it is what the clock on the shop's wall showed. When clocks are put
back, an hour comes twice, and the first one is meant; when they are put forward, an hour is
missing, and a time in it is shifted forward by as much (PEP 495, fold=0). Both are counted.
"""

from __future__ import annotations

from bi_assets.sql import literal

_SETBACKS = ("1 hour", "30 minutes", "2 hours")  # by how much zones put clocks back


def macros(source_timezone: str, business_timezone: str) -> list[str]:
    """Return the statements that make `utc_of_source`, `source_of_utc` and `business_date`.

    The session's time zone must be UTC.
    """
    return [
        f"CREATE OR REPLACE TEMP MACRO source_of_utc(utc) AS {_wall('utc', source_timezone)}",
        f"CREATE OR REPLACE TEMP MACRO utc_of_source(wall) AS {_utc('wall', source_timezone)}",
        f"CREATE OR REPLACE TEMP MACRO business_date(utc) AS {business_date('utc', business_timezone)}",
    ]


def business_date(utc: str, timezone: str) -> str:
    """Return SQL for the business date of a UTC time."""
    return f"CAST({_wall(utc, timezone)} AS DATE)"


def odd_hours(utc: str, wall: str, timezone: str) -> tuple[str, str]:
    """Return SQL telling whether a wall time fell in a repeated, and in a missing, hour."""
    if timezone == "UTC":
        return "false", "false"
    repeated = " OR ".join(f"source_of_utc({utc} + INTERVAL '{setback}') = {wall}" for setback in _SETBACKS)
    return f"coalesce({repeated}, false)", f"coalesce(source_of_utc({utc}) <> {wall}, false)"


def _wall(utc: str, timezone: str) -> str:
    if timezone == "UTC":
        return f"CAST({utc} AS TIMESTAMP)"
    return f"timezone({literal(timezone)}, CAST({utc} AS TIMESTAMPTZ))"


def _utc(wall: str, timezone: str) -> str:
    if timezone == "UTC":
        return wall
    # ICU takes a repeated hour as its last occurrence.
    last = f"CAST(timezone({literal(timezone)}, {wall}) AS TIMESTAMP)"
    earlier = " ".join(
        f"WHEN {_wall(f'{last} - INTERVAL {literal(setback)}', timezone)} = {wall} "
        f"THEN {last} - INTERVAL {literal(setback)}"
        for setback in _SETBACKS
    )
    return f"CASE {earlier} ELSE {last} END"
