"""Row changes as the bytes that Debezium's MySQL connector 3.2 writes.

Schemaless JSON (`schemas.enable=false`), `decimal.handling.mode=string`, default
temporal modes: DATE is epoch days, DATETIME(3) epoch milliseconds as if the wall
time were UTC. Personal columns are left out, as `column.exclude.list` does.
"""

import json
import time
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from shop.schema import DATABASE, TABLES, Column

SERVER = "shop"
VERSION = "3.2.0.Final"
HEARTBEAT_TOPIC = f"__debezium-heartbeat.{SERVER}"

Row = Mapping[str, Any]
"""Column name -> plain value: int, str, float, Decimal, datetime, date or None."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1)
_MILLISECOND = timedelta(milliseconds=1)
_TEXT = frozenset({str, type(None)})
_COLUMNS = {
    table.name: [
        (column.name, _TEXT | {int} if column.is_integer else _TEXT, column) for column in table.public
    ]
    for table in TABLES.values()
}
"""Of each table: column, the types whose values JSON takes as they are."""

_THREAD = 11
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


class Message(NamedTuple):
    """One Kafka message: value None is a tombstone."""

    topic: str
    key: bytes
    value: bytes | None
    headers: list[tuple[str, str | bytes | None]]


def topic(table: str) -> str:
    """Return the topic of a source table: `shop.shop.orders`."""
    return f"{SERVER}.{DATABASE}.{table}"


def envelope(
    table: str,
    op: str,
    before: Row | None,
    after: Row | None,
    *,
    source_ts_ms: int,
    file: str,
    pos: int,
    row: int,
    snapshot: str = "false",
    server_id: int = 1,
    ts_ms: int | None = None,
    gtid: str | None = None,
) -> tuple[bytes, bytes]:
    """Return (key bytes, value bytes) of one change.

    `op` is c, u, d or r. Rows may hold fewer columns than the table, or more: a
    column that the schema does not know is written by its Python type. Times
    are epoch milliseconds; Debezium's `source_ts_ms` is a multiple of 1000
    unless GTIDs are on, which is the caller's to keep. `ts_ms`, the connector's
    clock, defaults to now. Snapshot rows get server id 0 and no thread, as
    Debezium has not met a binlog event by then. Raises KeyError if a key column
    is missing.
    """
    image = after if after is not None else before
    if image is None:
        raise ValueError(f"{table}: a change needs a before or an after image")
    clock_ns = time.time_ns() if ts_ms is None else ts_ms * 1_000_000
    streamed = snapshot in ("false", "incremental")
    # Assembled as text: the images are the only parts worth a JSON encoder's time.
    value = (
        f'{{"before":{_image(table, before)},"after":{_image(table, after)},"source":{{'
        f'"version":"{VERSION}","connector":"mysql","name":"{SERVER}","ts_ms":{source_ts_ms},'
        f'"snapshot":"{snapshot}","db":"{DATABASE}","sequence":null,'
        f'"ts_us":{source_ts_ms * 1_000},"ts_ns":{source_ts_ms * 1_000_000},'
        f'"table":"{table}","server_id":{server_id if streamed else 0},'
        f'"gtid":{"null" if gtid is None else _json(gtid)},"file":"{file}","pos":{pos},"row":{row},'
        f'"thread":{_THREAD if streamed else "null"},"query":null}},'
        f'"transaction":null,"op":"{op}","ts_ms":{clock_ns // 1_000_000},'
        f'"ts_us":{clock_ns // 1_000},"ts_ns":{clock_ns}}}'
    )
    return key(table, image), value.encode()


def key(table: str, image: Row) -> bytes:
    """Return the message key: the primary key's columns as JSON."""
    columns, names = TABLES[table].by_name, TABLES[table].key
    if names == ("id",) and type(image["id"]) is int:  # nearly always, and half as dear
        return b'{"id":%d}' % image["id"]
    return _json({name: _wire(columns[name], image[name]) for name in names}).encode()


def messages(
    table: str,
    op: str,
    before: Row | None,
    after: Row | None,
    *,
    source_ts_ms: int,
    file: str,
    pos: int,
    row: int,
    snapshot: str = "false",
) -> list[Message]:
    """Return all messages of one change, in the connector's order.

    A delete is followed by its tombstone; a changed primary key is a delete of
    the old key, its tombstone and a create of the new one, linked by headers.
    """
    where = topic(table)

    def one(op: str, before: Row | None, after: Row | None) -> tuple[bytes, bytes]:
        return envelope(
            table,
            op,
            before,
            after,
            source_ts_ms=source_ts_ms,
            file=file,
            pos=pos,
            row=row,
            snapshot=snapshot,
        )

    if op == "u" and before is not None and after is not None and _is_moved(table, before, after):
        old_key, new_key = key(table, before), key(table, after)
        return [
            Message(where, *one("d", before, None), [("__debezium.newkey", new_key)]),
            Message(where, old_key, None, []),
            Message(where, *one("c", None, after), [("__debezium.oldkey", old_key)]),
        ]
    sent = [Message(where, *one(op, before, after), [])]
    if op == "d":
        sent.append(Message(where, sent[0].key, None, []))
    return sent


def heartbeat(ts_ms: int) -> Message:
    """Return the connector's sign of life, saying that it has read up to `ts_ms`."""
    value = _json({"ts_ms": ts_ms}).encode()
    return Message(HEARTBEAT_TOPIC, _json({"serverName": SERVER}).encode(), value, [])


def _is_moved(table: str, before: Row, after: Row) -> bool:
    return any(before[name] != after[name] for name in TABLES[table].key)


def _image(table: str, row: Row | None) -> str:
    """Return a row's JSON image: the table's columns in their order, then unknown ones."""
    if row is None:
        return "null"
    image = {}
    for name, same_on_the_wire, column in _COLUMNS[table]:
        if name in row:
            value = row[name]
            image[name] = value if type(value) in same_on_the_wire else _wire(column, value)
    for name in sorted(row.keys() - TABLES[table].by_name.keys()):
        image[name] = _wire(None, row[name])
    return _json(image)


def _wire(column: Column | None, value: Any) -> Any:
    """Return a value as JSON holds it; a column of the schema decides on number or text."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return (aware - _EPOCH) // _MILLISECOND
    if isinstance(value, date):
        return (value - _EPOCH_DAY).days
    if isinstance(value, bool):
        return int(value)
    if column is not None and column.base_type == "double":
        return float(value)
    if column is not None and column.scale is not None:
        return f"{Decimal(value):.{column.scale}f}"
    return str(value) if isinstance(value, Decimal) else value
