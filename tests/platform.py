"""The platform in memory: a warehouse without files, and batches made from messages.

Everything but Kafka and the disk is the real thing. Messages are the oracle's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import pyarrow as pa

from bi_assets.contracts.contract import Contract, load_contracts
from bi_assets.landing.batch import MESSAGE_SCHEMA, Batch, Loss, Partition
from bi_assets.landing.land import Landed, land
from bi_assets.refresh.mart import Mart, load_marts
from bi_assets.refresh.refresh import Refreshed, refresh
from bi_assets.settings import Settings
from bi_assets.sql import transaction
from bi_assets.warehouse import Warehouse
from shop.broker import EmbeddedBroker
from tests import oracle
from tests.oracle import Message

Row = dict[str, Any]
Tables = dict[str, list[tuple[Any, ...]]]

CLUSTER = "cluster"
READ_AT = datetime(2030, 1, 1, tzinfo=UTC).replace(tzinfo=None)
"""The wall clock of a batch: later than anything that the shop does in a test."""
TOLERANCE = 1e-6
"""Statistics are floats, and compared with this; everything else exactly."""


@cache
def contracts(*tables: str) -> Mapping[str, Contract]:
    """Return the contracts of these source tables, of all without names."""
    found, faults = load_contracts()
    assert not faults
    return {name: found[name] for name in tables or found}


@cache
def marts() -> Mapping[str, Mart]:
    """Return the marts of the repository."""
    found, faults = load_marts()
    assert not faults
    return found


def partition(topic: str, number: int, *, cluster: str = CLUSTER) -> Partition:
    """Return a partition of a broker that gives topics no ids."""
    return Partition(cluster, None, topic, number)


def ends_of(messages: Iterable[Message], *, cluster: str = CLUSTER) -> dict[Partition, int]:
    """Return where the partitions of these messages end."""
    ends: dict[Partition, int] = {}
    for message in messages:
        where = partition(message.topic, message.partition, cluster=cluster)
        ends[where] = max(ends.get(where, 0), message.offset + 1)
    return ends


def produce(broker: EmbeddedBroker, messages: Iterable[Message], *, prefix: str = "shop.shop") -> None:
    """Send messages with their headers and times, to topics of this prefix; wait until they are there."""
    for message in messages:
        broker.produce(
            message.topic.replace("shop.shop", prefix),
            message.key,
            message.value,
            partition=message.partition,
            headers=list(message.headers),
            timestamp_ms=message.timestamp_ms,
        )
    broker.flush()


class Platform:
    """A warehouse in memory. Use it as a context manager, or `close` it."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        tables: Sequence[str] = (),
        marts_of: Mapping[str, Mart] | None = None,
        contracts_of: Mapping[str, Contract] | None = None,
        file: Path | None = None,
    ) -> None:
        self.settings = settings or Settings(data_dir=Path("unused"))
        self.contracts = contracts(*tables) if contracts_of is None else contracts_of
        self.marts = marts() if marts_of is None else marts_of
        self.con = duckdb.connect(str(file or ":memory:"), config={"threads": 1})
        self.warehouse = Warehouse(self.settings, self.contracts, self.marts)
        self.warehouse.prepare(self.con)
        self._next: dict[Partition, int] = {}

    def __enter__(self) -> Platform:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the memory."""
        self.con.close()

    def batch(
        self,
        messages: Sequence[Message],
        *,
        ends: Mapping[Partition, int] | None = None,
        cluster: str = CLUSTER,
        read_at: datetime = READ_AT,
        losses: Sequence[Loss] = (),
    ) -> Batch:
        """Return a batch that goes on where the ones before it ended.

        `ends` are the end offsets that the broker tells, by default those of what has been read.
        """
        rows: dict[str, list[Message]] = {}
        for message in messages:
            rows.setdefault(message.topic, []).append(message)
        reached = {**self._next}
        for where, end in ends_of(messages, cluster=cluster).items():
            reached[where] = max(reached.get(where, 0), end)
        reached = {p: n for p, n in reached.items() if p.cluster_id == cluster}
        known = reached if ends is None else ends
        return Batch(
            messages={topic: _table(found) for topic, found in rows.items()},
            next_offsets={p: reached.get(p, 0) for p in {**known, **reached}},
            end_offsets=dict(known),
            read_at=read_at,
            losses=losses,
            links={topic: links for topic, found in rows.items() if (links := _links(found))},
        )

    def land(
        self,
        messages: Sequence[Message],
        *,
        ends: Mapping[Partition, int] | None = None,
        cluster: str = CLUSTER,
        read_at: datetime = READ_AT,
        losses: Sequence[Loss] = (),
    ) -> Landed:
        """Land messages as one batch, in a transaction; see `batch`."""
        batch = self.batch(messages, ends=ends, cluster=cluster, read_at=read_at, losses=losses)
        with transaction(self.con):
            landed = land(self.con, batch, self.contracts, self.settings)
        self._next.update(batch.next_offsets)
        return landed

    def refresh(self, *, scheduled: bool = True) -> list[Refreshed]:
        """Compute what has been touched."""
        return refresh(self.con, self.marts, scheduled=scheduled)

    def rows(self, relation: str) -> list[Row]:
        """Return all rows of a table or query, as column -> value."""
        return _fetched(self.con, relation)

    def value(self, sql: str) -> Any:
        """Return the only value that a query gives."""
        ((value,),) = self.con.execute(sql).fetchall()
        return value

    def tables(self, schema: str = "marts") -> Tables:
        """Return the sorted rows of each table of a schema: equal contents, equal results."""
        names = self.con.execute(
            "SELECT table_name FROM duckdb_tables() WHERE schema_name = ? ORDER BY ALL", [schema]
        ).fetchall()
        return {name: self.con.execute(f"FROM {schema}.{name} ORDER BY ALL").fetchall() for (name,) in names}


def assert_as_the_oracle(
    platform: Platform, messages: Sequence[Message], **zones: str
) -> dict[str, list[Row]]:
    """Compare the marts with the model in plain Python; return what the model says."""
    expected = oracle.marts(messages, **zones)  # type: ignore[arg-type]
    for name, rows in expected.items():
        assert_rows(platform.rows(f"marts.{name}"), rows, marts()[name].grain, name)
    return expected


def published(settings: Settings) -> dict[str, list[Row]]:
    """Open the published file as an analyst does; return the rows of each of its tables, sorted."""
    with duckdb.connect(str(settings.published_file), read_only=True) as con:
        return {name: _fetched(con, f"{name} ORDER BY ALL") for name in ("_meta", *marts())}


def assert_published_as_the_oracle(
    settings: Settings, messages: Sequence[Message], **zones: str
) -> dict[str, list[Row]]:
    """Compare the published file with the model, whose money has no more than two places."""
    found = published(settings)
    for name, rows in oracle.marts(messages, **zones).items():  # type: ignore[arg-type]
        assert_rows(found[name], rows, marts()[name].grain, name)
    return found


def assert_rows(found: Sequence[Row], expected: Sequence[Row], grain: Sequence[str], name: str = "") -> None:
    """Compare the columns that `expected` has: floats by `TOLERANCE`, the others exactly."""
    got, wanted = _by(found, grain), _by(expected, grain)
    assert set(got) == set(wanted), f"{name}: other rows"
    different = [
        (name, dict(zip(grain, key, strict=True)), column, got[key][column], value)
        for key, row in wanted.items()
        for column, value in row.items()
        if not _equal(got[key][column], value)
    ]
    assert not different, f"table, row, column, found, expected: {different[:10]}"


def _fetched(con: duckdb.DuckDBPyConnection, relation: str) -> list[Row]:
    cursor = con.execute(f"FROM {relation}")
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _by(rows: Sequence[Row], grain: Sequence[str]) -> dict[tuple[Any, ...], Row]:
    index = {tuple(row[column] for column in grain): row for row in rows}
    assert len(index) == len(rows), f"more than one row per {', '.join(grain)}"
    return index


def _equal(found: object, expected: object) -> bool:
    if isinstance(found, float) and expected is not None:
        return abs(found - float(str(expected))) <= TOLERANCE
    return found == expected


def _links(messages: Sequence[Message]) -> list[tuple[int, int, bytes]]:
    return [(m.partition, m.offset, key) for m in messages for _, key in m.headers]


def _table(messages: Sequence[Message]) -> pa.Table:
    columns = (
        [m.partition for m in messages],
        [m.offset for m in messages],
        [m.timestamp_ms for m in messages],
        [m.key for m in messages],
        [m.value for m in messages],
    )
    return pa.table(
        [pa.array(c, f.type) for c, f in zip(columns, MESSAGE_SCHEMA, strict=True)],
        schema=MESSAGE_SCHEMA,
    )
