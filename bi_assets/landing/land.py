"""Land a batch: decode, quarantine, de-duplicate, append; then history, touched days, offsets.

Everything here happens inside the caller's transaction: a batch is there with its offsets and its
history, or not at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from bi_assets.contracts.contract import Contract
from bi_assets.history import touched, versions
from bi_assets.landing import (
    clocks,
    drift,
    duplicates,
    erasure,
    forms,
    offsets,
    quarantine,
    rekeyed,
    sweep,
    transactions,
    truncates,
)
from bi_assets.landing.batch import LATEST_MS, Batch
from bi_assets.landing.debezium_json import TRUNCATED, decode_sql
from bi_assets.settings import Settings
from bi_assets.sql import ENVIRONMENT, literal, one

SCHEMA = [
    "CREATE SEQUENCE IF NOT EXISTS meta.batch_ids",
    """CREATE TABLE IF NOT EXISTS meta.batches (
        batch_id BIGINT, landed_at TIMESTAMP, messages BIGINT, landed BIGINT, duplicates BIGINT,
        tombstones BIGINT, quarantined BIGINT, repeated_hour BIGINT, missing_hour BIGINT)""",
    "ALTER TABLE meta.batches ADD COLUMN IF NOT EXISTS truncates BIGINT DEFAULT 0",
    "ALTER TABLE meta.batches ADD COLUMN IF NOT EXISTS truncated BIGINT DEFAULT 0",
    "ALTER TABLE meta.batches ADD COLUMN IF NOT EXISTS erased BIGINT",
]


@dataclass(frozen=True)
class Landed:
    """What became of a batch.

    `counts`: messages, landed, duplicates, tombstones, quarantined, wall times in a repeated or missing
    hour, truncates, the deletes that these made, and what belongs to an erased patient; `tables`: rows
    landed by source table, the deletes of truncates included.
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
    begun = begin(con, batch.read_at)
    batch_id = begun.batch_id
    counts: Counter[str] = Counter()
    tables: dict[str, int] = {}
    kept_out: list[str] = []
    offsets.restart(con, batch.restarts, batch.read_at)
    landed = offsets.landed_offsets(con)
    offsets.start_positions(con)
    newest: list[clocks.Sent] = []
    for table, contract in contracts.items():
        topic = settings.topic(table)
        if topic not in batch.messages:
            continue
        partitions = [p for p in batch.next_offsets if p.topic == topic]
        starts = {p.number: landed.get(p, 0) for p in partitions}
        messages = _not_landed(batch.messages[topic], starts)
        counts["messages"] += messages.num_rows
        counts["tombstones"] += messages.column("value").null_count
        found, sent = decode(
            con, contract, topic, partitions[0].source, messages, batch.links.get(topic, ()), settings,
            contracts, begun,
        )  # fmt: skip
        counts.update(found)
        newest += sent
        if topic in batch.choking:
            choking = _not_landed(batch.choking[topic], starts)
            quarantine.add_undecodable(con, contract, topic, choking, partitions[0].source, settings)
            erased = erasure.keep_out_of_quarantine(con, contract, settings) if begun.is_anyone_erased else 0
            counts.update(messages=choking.num_rows, quarantined=choking.num_rows - erased, erased=erased)
        if found["erased"]:
            kept_out.append(table)
        staged = duplicates.stage(con, contract, topic, partitions[0].source)
        counts["duplicates"] += staged.duplicates
        if staged.rows:
            tables[table] = staged.rows
            offsets.note_positions(con, topic, has_snapshot=staged.has_snapshot)
            if staged.has_snapshot:
                sweep.note_runs(con, contract)
            versions.append(con, contract, settings.pseudonym_key, settings.business_timezone)
    touched.record(con, tables, contracts, batch_id)
    if kept_out:
        touched.record(con, erasure.take_back(con, kept_out, contracts), contracts, batch_id)
    if counts["quarantined"]:
        touched.record_quarantined(
            con, contracts, batch_id, quarantine.entries_sql("batch_id = getvariable('batch_id')")
        )
    counts["landed"] = sum(tables.values()) - counts["truncated"]
    offsets.advance(con, batch)
    offsets.record_losses(con, batch.losses, batch.read_at)
    before, progress = offsets.update_progress(
        con,
        batch,
        _heartbeat_time(con, batch, settings),
        max(newest, key=lambda sent: sent.at, default=None),
        transactions.record(con, batch, contracts.keys(), settings)
        if transactions.is_in_use(batch, settings)
        else None,
    )
    if progress.as_of != before.as_of:
        touched.set_version(con, [touched.AS_OF], batch_id)
    con.execute(
        "INSERT INTO meta.batches BY NAME SELECT $batch_id AS batch_id, $at::TIMESTAMP AS landed_at, "
        + ", ".join(f"${name} AS {name}" for name in COUNTS),
        {"batch_id": batch_id, "at": batch.read_at, **{name: counts[name] for name in COUNTS}},
    )
    return Landed(batch_id, {name: counts[name] for name in COUNTS}, tables, progress)


FAULTS_OF_A_MESSAGE = (duckdb.Error, ValueError, OverflowError)
"""What the decoder may raise; but for `ENVIRONMENT`, which is to be looked at first."""
COUNTS = (
    "messages",
    "landed",
    "duplicates",
    "tombstones",
    "quarantined",
    "repeated_hour",
    "missing_hour",
    "truncates",
    "truncated",
    "erased",
)


def _not_landed(messages: pa.Table, landed: Mapping[int, int]) -> pa.Table:
    """Return the messages at or after their partition's landed offset.

    All of them, but where another process has landed some since this one read them.
    """
    firsts = messages.group_by("partition").aggregate([("offset", "min")]).to_pylist()
    behind = {row["partition"] for row in firsts if row["offset_min"] < landed[row["partition"]]}
    for number in behind:
        is_there = pc.and_(
            pc.equal(messages.column("partition"), number),
            pc.less(messages.column("offset"), landed[number]),
        )
        messages = messages.filter(pc.invert(is_there))
    return messages


class Begun(NamedTuple):
    """A batch that has its number, and what is out of the ordinary: see `erasure`, `truncates`."""

    batch_id: int
    is_anyone_erased: bool
    truncated: frozenset[str]


def begin(con: duckdb.DuckDBPyConnection, at: datetime) -> Begun:
    """Give the batch its number and time (naive UTC)."""
    batch_id, is_anyone_erased, truncated = one(
        con,
        f"SELECT nextval('meta.batch_ids'), getvariable('{erasure.MARK}'), "
        "(SELECT list(DISTINCT table_name) FROM meta.truncates)",
    )
    con.execute(
        f"SET VARIABLE batch_id = {batch_id}; SET VARIABLE landed_at = TIMESTAMP '{at.isoformat(sep=' ')}'"
    )
    return Begun(batch_id, bool(is_anyone_erased), frozenset(truncated or ()))


def decode(
    con: duckdb.DuckDBPyConnection,
    contract: Contract,
    topic: str,
    source: tuple[str, str],
    messages: pa.Table,
    links: Sequence[rekeyed.Link],
    settings: Settings,
    contracts: Mapping[str, Contract],
    begun: Begun,
    *,
    is_again: bool = False,
) -> tuple[Counter[str], list[clocks.Sent]]:
    """Make `decoded`; count what went to quarantine, the truncates, and the odd hours of the others.

    Returns the newest change as well, where Kafka tells when it was sent.

    `source` is (cluster id, topic id or name); `links` are those of
    changed keys. What drifts and what is from the future is noted once: not where a message `is_again` read.
    """
    sql = decode_sql(contract, topic, settings)
    undecodable = 0
    by_form = forms.sort(con, contract, messages)
    envelopes = by_form.envelopes
    con.register("messages", envelopes)
    con.execute(sql)
    con.unregister("messages")
    if contract.schema_changes == "quarantine":
        drift.refuse(con, contract, envelopes)
    deletes = 0
    if by_form.others:
        added = forms.add(con, contract, topic, by_form.others, settings)
        undecodable += _set_aside(con, contract, topic, source, settings, added)
        if added.rows and not is_again:
            drift.note(con, contract, added.rows, added.fields)
    if envelopes.num_rows and not is_again:
        drift.record(con, contract, envelopes)
    if envelopes.column("value").null_count:
        tombstones = envelopes.filter(pc.is_null(envelopes.column("value")))
        added = forms.add_deletes(con, contract, topic, tombstones, settings)
        undecodable += _set_aside(con, contract, topic, source, settings, added)
        deletes = added.deletes
    erased = erasure.keep_out(con, contract, contracts, settings) if begun.is_anyone_erased else 0
    faulty, repeated, missing, truncated, future, sent_ms, made_at = one(con, f"""
SELECT count(_cause), coalesce(sum(_repeated_hour) FILTER (_cause IS NULL), 0)::BIGINT,
  coalesce(sum(_missing_hour) FILTER (_cause IS NULL), 0)::BIGINT,
  count(*) FILTER (_cause = {literal(TRUNCATED)}), count(*) FILTER ({clocks.IS_FUTURE}),
  max(timestamp_ms), arg_max(_source_ts, timestamp_ms)
FROM decoded""")  # fmt: skip
    if future and not is_again:
        clocks.note(con)
    if future:
        clocks.correct(con)
    if truncated:
        truncates.take(con, contract)
        faulty -= truncated
    if faulty:
        quarantine.add(con, contract, messages, source, settings)
    if links:
        rekeyed.record(con, contract, links, settings.pseudonym_key)
    counts = Counter(
        quarantined=undecodable + faulty, tombstones=-deletes, repeated_hour=repeated, missing_hour=missing,
        truncates=truncated, erased=erased,
    )  # fmt: skip
    if truncated or contract.table in begun.truncated:
        counts["truncated"] = truncates.close(con, contract)
    if begun.is_anyone_erased and counts["quarantined"]:
        unreadable = erasure.keep_out_of_quarantine(con, contract, settings)
        counts["erased"] += unreadable
        counts["quarantined"] -= unreadable
    return counts, [clocks.Sent.of(sent_ms, made_at)] if sent_ms and made_at else []


def _set_aside(
    con: duckdb.DuckDBPyConnection,
    contract: Contract,
    topic: str,
    source: tuple[str, str],
    settings: Settings,
    added: forms.Added,
) -> int:
    """Set aside what a form refused; return how many messages that were."""
    for refused, cause in added.refused:
        quarantine.add_undecodable(con, contract, topic, refused, source, settings, cause)
    return sum(refused.num_rows for refused, _ in added.refused)


def choking_apart(
    con: duckdb.DuckDBPyConnection, batch: Batch, contracts: Mapping[str, Contract], settings: Settings
) -> Batch | None:
    """Return the batch with the messages that the decoder itself fails on apart; None where there are none.

    They are found by halving, so that everything around them lands. Call it outside a transaction,
    which an error ends. Errors of the machine (a full disk) are raised, as no message is at fault.
    """
    messages, choking = dict(batch.messages), {}
    for table, contract in contracts.items():
        topic = settings.topic(table)
        if topic in messages:
            found = messages[topic]
            source = next(p.source for p in batch.next_offsets if p.topic == topic)
            sound, bad = _halve(con, contract, topic, source, found, contracts, settings)
            if bad:
                messages[topic] = pa.concat_tables([found.slice(0, 0), *sound])
                choking[topic] = pa.concat_tables(bad)
    return replace(batch, messages=messages, choking=choking) if choking else None


def _halve(
    con: duckdb.DuckDBPyConnection,
    contract: Contract,
    topic: str,
    source: tuple[str, str],
    messages: pa.Table,
    contracts: Mapping[str, Contract],
    settings: Settings,
) -> tuple[list[pa.Table], list[pa.Table]]:
    """Split messages into those that decode and those that don't, in as few tries as it takes."""
    con.begin()
    try:
        begun = begin(con, datetime.now(UTC).replace(tzinfo=None))
        decode(con, contract, topic, source, messages, (), settings, contracts, begun)
    except ENVIRONMENT:
        raise
    except FAULTS_OF_A_MESSAGE:
        if messages.num_rows == 1:
            return [], [messages]
    else:
        return [messages], []
    finally:
        con.rollback()
    middle = messages.num_rows // 2
    halves = messages.slice(0, middle), messages.slice(middle)
    (first, bad), (second, also_bad) = (
        _halve(con, contract, topic, source, half, contracts, settings) for half in halves
    )
    return first + second, bad + also_bad


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
SELECT make_timestamp(1000 * max(ms)) FROM (
  SELECT TRY_CAST(coalesce(beat ->> '$.ts_ms', beat ->> '$.payload.ts_ms') AS BIGINT) AS ms
  FROM (SELECT TRY_CAST(try(decode(CAST(value AS BLOB))) AS JSON) AS beat FROM messages)
  UNION ALL SELECT $ms) WHERE ms BETWEEN 1 AND $latest""",
        {"ms": forms.heartbeat_ms(beats, settings), "latest": LATEST_MS},
    )
    con.unregister("messages")
    return newest
