"""`pharmacy-bi verify --shop`: what is known here beside the shop's own rows, read again by its connector.

The connector is asked by a message to read tables by primary key, in chunks, while changes go on: Debezium's
incremental snapshot, whose read-only form writes nothing into the shop. Its rows land like any others. One
that repeats what is known makes no version; so each version that one makes is a difference, and mends it. A
change of the shop that comes meanwhile is none: it is in Kafka before the row that shows it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import duckdb
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin._metadata import ClusterMetadata

from bi_assets.contracts.contract import Contract
from bi_assets.errors import UserError
from bi_assets.history.versions import OPEN_END
from bi_assets.landing.kafka_client import KafkaClient
from bi_assets.landing.message_fields import fields_of
from bi_assets.landing.schema_registry import registry
from bi_assets.micro_batch import Told, sync
from bi_assets.settings import Settings
from bi_assets.sql import literal, one, quote
from bi_assets.warehouse import Warehouse

_CHUNK_ROWS = 1024
"""Rows that the connector reads at a time (`incremental.snapshot.chunk.size`)."""
_ANSWER_SECONDS = 60.0
"""So long the connector may take to begin: where the binlog stands still, it looks up every 48 s."""
_SILENCE_SECONDS = 90.0
"""So long nothing may come once it has begun."""
_REST_SECONDS = 3.0
"""What is read last may reach Kafka after the word that all is read."""
_LONG_REST_SECONDS = 20.0
"""Without that word, rows that are new may follow the known ones when the connector looks up again."""
_REACH_SECONDS = 10.0
_GLANCE_SECONDS = 0.05
_LISTED = 100
"""Rows of one table that are listed, of each kind; the others are counted."""
_WHOLE = ("SUCCEEDED", "EMPTY")


@dataclass(frozen=True)
class Load:
    """What reading tables asks of the shop's database: `rows` by table, as far as they are known here."""

    rows: Mapping[str, int]

    @property
    def queries(self) -> int:
        """About how many: one for each chunk, and two for where each table ends."""
        return sum(-(-n // _CHUNK_ROWS) + 2 for n in self.rows.values())

    def __str__(self) -> str:
        """Say it in a sentence."""
        return (
            f"The connector will read {len(self.rows)} tables of the shop as a whole, "
            f"{sum(self.rows.values()):,} rows as far as they are known here: about {self.queries:,} queries "
            f"by primary key, of {_CHUNK_ROWS:,} rows at most. It locks nothing and writes nothing there."
        )


@dataclass(frozen=True)
class Difference:
    """A row that differs. `columns`: (what was known here, what the shop has), of those that differ.

    `kind` is `changed`, `missing` (the shop has it, and it was not known here) or `vanished` (the shop no
    longer has it).
    """

    table: str
    kind: str
    key: Mapping[str, Any]
    columns: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)

    def __str__(self) -> str:
        """Say it in a sentence."""
        where = f"{self.table}, " + ", ".join(f"{name} {value}" for name, value in self.key.items())
        if self.kind == "missing":
            return f"{where}: was missing here, and has landed now."
        if self.kind == "vanished":
            return f"{where}: is no longer at the shop."
        return f"{where}: " + "; ".join(
            f"{name} was {here}, is {there} at the shop" for name, (here, there) in self.columns.items()
        )


@dataclass
class Compared:
    """What was found: by table how many rows were `read` and how many differ, by kind.

    `rows` are those that differ, 100 of a table and kind at most; `not_compared` tells what is not known,
    in sentences.
    """

    load: Load
    tables: dict[str, dict[str, int]] = field(default_factory=dict)
    rows: list[Difference] = field(default_factory=list)
    not_compared: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Tell whether all that was compared is the same."""
        return not self.rows

    @property
    def differences(self) -> list[str]:
        """A sentence for each row that differs, and what to do about those that are not mended by that."""
        told = [str(row) for row in self.rows]
        for table, n in self.tables.items():
            told += [
                f"{table}: {n[kind] - _LISTED:,} rows more are {kind}."
                for kind in ("changed", "missing", "vanished")
                if n[kind] > _LISTED
            ]
            if n["vanished"]:
                told.append(
                    f"{table}: what vanished stays here until it is swept: have the connector take a new "
                    f"snapshot of the whole table, then run `pharmacy-bi sweep {table} --apply`."
                    if n["read"]
                    else f"{table} is empty at the shop; what vanished stays here, since `pharmacy-bi sweep` "
                    "needs a snapshot that has a row."
                )
        return told


def load_of(warehouse: Warehouse, tables: Collection[str] = ()) -> Load:
    """Return what it asks of the shop to compare `tables`: all that have a contract, if none is named.

    Errors: `UserError` for a table without one.
    """
    for table in tables:
        if table not in warehouse.contracts:
            raise UserError(f"There is no table {table!r}; there are {', '.join(warehouse.contracts)}.")
    with warehouse.open(evolve=True) as con:
        return Load(
            {t: one(con, f"SELECT count(*) FROM state.{quote(t)}")[0] for t in tables or warehouse.contracts}
        )


def compare(
    warehouse: Warehouse,
    load: Load,
    signal_topic: str | None = None,
    progress: Told = lambda done, left: None,
) -> Compared:
    """Have the connector read the tables of `load` again, land what comes, and tell what differed.

    What Kafka has lands first: it is no difference that it had not.

    Errors: `UserError` where there is no such topic, or the connector does not react within a minute.
    """
    settings = warehouse.settings
    topic = signal_topic or settings.signal_topic
    client = KafkaClient(settings)
    consumer = client.consumer()
    try:
        metadata = client.reach(consumer, _REACH_SECONDS)
        if topic not in metadata.topics:
            raise UserError(f"Kafka at {client.address} has no topic {topic} for signals. {_needed(topic)}")
        sync(warehouse, progress)
        with warehouse.open() as con:
            (since,) = one(con, "SELECT coalesce(max(batch_id), 0) FROM meta.batches")
        notifications = _Notifications(consumer, metadata, settings)
        snapshot = _Snapshot(warehouse, load.rows, since, topic, notifications)
        _signal(client, topic, snapshot.id, settings, load.rows)
        sync(warehouse, progress, until=snapshot.is_over)
    finally:
        consumer.close()
    found = Compared(load)
    if not snapshot.has_ended:
        found.not_compared.append(
            f"The connector has not told that it is done, and nothing came for {_SILENCE_SECONDS:.0f} s. "
            "What comes later lands, and is not told here; what vanished may be yet to come. "
            "notification.enabled.channels=sink and "
            f"notification.sink.topic.name={settings.notification_topic} make it tell."
        )
    with warehouse.open() as con:
        for table in load.rows:
            _compare(con, warehouse.contracts[table], snapshot, found)
    return found


def _needed(topic: str) -> str:
    return (
        f"Make the topic {topic} with one partition, and have the connector run with read.only=true, "
        f"signal.enabled.channels=kafka, signal.kafka.topic={topic} and signal.kafka.bootstrap.servers: "
        "docs/connect-your-shop.md, step 3."
    )


def _signal(
    client: KafkaClient, topic: str, identity: str, settings: Settings, tables: Collection[str]
) -> None:
    """Ask the connector. Errors: `UserError` where Kafka does not take the message."""
    database = settings.topic_prefix.rsplit(".", 1)[-1]
    signal = {
        "id": identity,
        "type": "execute-snapshot",
        "data": {"type": "INCREMENTAL", "data-collections": [f"{database}.{table}" for table in tables]},
    }
    client.send(topic, settings.connector.encode(), json.dumps(signal).encode(), _REACH_SECONDS)


class _Notifications:
    """What the connector tells of its snapshots from now on, where it does (Debezium's notifications)."""

    def __init__(self, consumer: Consumer, metadata: ClusterMetadata, settings: Settings) -> None:
        topic = metadata.topics.get(settings.notification_topic)
        parts = [TopicPartition(settings.notification_topic, n) for n in topic.partitions] if topic else []
        for part in parts:
            part.offset = consumer.get_watermark_offsets(part, _REACH_SECONDS)[1]
        consumer.assign(parts)
        self._consumer, self._registry = consumer, registry(settings)

    def read(self) -> list[dict[str, Any]]:
        """Return what has come since the last time."""
        found = []
        while (message := self._consumer.poll(_GLANCE_SECONDS)) is not None:
            if not message.error() and (value := message.value()):
                try:
                    found.append(fields_of(value, self._registry))
                except (ValueError, RecursionError):
                    continue  # of somebody else
        return found


class _Snapshot:
    """An incremental snapshot that was asked for: how far it is, as far as that can be known."""

    def __init__(
        self,
        warehouse: Warehouse,
        tables: Collection[str],
        since: int,
        topic: str,
        notifications: _Notifications,
    ) -> None:
        """`since`: the batch before it. `topic`: where it is asked for."""
        self.id = str(uuid4())
        self.since = since
        self.statuses: dict[str, str] = {}
        """What the connector told of the tables that it is done with."""
        self.has_ended = False
        """Whether it is known that all has been read."""
        self._warehouse, self._tables, self._topic = warehouse, tables, topic
        self._notifications = notifications
        self._read = 0
        self._asked_at = self._news_at = time.monotonic()
        self._has_begun = self._is_told = False

    def is_over(self) -> bool:
        """Tell whether nothing more is to come. Errors: `UserError` where the connector does not react."""
        now = time.monotonic()
        if self._hear() | self._count():
            self._has_begun, self._news_at = True, now
        if not self._has_begun:
            if now - self._asked_at > _ANSWER_SECONDS:
                raise UserError(
                    f"The connector {self._warehouse.settings.connector!r} does not react to a signal on "
                    f"{self._topic} within {_ANSWER_SECONDS:.0f} s. {_needed(self._topic)}"
                )
            return False
        rested = now - self._news_at
        if not self._is_told and rested > _LONG_REST_SECONDS:
            self.has_ended = self._is_all_here()
        return rested > (_REST_SECONDS if self.has_ended else _SILENCE_SECONDS)

    def _hear(self) -> bool:
        heard = [told for told in self._notifications.read() if told.get("id") == self.id]
        for told in heard:
            more = told.get("additional_data") or {}
            if told.get("type") == "TABLE_SCAN_COMPLETED":
                self.statuses[more["scanned_collection"].rsplit(".", 1)[-1]] = more["status"]
            self.has_ended |= told.get("type") == "COMPLETED"
        self._is_told |= bool(heard)
        return bool(heard)

    def _count(self) -> bool:
        before = self._read
        with self._warehouse.open() as con:
            self._read = sum(
                one(con, f"SELECT count(*) FROM {_snapshot_rows(table, self.since)}")[0]
                for table in self._tables
            )
        return self._read > before

    def _is_all_here(self) -> bool:
        """Tell whether each row that was known has come again or has changed; more may still come."""
        absent = [_vanished(self._warehouse.contracts[table], self.since) for table in self._tables]
        with self._warehouse.open() as con:
            return not any(one(con, f"SELECT count(*) FROM ({sql})")[0] for sql in absent)


def _snapshot_rows(table: str, since: int) -> str:
    """Return SQL, to be selected from, for the rows of incremental snapshots that landed after a batch."""
    return f"(FROM cdc.{quote(table)} WHERE _op = 'r' AND _snapshot = 'incremental' AND _batch_id > {since})"


def _vanished(contract: Contract, since: int) -> str:
    """Return SQL for the keys that were there before and are, and did not come again.

    One whose row is there and could not land is none.
    """
    key = ", ".join(map(quote, contract.key))
    token = ", ".join(f"CAST({quote(name)} AS VARCHAR)" for name in contract.key)
    return f"""
SELECT {key} FROM cdc.{quote(contract.table)}
WHERE _valid_to = {OPEN_END} AND _op <> 'd' AND _batch_id <= {since}
  AND ({key}) NOT IN (SELECT ({key}) FROM {_snapshot_rows(contract.table, since)})
  AND concat_ws(',', {token}) NOT IN (
    SELECT key_token FROM cdc.quarantine
    WHERE table_name = {literal(contract.table)} AND batch_id > {since} AND key_token IS NOT NULL)"""


def _compare(
    con: duckdb.DuckDBPyConnection, contract: Contract, snapshot: _Snapshot, found: Compared
) -> None:
    """Add what differs of a table, once its rows have landed."""
    table, since = contract.table, snapshot.since
    key = ", ".join(map(quote, contract.key))
    same_key = " AND ".join(f"p.{quote(name)} = r.{quote(name)}" for name in contract.key)
    read = _snapshot_rows(table, since)
    (n,) = one(con, f"SELECT count(DISTINCT ({key})) FROM {read}")
    counts = {"known": found.load.rows[table], "read": n, "changed": 0, "missing": 0, "vanished": 0}
    found.tables[table] = counts
    con.execute(f"""
CREATE OR REPLACE TEMP TABLE differing AS
SELECT p, r, CASE WHEN p._op IS NULL OR p._op = 'd' THEN 'missing' ELSE 'changed' END AS kind
FROM {read} r LEFT JOIN cdc.{quote(table)} p ON {same_key} AND p._version_no = r._version_no - 1
WHERE r._version_no IS NOT NULL""")
    counts.update(con.execute("SELECT kind, count(*) FROM differing GROUP BY kind").fetchall())
    for kind in ("changed", "missing"):
        listed = f"SELECT p, r FROM differing WHERE kind = '{kind}' ORDER BY r LIMIT {_LISTED}"
        for here, there in con.execute(listed).fetchall():
            columns = {
                name: (here[name], there[name])
                for name in contract.names
                if kind == "changed" and here[name] != there[name]
            }
            at = {name: there[name] for name in contract.key}
            found.rows.append(Difference(table, kind, at, columns))
    (refused,) = one(
        con,
        f"SELECT count(*) FROM cdc.quarantine WHERE table_name = {literal(table)} AND batch_id > {since}",
    )
    if refused:
        found.not_compared.append(
            f"{table}: {refused:,} messages that came meanwhile are in quarantine "
            "(`pharmacy-bi quarantine list`)."
        )
    status = snapshot.statuses.get(table)
    if status not in _WHOLE and (status or (not counts["read"] and counts["known"])):
        found.not_compared.append(
            f"{table} was not read as a whole (the connector "
            + (f"says {status}" if status else "sent no row of it")
            + "): is it empty there, not in table.include.list, or without a primary key?"
        )
        return
    vanished = _vanished(contract, since)
    (counts["vanished"],) = one(con, f"SELECT count(*) FROM ({vanished})")
    for row in con.execute(f"{vanished} ORDER BY ALL LIMIT {_LISTED}").fetchall():
        found.rows.append(Difference(table, "vanished", dict(zip(contract.key, row, strict=True))))
