"""Land a batch: decode, quarantine, de-duplicate, append; then history, touched days, offsets.

Everything here happens inside the caller's transaction: a batch is there with its offsets and its
history, or not at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import duckdb
import pyarrow as pa

from bi_assets.contracts.contract import Contract
from bi_assets.history import touched, versions
from bi_assets.landing import drift, duplicates, offsets, quarantine
from bi_assets.landing.batch import Batch
from bi_assets.landing.debezium_json import decode_sql
from bi_assets.settings import Settings
from bi_assets.sql import one

SCHEMA = [
    "CREATE SEQUENCE IF NOT EXISTS meta.batch_ids",
    """CREATE TABLE IF NOT EXISTS meta.batches (
        batch_id BIGINT, landed_at TIMESTAMP, messages BIGINT, landed BIGINT, duplicates BIGINT,
        tombstones BIGINT, quarantined BIGINT, repeated_hour BIGINT, missing_hour BIGINT)""",
]


@dataclass(frozen=True)
class Landed:
    """What became of a batch.

    `counts`: messages, landed, duplicates, tombstones, quarantined, and wall times in a repeated or
    missing hour; `tables`: rows landed by source table.
    """

    batch_id: int
    counts: Mapping[str, int]
    tables: Mapping[str, int] = field(default_factory=dict)
    progress: offsets.Progress = field(default_factory=lambda: offsets.Progress(None, None))


def land(
    con: duckdb.DuckDBPyConnection,
    batch: Batch,
    contracts: Mapping[str, Contract],
    settings: Settings,
) -> Landed:
    """Land a batch and bring history up to date. Call it inside a transaction."""
    (batch_id,) = one(con, "SELECT nextval('meta.batch_ids')")
    con.execute("SET VARIABLE batch_id = $id", {"id": batch_id})
    con.execute("SET VARIABLE landed_at = $at::TIMESTAMP", {"at": batch.read_at})
    sources = {p.topic: p.source for p in batch.next_offsets}
    counts: Counter[str] = Counter()
    tables: dict[str, int] = {}
    offsets.restart(con, batch.restarts, batch.read_at)
    offsets.start_positions(con)
    for table, contract in contracts.items():
        topic = settings.topic(table)
        if topic not in batch.messages:
            continue
        messages = _not_landed(con, batch.messages[topic], topic, sources[topic])
        counts["messages"] += messages.num_rows
        counts["tombstones"] += messages.column("value").null_count
        counts["quarantined"] += _decode(con, contract, topic, messages, settings)
        counts += _count_odd_hours(con)
        drift.record(con, contract, messages)
        counts["duplicates"] += duplicates.stage(con, contract, topic, sources[topic])
        (rows,) = one(con, "SELECT coalesce(sum(n), 0)::BIGINT FROM stretches")
        if rows:
            tables[table] = rows
            offsets.note_positions(con, topic)
            versions.append(con, contract, settings.pseudonym_key, settings.business_timezone)
    touched.record(con, tables, contracts, batch_id)
    counts["landed"] = sum(tables.values())
    offsets.advance(con, batch)
    offsets.record_losses(con, batch.losses, batch.read_at)
    before = offsets.progress(con)
    progress = offsets.update_progress(con, batch, _heartbeat_time(con, batch, settings))
    if progress.as_of != before.as_of:
        touched.set_version(con, [touched.AS_OF], batch_id)
    con.execute(
        "INSERT INTO meta.batches BY NAME SELECT $batch_id AS batch_id, $at::TIMESTAMP AS landed_at, "
        + ", ".join(f"${name} AS {name}" for name in COUNTS),
        {"batch_id": batch_id, "at": batch.read_at, **{name: counts[name] for name in COUNTS}},
    )
    return Landed(batch_id, {name: counts[name] for name in COUNTS}, tables, progress)


COUNTS = (
    "messages",
    "landed",
    "duplicates",
    "tombstones",
    "quarantined",
    "repeated_hour",
    "missing_hour",
)


def _not_landed(
    con: duckdb.DuckDBPyConnection, messages: pa.Table, topic: str, source: tuple[str, str]
) -> pa.Table:
    """Return the messages at or after their partition's landed offset.

    All of them, but where another process has landed some since this one read them.
    """
    con.register("messages", messages)
    landed = """SELECT partition, next_offset FROM meta.offsets
      WHERE cluster_id = $cluster AND topic_id = $topic_id AND topic = $topic"""
    at = {"cluster": source[0], "topic_id": source[1], "topic": topic}
    (again,) = one(con, f"""
SELECT count(*) FROM messages m JOIN ({landed}) o ON m.partition = o.partition
WHERE m."offset" < o.next_offset""", at)  # fmt: skip
    if again:
        messages = con.sql(f"""
SELECT m.* FROM messages m LEFT JOIN ({landed}) o ON m.partition = o.partition
WHERE m."offset" >= coalesce(o.next_offset, 0) ORDER BY m.partition, m."offset"
""", params=at).to_arrow_table()  # fmt: skip
    con.unregister("messages")
    return messages


def _decode(
    con: duckdb.DuckDBPyConnection,
    contract: Contract,
    topic: str,
    messages: pa.Table,
    settings: Settings,
) -> int:
    """Make `decoded`; return how many messages went to quarantine.

    A message that the decoder itself chokes on is found by halving the batch: it is set aside,
    and everything around it lands.
    """
    sql = decode_sql(contract, topic, settings)
    sound = [messages]
    try:
        _decode_all(con, sql, messages)
    except duckdb.Error:
        sound, choking = _halve(con, sql, messages)
        _decode_all(con, sql, pa.concat_tables(sound) if sound else messages.slice(0, 0))
        quarantine.add_undecodable(con, contract, topic, pa.concat_tables(choking), settings)
        undecodable: int = sum(table.num_rows for table in choking)
        return undecodable + quarantine.add(con, contract, messages, settings)
    return quarantine.add(con, contract, messages, settings)


def _decode_all(con: duckdb.DuckDBPyConnection, sql: str, messages: pa.Table) -> None:
    con.register("messages", messages)
    try:
        con.execute(sql)
    finally:
        con.unregister("messages")


def _halve(
    con: duckdb.DuckDBPyConnection, sql: str, messages: pa.Table
) -> tuple[list[pa.Table], list[pa.Table]]:
    """Split messages into those that decode and those that don't, in as few tries as it takes."""
    try:
        _decode_all(con, sql, messages)
    except duckdb.Error:
        if messages.num_rows == 1:
            return [], [messages]
        middle = messages.num_rows // 2
        first = _halve(con, sql, messages.slice(0, middle))
        second = _halve(con, sql, messages.slice(middle))
        return first[0] + second[0], first[1] + second[1]
    return [messages], []


def _count_odd_hours(con: duckdb.DuckDBPyConnection) -> Counter[str]:
    repeated, missing = one(
        con,
        "SELECT coalesce(sum(_repeated_hour), 0), coalesce(sum(_missing_hour), 0) "
        "FROM decoded WHERE _cause IS NULL",
    )
    return Counter(repeated_hour=int(repeated), missing_hour=int(missing))


def _heartbeat_time(con: duckdb.DuckDBPyConnection, batch: Batch, settings: Settings) -> datetime | None:
    """Newest time (UTC) that the connector's heartbeats tell."""
    beats = batch.messages.get(settings.heartbeat_topic)
    if beats is None:
        return None
    con.register("messages", beats)
    newest: datetime | None
    (newest,) = one(
        con,
        """
SELECT make_timestamp(1000 * max(TRY_CAST(TRY_CAST(try(decode(CAST(value AS BLOB))) AS JSON)
  ->> 'ts_ms' AS BIGINT))) FROM messages""",
    )
    con.unregister("messages")
    return newest
