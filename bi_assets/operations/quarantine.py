"""`pharmacy-bi quarantine`: what could not land, what it says, and another try.

A message is read from Kafka again, or taken from the payload that was kept of it under
BI_QUARANTINE_KEY. One that is in neither is lost, and is told as lost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa

from bi_assets.contracts.contract import Contract
from bi_assets.errors import UserError
from bi_assets.landing import rekeyed
from bi_assets.landing.batch import Partition
from bi_assets.landing.message_fields import fields_of
from bi_assets.landing.reland import reland_all
from bi_assets.landing.reread import read_places
from bi_assets.landing.schema_registry import RegistryAwayError, registry
from bi_assets.landing.sealed import OtherKey, unseal
from bi_assets.operations.follow import follow
from bi_assets.operations.places import place
from bi_assets.settings import Settings
from bi_assets.warehouse import Warehouse

_AT_ONCE = 20_000
_TOLD_SOURCE = ("ts_ms", "snapshot", "server_id", "gtid", "file", "pos", "row")
_TOLD_ENVELOPE = ("op", "ts_ms")
Row = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A message in quarantine: where it is, and what is kept of it."""

    partition: Partition
    offset: int
    table: str
    key_token: str | None
    cause: str
    what_to_do: str
    kafka_time: datetime | None
    quarantined_at: datetime
    payload: bytes | None = field(repr=False)

    @property
    def place(self) -> tuple[str, int, int]:
        """Topic, partition, offset."""
        return self.partition.topic, self.partition.number, self.offset

    def __str__(self) -> str:
        return "{}/{}/{}".format(*self.place)


@dataclass
class Replayed:
    """What a replay did. `lost` are the places of messages that are no longer to be had, and why."""

    read: int = 0
    landed: int = 0
    released: int = 0
    erased: int = 0
    still_quarantined: int = 0
    lost: dict[str, str] = field(default_factory=dict)
    refreshed: list[str] = field(default_factory=list)


def entries(con: duckdb.DuckDBPyConnection, which: str = "true") -> list[Entry]:
    """Return the messages in quarantine, in the order of Kafka."""
    rows = con.execute(f"""
SELECT coalesce(q.cluster_id, o.cluster_id, ''), coalesce(q.topic_id, o.topic_id, q.topic), q.topic,
  q.partition, q."offset", table_name, key_token, cause, what_to_do, kafka_time, quarantined_at, payload
FROM cdc.quarantine q LEFT JOIN (
  -- Entries from before the source was kept are of the topic that there is.
  SELECT topic, partition, any_value(cluster_id) AS cluster_id, any_value(topic_id) AS topic_id
  FROM meta.offsets GROUP BY ALL HAVING count(*) = 1) o USING (topic, partition)
WHERE {which} ORDER BY q.topic, q.partition, q."offset\"""").fetchall()
    return [
        Entry(Partition(cluster, topic_id if topic_id != topic else None, topic, number), *rest)
        for cluster, topic_id, topic, number, *rest in rows
    ]


def show(warehouse: Warehouse, where: str) -> dict[str, Any]:
    """Return what is known of a message in quarantine, and the message itself as far as it may be shown.

    Of its row, the columns that the contract excludes, pseudonyms, and what no contract names are masked.

    Errors: `UserError` where there is no such message, or the broker does not answer.
    """
    settings = warehouse.settings
    topic, number, offset = place(where, settings)
    with warehouse.open(evolve=True) as con:
        found = [e for e in entries(con) if e.place == (topic, number, offset)]
    if not found:
        raise UserError(f"{where} is not in quarantine; `pharmacy-bi quarantine list` shows what is.")
    entry = found[-1]
    messages, _, lost = messages_of([entry], settings)
    told: dict[str, Any] = {
        "place": str(entry),
        "table": entry.table,
        "key": entry.key_token,
        "kafka_time": entry.kafka_time,
        "quarantined_at": entry.quarantined_at,
        "cause": entry.cause,
        "what_to_do": entry.what_to_do,
        "payload": "kept, encrypted" if entry.payload else "not kept; read from Kafka",
    }
    if lost:
        return {**told, "lost": lost[str(entry)], "message": None}
    (message,) = messages.values()
    return {
        **told,
        "lost": None,
        "message": _masked(
            message.column("value")[0].as_py(), warehouse.contracts[entry.table], warehouse.settings
        ),
    }


def replay(warehouse: Warehouse, where: Sequence[str] = ()) -> Replayed:
    """Try to land the messages in quarantine again, all of them or those at these places.

    What lands leaves quarantine, and the marts follow. To do it twice changes nothing.

    Errors: `UserError` where a place is not in quarantine, or the broker does not answer.
    """
    settings = warehouse.settings
    with warehouse.open(evolve=True) as con:
        chosen = [e for e in entries(con) if e.table in warehouse.contracts]
    if where:
        places = {place(text, settings): text for text in where}
        chosen = [e for e in chosen if e.place in places]
        if missing := set(places) - {e.place for e in chosen}:
            raise UserError(f"{places[missing.pop()]} is not in quarantine.")
    replayed = Replayed()
    for first in range(0, len(chosen), _AT_ONCE):
        messages, links, lost = messages_of(chosen[first : first + _AT_ONCE], settings)
        replayed.lost |= lost
        if not messages:
            continue
        with warehouse.open() as con:
            at = datetime.now(UTC).replace(tzinfo=None)
            done = reland_all(con, messages, links, warehouse.contracts, settings, at).counts
        replayed.read += done["messages"]
        replayed.landed += done["landed"]
        replayed.released += done["released"]
        replayed.erased += done["erased"]
        replayed.still_quarantined += done["quarantined"]
    replayed.refreshed = follow(warehouse)
    return replayed


def messages_of(
    wanted: Sequence[Entry], settings: Settings
) -> tuple[dict[Partition, pa.Table], dict[str, list[rekeyed.Link]], dict[str, str]]:
    """Return the messages of these entries, the links of changed keys by topic, why the others are lost.

    A payload that was kept has no link: it is of the message without its headers.
    """
    kept: defaultdict[Partition, list[pa.Table]] = defaultdict(list)
    unkept: list[Entry] = []
    reasons: dict[str, str] = {}
    for entry in wanted:
        if entry.payload and settings.quarantine_key:
            try:
                message = unseal(entry.payload, entry.place, settings.quarantine_key)
                kept[entry.partition].append(message)
                continue
            except OtherKey:
                reasons[str(entry)] = "its payload was kept under another BI_QUARANTINE_KEY"
        elif entry.payload:
            reasons[str(entry)] = "its payload was kept: set BI_QUARANTINE_KEY as it was then"
        unkept.append(entry)
    offsets: defaultdict[Partition, list[int]] = defaultdict(list)
    for entry in unkept:
        offsets[entry.partition].append(entry.offset)
    reread, links = read_places(settings, offsets) if offsets else ({}, {})
    lost: dict[str, str] = {}
    there = {p: set(table.column("offset").to_pylist()) for p, table in reread.items()}
    for entry in unkept:
        if entry.offset not in there.get(entry.partition, ()):
            why = reasons.get(str(entry))
            lost[str(entry)] = "Kafka no longer has it" + (f", and {why}" if why else "")
    found = {
        partition: pa.concat_tables([*kept.get(partition, ()), *filter(None, [reread.get(partition)])])
        for partition in {**kept, **reread}
    }
    return {p: table.sort_by("offset") for p, table in found.items() if table.num_rows}, links, lost


def images(value: bytes | None, settings: Settings) -> list[Row] | None:
    """Return the row before and after, as far as a message has them; None where it can't be read."""
    envelope = _envelope(value, settings)
    if envelope is None:
        return None
    if _is_flat(envelope):
        return [envelope]
    return [row for name in ("before", "after") if isinstance(row := envelope.get(name), dict)]


def _envelope(value: bytes | None, settings: Settings) -> Row | None:
    """Return a message's envelope, or its row where it comes flattened; None where it can't be read."""
    try:
        return fields_of(value or b"", registry(settings))
    except (ValueError, RecursionError, RegistryAwayError):
        return None


def _is_flat(envelope: Row) -> bool:
    return not {"before", "after", "op"} & envelope.keys()


def _masked(value: bytes | None, contract: Contract, settings: Settings) -> Any:
    """Return of a message what may be shown."""
    envelope = _envelope(value, settings)
    if envelope is None:
        return (
            f"no record that can be read: {len(value or b'')} bytes, which can't be masked and are not shown"
        )
    if _is_flat(envelope):
        return _masked_row(envelope, contract)
    shown: Row = {name: envelope[name] for name in _TOLD_ENVELOPE if name in envelope}
    for image in ("before", "after"):
        if image in envelope:
            shown[image] = _masked_row(envelope[image], contract)
    if isinstance(source := envelope.get("source"), dict):
        shown["source"] = {name: source[name] for name in _TOLD_SOURCE if name in source}
    return shown


def _masked_row(row: Any, contract: Contract) -> Any:
    if not isinstance(row, dict):
        return None if row is None else "(not an object)"
    privacy = {column.name: column.privacy for column in contract.columns}
    shown: Row = {}
    for name, value in row.items():
        if name in contract.excluded:
            shown[name] = "(excluded)"
        elif name not in privacy:
            shown[name] = "(not in the contract)"
        elif privacy[name] == "pseudonym":
            shown[name] = "(pseudonym)"
        else:
            shown[name] = value
    return shown
