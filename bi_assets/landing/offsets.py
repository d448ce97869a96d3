"""How far each partition has landed, and how complete the data is.

Offsets belong to (cluster id, topic id), or (cluster id, topic name) where the broker gives no
topic id: a broker or a topic made anew is another source, read from its beginning.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import duckdb
import pyarrow as pa

from bi_assets.landing import clocks
from bi_assets.landing.batch import Batch, Loss, Partition, Restart
from bi_assets.sql import one

SCHEMA = [
    """CREATE TABLE IF NOT EXISTS meta.offsets (
        cluster_id VARCHAR, topic_id VARCHAR, topic VARCHAR, partition INTEGER,
        next_offset BIGINT, end_offset BIGINT, last_source_ts TIMESTAMP,
        server_id BIGINT, base VARCHAR, file_number BIGINT, pos BIGINT)""",
    """ALTER TABLE meta.offsets DROP COLUMN IF EXISTS "row\"""",
    # The latest place in the binlog that any snapshot row of a topic has named.
    """CREATE TABLE IF NOT EXISTS meta.snapshots (
        topic VARCHAR, base VARCHAR, file_number BIGINT, pos BIGINT)""",
    """CREATE TABLE IF NOT EXISTS meta.losses (
        cluster_id VARCHAR, topic VARCHAR, partition INTEGER, first_offset BIGINT,
        last_offset BIGINT, noticed_at TIMESTAMP)""",
    """CREATE TABLE IF NOT EXISTS meta.restarts (
        cluster_id VARCHAR, topic VARCHAR, partition INTEGER, landed_offset BIGINT,
        resumed_offset BIGINT, noticed_at TIMESTAMP)""",
    """CREATE TABLE IF NOT EXISTS meta.progress (
        complete_through TIMESTAMP, as_of DATE, heartbeat_at TIMESTAMP)""",
    # The newest change in Kafka: when it was written there, and when it was made.
    "ALTER TABLE meta.progress ADD COLUMN IF NOT EXISTS sent_at TIMESTAMP",
    "ALTER TABLE meta.progress ADD COLUMN IF NOT EXISTS made_at TIMESTAMP",
]
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class Progress:
    """How complete the data is; both None until something has landed.

    `complete_through` (UTC): everything the shop did until then has landed. `as_of`: the last whole
    business day before it.
    """

    complete_through: datetime | None
    as_of: date | None


def landed_offsets(con: duckdb.DuckDBPyConnection) -> dict[Partition, int]:
    """Return the next offset to read, of each partition that has landed anything."""
    rows = con.execute(
        "SELECT cluster_id, topic_id, topic, partition, next_offset FROM meta.offsets"
    ).fetchall()
    return {
        Partition(cluster_id, topic_id if topic_id != topic else None, topic, number): offset
        for cluster_id, topic_id, topic, number, offset in rows
    }


def unread_messages(con: duckdb.DuckDBPyConnection) -> dict[Partition, int]:
    """Return how many messages of each partition were known at its last batch, and had not landed."""
    rows = con.execute(
        "SELECT cluster_id, topic_id, topic, partition, greatest(end_offset - next_offset, 0) "
        "FROM meta.offsets"
    ).fetchall()
    return {
        Partition(cluster_id, topic_id if topic_id != topic else None, topic, number): n
        for cluster_id, topic_id, topic, number, n in rows
    }


def start_positions(con: duckdb.DuckDBPyConnection) -> None:
    """Make the temporary table `positions`, which `note_positions` fills and `advance` reads."""
    con.execute("""
CREATE OR REPLACE TEMP TABLE positions (topic VARCHAR, partition INTEGER, last_source_ts TIMESTAMP,
  server_id BIGINT, base VARCHAR, mark STRUCT(n BIGINT, p BIGINT))""")


def note_positions(con: duckdb.DuckDBPyConnection, topic: str, *, has_snapshot: bool) -> None:
    """Remember the highest binlog position of each partition in `stretches`. Called once a topic."""
    con.execute("""
INSERT INTO positions
WITH newest AS (  -- the server that the partition's newest stream row comes from
  SELECT _partition, max(last_source_ts) AS last_source_ts,
    arg_max(struct_pack(s := _server_id, b := base), last_offset) FILTER (NOT is_snapshot) AS source
  FROM stretches GROUP BY _partition
)
SELECT $topic, _partition, any_value(newest.last_source_ts), any_value(source.s), any_value(source.b),
  max(struct_pack(n := coalesce(file_number, 0), p := last_pos))
    FILTER (NOT is_snapshot AND (_server_id, base) IS NOT DISTINCT FROM (source.s, source.b))
FROM stretches JOIN newest USING (_partition) GROUP BY _partition""", {"topic": topic})  # fmt: skip
    if has_snapshot:
        con.execute("""
MERGE INTO meta.snapshots s USING (
  SELECT base, max(struct_pack(n := file_number, p := last_pos)) AS place
  FROM stretches WHERE is_snapshot GROUP BY base) f ON s.topic = $topic AND s.base = f.base
WHEN MATCHED AND (s.file_number, s.pos) < (place.n, place.p) THEN
  UPDATE SET file_number = place.n, pos = place.p
WHEN NOT MATCHED THEN INSERT VALUES ($topic, f.base, place.n, place.p)""", {"topic": topic})  # fmt: skip


def advance(con: duckdb.DuckDBPyConnection, batch: Batch) -> None:
    """Move the landed offsets to where the batch ends, with the positions noted on the way.

    Leaves the temporary table `advanced`: the partitions of this batch as they now stand.
    """
    partitions = list({**batch.end_offsets, **batch.next_offsets})
    moved = pa.table(
        {
            "cluster_id": pa.array([p.source[0] for p in partitions], pa.string()),
            "topic_id": pa.array([p.source[1] for p in partitions], pa.string()),
            "topic": pa.array([p.topic for p in partitions], pa.string()),
            "partition": pa.array([p.number for p in partitions], pa.int32()),
            "next_offset": pa.array([batch.next_offsets.get(p) for p in partitions], pa.int64()),
            "end_offset": pa.array([batch.end_offsets.get(p) for p in partitions], pa.int64()),
        }
    )
    con.register("moved", moved)
    con.execute("""
CREATE OR REPLACE TEMP TABLE advanced AS
SELECT m.cluster_id, m.topic_id, m.topic, m.partition,
  coalesce(greatest(m.next_offset, o.next_offset), 0) AS next_offset,
  coalesce(m.end_offset, o.end_offset) AS end_offset,
  greatest(p.last_source_ts, o.last_source_ts) AS last_source_ts,
  CASE WHEN p.mark IS NULL THEN o.server_id ELSE p.server_id END AS server_id,
  CASE WHEN p.mark IS NULL THEN o.base ELSE p.base END AS base,
  CASE WHEN p.mark IS NULL OR ((p.server_id, p.base) IS NOT DISTINCT FROM (o.server_id, o.base)
            AND struct_pack(n := o.file_number, p := o.pos) > p.mark)
       THEN struct_pack(n := o.file_number, p := o.pos) ELSE p.mark END AS mark
FROM moved m LEFT JOIN positions p USING (topic, partition)
LEFT JOIN meta.offsets o ON o.cluster_id = m.cluster_id AND o.topic_id = m.topic_id
  AND o.topic = m.topic AND o.partition = m.partition""")
    con.unregister("moved")
    con.execute("""
DELETE FROM meta.offsets o USING advanced a
WHERE o.cluster_id = a.cluster_id AND o.topic_id = a.topic_id
  AND o.topic = a.topic AND o.partition = a.partition""")
    con.execute("""
INSERT INTO meta.offsets
SELECT * EXCLUDE (mark), mark.n, mark.p FROM advanced""")


def record_losses(con: duckdb.DuckDBPyConnection, losses: Iterable[Loss], now: datetime) -> None:
    """Keep what the broker dropped before it was landed; `status` shows it until the end of days."""
    for loss in losses:
        con.execute(
            "INSERT INTO meta.losses VALUES (?, ?, ?, ?, ?, ?)",
            [
                loss.partition.cluster_id,
                loss.partition.topic,
                loss.partition.number,
                loss.first,
                loss.last,
                now,
            ],
        )


def restart(con: duckdb.DuckDBPyConnection, restarts: Iterable[Restart], now: datetime) -> None:
    """Take partitions back to where they are read again; what comes twice is known by its position."""
    for again in restarts:
        at = again.partition
        con.execute(
            "UPDATE meta.offsets SET next_offset = ? "
            "WHERE cluster_id = ? AND topic_id = ? AND topic = ? AND partition = ?",
            [again.low, *at.source, at.topic, at.number],
        )
        con.execute(
            "INSERT INTO meta.restarts VALUES (?, ?, ?, ?, ?, ?)",
            [at.cluster_id, at.topic, at.number, again.landed, again.low, now],
        )
        # What a deleted topic still had is lost with it.
        con.execute(
            """
INSERT INTO meta.losses
SELECT cluster_id, topic, partition, next_offset, end_offset - 1, ? FROM meta.offsets o
WHERE cluster_id = ? AND topic_id <> ? AND topic = ? AND partition = ? AND next_offset < end_offset
  AND NOT EXISTS (FROM meta.losses l WHERE l.cluster_id = o.cluster_id AND l.topic = o.topic
    AND l.partition = o.partition AND l.first_offset = o.next_offset)""",
            [now, *at.source, at.topic, at.number],
        )


def progress(con: duckdb.DuckDBPyConnection) -> Progress:
    """Return how complete the landed data is."""
    return Progress(*one(con, "SELECT any_value(complete_through), any_value(as_of) FROM meta.progress"))


def update_progress(
    con: duckdb.DuckDBPyConnection,
    batch: Batch,
    heartbeat_at: datetime | None,
    sent: clocks.Sent | None,
    incomplete_since: datetime | None,
) -> tuple[Progress, Progress]:
    """Compute how complete the data is after this batch, and keep it. Returns it before and after.

    Where every partition has reached its end (asked for once the batch was read), all that the
    connector had sent is there, up to its newest change or heartbeat; else up to the least of the
    lagging partitions' last changes, and in either case not to a transaction that lacks something
    (`incomplete_since`). It never goes back, and never beyond the wall clock. `sent` is the newest change
    of the batch.
    """
    before, as_of, last_heartbeat, sent_at, made_at, caught_up, newest, slowest = one(
        con,
        """
SELECT any_value(p.complete_through), any_value(p.as_of), any_value(p.heartbeat_at), any_value(p.sent_at),
  any_value(p.made_at), count(*) FILTER (next_offset < end_offset) = 0, max(last_source_ts),
  CASE WHEN count(*) FILTER (next_offset < end_offset AND last_source_ts IS NULL) = 0
       THEN min(last_source_ts) FILTER (next_offset < end_offset) END
FROM (SELECT 1) LEFT JOIN meta.progress p ON true LEFT JOIN advanced ON true""",
    )
    heartbeat_at = max(filter(None, [heartbeat_at, last_heartbeat]), default=None)
    if sent is None or (sent_at and sent.at < sent_at):
        sent = clocks.Sent(sent_at, made_at) if sent_at else None
    beaten = clocks.complete_by_heartbeat(heartbeat_at, sent)
    reached = max(filter(None, [newest, beaten]), default=None) if caught_up else slowest
    if reached and incomplete_since:
        reached = min(reached, incomplete_since - _SECOND)  # the resolution of source times
    candidates = [t for t in (before, min(reached, batch.read_at) if reached else None) if t]
    con.execute("DELETE FROM meta.progress")
    after = one(
        con,
        "INSERT INTO meta.progress SELECT $t, business_date($t::TIMESTAMP) - 1, $beat, $sent_at, $made_at "
        "RETURNING complete_through, as_of",
        {
            "t": max(candidates, default=None),
            "beat": heartbeat_at,
            "sent_at": sent.at if sent else None,
            "made_at": sent.made_at if sent else None,
        },
    )
    return Progress(before, as_of), Progress(*after)
