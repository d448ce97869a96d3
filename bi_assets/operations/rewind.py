"""`pharmacy-bi rewind`: read a range of Kafka again, and replace what it left in the change logs.

For a column that was added to a contract, a contract or decoder that was mended, a log that `verify`
finds wrong. What Kafka no longer has stays as it landed; each batch is one transaction, and a rewind that
was cut off is begun again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import duckdb
import pyarrow.compute as pc

from bi_assets.contracts.contract import Contract
from bi_assets.errors import UserError
from bi_assets.landing.batch import Batch, Partition
from bi_assets.landing.offsets import landed_offsets
from bi_assets.landing.quarantine import SINCE
from bi_assets.landing.reland import reland_all
from bi_assets.landing.reread import Rereading
from bi_assets.operations.follow import follow
from bi_assets.operations.places import topic_of
from bi_assets.settings import Settings
from bi_assets.sql import quote
from bi_assets.warehouse import Warehouse

Told = Callable[[int, int], None]
"""Told after each batch: messages read so far, messages still to come."""


@dataclass
class Rewound:
    """What a rewind did.

    `begins`: where each partition was read from; `gone`: offsets from there on that Kafka no longer has,
    whose rows stay as they are. `replaced` rows say something else now, `landed` ones are new.
    """

    read: int = 0
    replaced: int = 0
    landed: int = 0
    released: int = 0
    quarantined: int = 0
    erased: int = 0
    begins: dict[str, int] = field(default_factory=dict)
    gone: dict[str, int] = field(default_factory=dict)
    refreshed: list[str] = field(default_factory=list)


def rewind(warehouse: Warehouse, to: str, progress: Told = lambda done, left: None) -> Rewound:
    """Read everything that has landed since `to` again: a time (UTC where it names no zone), or offsets.

    Offsets are `TABLE/PARTITION:OFFSET`, separated by commas, or JSON such as `_meta.offsets` has.

    Errors: `UserError` where `to` is neither, or the broker does not answer.
    """
    settings = warehouse.settings
    with warehouse.open(evolve=True) as con:
        landed = landed_offsets(con)
        starts = _starts(con, to, landed, warehouse.contracts, settings)
    rewound = Rewound(begins={_name(p): offset for p, offset in starts.items()})
    if starts:
        with Rereading(settings, starts, landed) as rereading:
            rewound.gone = {_name(p): n for p, n in rereading.gone.items() if n}
            for batch in rereading.batches():
                counts = _land_again(warehouse, batch)
                rewound.read += counts["messages"]
                rewound.replaced += counts["replaced"]
                rewound.landed += counts["landed"]
                rewound.released += counts["released"]
                rewound.quarantined += counts["quarantined"]
                rewound.erased += counts["erased"]
                progress(rewound.read, rereading.left)
    rewound.refreshed = follow(warehouse)
    return rewound


def _land_again(warehouse: Warehouse, batch: Batch) -> Counter[str]:
    partitions = {(p.topic, p.number): p for p in batch.next_offsets}
    messages = {}
    for topic, table in batch.messages.items():
        numbers = table.column("partition")
        for number in numbers.unique().to_pylist():
            part = table.filter(pc.equal(numbers, number))
            if part.num_rows:
                messages[partitions[topic, number]] = part
    with warehouse.open() as con:
        at = datetime.now(UTC).replace(tzinfo=None)
        return reland_all(con, messages, batch.links, warehouse.contracts, warehouse.settings, at).counts


def _name(partition: Partition) -> str:
    return f"{partition.topic}/{partition.number}"


def _starts(
    con: duckdb.DuckDBPyConnection,
    to: str,
    landed: Mapping[Partition, int],
    contracts: Mapping[str, Contract],
    settings: Settings,
) -> dict[Partition, int]:
    """Return the first offset to read again, of each partition that has any."""
    topics = {settings.topic(table): table for table in contracts}
    ours = {p: offset for p, offset in landed.items() if p.topic in topics}
    if (at := _time(to)) is not None:
        firsts = _first_offsets(con, at, topics)
    else:
        firsts = _offsets(to, settings)
        known = {(p.topic, p.number) for p in ours}
        for topic, number in firsts.keys() - known:
            raise UserError(f"Nothing has landed of {topic}/{number}; `pharmacy-bi status` lists the topics.")
    return {
        p: firsts[p.topic, p.number]
        for p, offset in ours.items()
        if firsts.get((p.topic, p.number), offset) < offset
    }


def _time(text: str) -> datetime | None:
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return at.astimezone(UTC).replace(tzinfo=None) if at.tzinfo else at


def _offsets(text: str, settings: Settings) -> dict[tuple[str, int], int]:
    wrong = UserError(
        f"--to {text!r} is neither a time such as 2026-05-01T12:00 nor offsets such as "
        "orders/0:1200,users/0:35."
    )
    try:
        pairs = json.loads(text).items() if text.lstrip().startswith("{") else [
            part.rsplit(":", 1) for part in text.split(",")
        ]  # fmt: skip
        found = {}
        for where, offset in pairs:
            topic, number = where.strip().rsplit("/", 1)
            found[topic_of(topic, settings), int(number)] = int(offset)
    except (ValueError, TypeError, AttributeError) as error:
        raise wrong from error
    if min(found.values(), default=0) < 0:
        raise UserError(f"--to {text!r} has an offset below 0; a partition begins at 0.")
    return found


def _first_offsets(
    con: duckdb.DuckDBPyConnection, at: datetime, topics: Mapping[str, str]
) -> dict[tuple[str, int], int]:
    """Return where each partition begins that has changes which were made at that time or later.

    Behind the last change before that time, or at the first one after it, whichever comes first: clocks
    differ, and a log may have lost rows.
    """
    rows = " UNION ALL ".join(
        [
            f"SELECT _topic AS topic, _partition AS partition, _offset, _source_ts AS made_at "
            f"FROM cdc.{quote(table)}"
            for table in topics.values()
        ]
        + [f'SELECT topic, partition, "offset", {SINCE} FROM cdc.quarantine']
    )
    found = con.execute(
        f"""
SELECT topic, partition, least(coalesce(max(_offset) FILTER (made_at < $at) + 1, 0),
  min(_offset) FILTER (made_at >= $at))
FROM (SELECT topic, partition FROM meta.offsets) LEFT JOIN ({rows}) USING (topic, partition) GROUP BY ALL""",
        {"at": at},
    ).fetchall()
    return {(topic, number): offset for topic, number, offset in found}
