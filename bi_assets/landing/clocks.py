"""Clocks that do not agree: a change from the future, and heartbeats of a connector that lags.

Source time is the database server's clock; Kafka's timestamp of a message is that of Connect, which
wrote it afterwards. A change can't be made after it was written to Kafka.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import duckdb

from bi_assets.landing.debezium_json import TRUNCATED
from bi_assets.sql import literal

SCHEMA = [
    # Changes whose time lay in the future: how many, and the one that was furthest ahead.
    """CREATE TABLE IF NOT EXISTS meta.future_changes (
        topic VARCHAR, server_id BIGINT, events BIGINT, partition INTEGER, "offset" BIGINT,
        source_ts TIMESTAMP, sent_at TIMESTAMP, last_seen TIMESTAMP)""",
]
_SKEW_MINUTES = 5
"""By so much may a server's clock be ahead of Connect's."""
_LAG = timedelta(seconds=10)
"""A connector that is so little behind is up to date."""
_QUIET = timedelta(seconds=60)
"""One that catches up sends something more often than that."""
_SENT_AT = """coalesce(CASE WHEN timestamp_ms > 0 THEN try(make_timestamp(timestamp_ms * 1000)) END,
  getvariable('landed_at'))"""

_IS_MADE = f"(_cause IS NULL OR _cause = {literal(TRUNCATED)})"
IS_FUTURE = f"{_IS_MADE} AND _source_ts > {_SENT_AT} + INTERVAL {_SKEW_MINUTES} MINUTE"
"""SQL: a change or a truncate is of a time after that of its message; of landing, without Kafka's time."""


@dataclass(frozen=True)
class Sent:
    """The newest change in Kafka: when it was written there, and when it was made; naive UTC."""

    at: datetime
    made_at: datetime

    @classmethod
    def of(cls, sent_ms: int, made_at: datetime) -> Sent:
        """Make one of Kafka's timestamp in milliseconds."""
        return cls(datetime.fromtimestamp(sent_ms / 1000, UTC).replace(tzinfo=None), made_at)


def note(con: duckdb.DuckDBPyConnection) -> None:
    """Count the changes of `decoded` that come from the future: before `correct`."""
    con.execute(f"""
MERGE INTO meta.future_changes f USING (
  SELECT _topic, _server_id, count(*) AS n, arg_max(_partition, _source_ts) AS partition,
    arg_max(_offset, _source_ts) AS "offset", max(_source_ts) AS source_ts,
    arg_max({_SENT_AT}, _source_ts) AS sent_at
  FROM decoded WHERE {IS_FUTURE} GROUP BY ALL
) s ON f.topic = s._topic AND f.server_id IS NOT DISTINCT FROM s._server_id
WHEN MATCHED AND f.source_ts < s.source_ts THEN UPDATE SET events = f.events + s.n,
  partition = s.partition, "offset" = s."offset", source_ts = s.source_ts, sent_at = s.sent_at,
  last_seen = getvariable('landed_at')
WHEN MATCHED THEN UPDATE SET events = f.events + s.n, last_seen = getvariable('landed_at')
WHEN NOT MATCHED THEN INSERT VALUES (s._topic, s._server_id, s.n, s.partition, s."offset", s.source_ts,
  s.sent_at, getvariable('landed_at'))""")


def correct(con: duckdb.DuckDBPyConnection) -> None:
    """Give the changes of `decoded` that come from the future the time of their message.

    Left as they are, they would hold back every later change of their key, which can't be in force
    before them, and be taken for how complete the data is.
    """
    con.execute(f"UPDATE decoded SET _source_ts = {_SENT_AT} WHERE {IS_FUTURE}")


def complete_by_heartbeat(heartbeat_at: datetime | None, sent: Sent | None) -> datetime | None:
    """Return up to when a heartbeat proves that Kafka has everything.

    A heartbeat carries Connect's clock, also while the connector still reads what happened hours
    ago. How far behind it is, the newest change tells; where none has come for a minute, it has caught
    up.
    """
    if heartbeat_at is None or sent is None:
        return heartbeat_at
    lag = sent.at - sent.made_at
    if lag <= _LAG or heartbeat_at - sent.at > _QUIET:
        return heartbeat_at
    return heartbeat_at - lag
