"""The golden inputs in `tests/golden` as Debezium messages, with the rows they must give."""

import csv
import json
import zlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from shop.debezium import envelope
from shop.debezium import topic as topic_of
from tests.oracle import Message

GOLDEN = Path(__file__).parent / "golden"
PARTITIONS = 3
BINLOG = "binlog.000001"
_SNAPSHOT_POS = 4  # of every snapshot row; the stream comes after

Row = dict[str, Any]


@dataclass(frozen=True)
class Golden:
    """One golden: messages in arrival order, the rows of each expected*.csv, params.json.

    `expected` goes by file stem; numbers are Decimal, true/false are bool, an empty
    cell is None.
    """

    messages: list[Message]
    expected: dict[str, list[Row]]
    params: dict[str, Any]


class Feed:
    """Collects changes as messages: partitioned by key, offsets counted per partition."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._next_offset: dict[tuple[str, int], int] = defaultdict(int)
        self._next_pos = 1_000

    def change(
        self,
        table: str,
        op: str,
        before: Row | None,
        after: Row | None,
        at: datetime,
        *,
        pos: int | None = None,
    ) -> None:
        """Append one change at a source time (UTC), at the next position or at `pos`.

        A snapshot row ('r') takes the position that all snapshot rows share; a delete
        brings its tombstone.
        """
        if pos is None:
            pos = self._next_pos
            self._next_pos += 100
        key, value = envelope(
            table,
            op,
            before,
            after,
            source_ts_ms=int(at.timestamp()) * 1000,
            file=BINLOG,
            pos=_SNAPSHOT_POS if op == "r" else pos,
            row=0,
            snapshot="true" if op == "r" else "false",
        )
        self._append(table, key, value)
        if op == "d":
            self._append(table, key, None)

    def _append(self, table: str, key: bytes, value: bytes | None) -> None:
        topic, partition = topic_of(table), zlib.crc32(key) % PARTITIONS
        offset = self._next_offset[topic, partition]
        self._next_offset[topic, partition] += 1
        self.messages.append(Message(topic, partition, offset, key, value))


def load(name: str) -> Golden:
    """Load a golden by the number its folder begins with, such as '07a'.

    '12' is about one function and has no messages. Raises KeyError for a golden that
    is not here.
    """
    build = _BUILDERS[name]
    (folder,) = GOLDEN.glob(f"{name}_*")
    params = folder / "params.json"
    feed = Feed()
    build(folder, feed)
    return Golden(
        messages=feed.messages,
        expected={
            file.stem: [{c: _typed(v) for c, v in row.items()} for row in _read(file)]
            for file in sorted(folder.glob("expected*.csv"))
        },
        params=json.loads(params.read_text()) if params.exists() else {},
    )


def _read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def _typed(text: str) -> Decimal | bool | str | None:
    if text in ("true", "false"):
        return text == "true"
    try:
        return Decimal(text)
    except InvalidOperation:
        return text or None


def _time(text: str) -> datetime:
    """Read `2020-01-05T10:00:00Z` or epoch milliseconds."""
    if text.isdecimal():
        return datetime.fromtimestamp(int(text) / 1000, UTC)
    return datetime.fromisoformat(text)


def _columns(row: dict[str, str], *names: str) -> Row:
    """Return the named cells as a shop's row: ids are int, the others text or None."""
    cells: Row = {}
    for name in names:
        text = row[name]
        cells[name] = int(text) if text and name.endswith("id") and text.isdecimal() else text
    return {name: None if value == "" else value for name, value in cells.items()}


def _cdc(file: Path, table: str, read: Callable[[dict[str, str]], Row], feed: Feed) -> None:
    """Feed a file of changes as it arrives.

    `seq` is the place in the log: an update's before image is the state at the place
    before, whenever that arrives.
    """
    lines = _read(file)
    images: dict[str, Row] = {}
    befores: dict[str, Row | None] = {}
    for line in sorted(lines, key=lambda line: int(line["seq"])):
        if line["seq"] not in befores:
            befores[line["seq"]] = images.get(line["id"])
            images[line["id"]] = read(line)
    for line in lines:
        op = line["op"]
        feed.change(
            table,
            op,
            befores[line["seq"]] if op in "ud" else None,
            None if op == "d" else read(line),
            _time(line["source_ts_utc"]),
            pos=int(line["seq"]) * 100,
        )


def _effective_orders(folder: Path, feed: Feed) -> None:
    def user(line: dict[str, str]) -> Row:
        return _columns(line, "id", "practitioner_id", "clinic_id", "practitioner_discount")

    def order(line: dict[str, str]) -> Row:
        names = ("id", "user_id", "practitioner_id", "clinic_id", "transaction_id")
        amounts = ("amount_subtotal", "amount_total")
        return {**_columns(line, *names, *amounts), "date": _time(line["date_utc"])}

    _cdc(folder / "users_cdc.csv", "users", user, feed)
    _cdc(folder / "orders_cdc.csv", "orders", order, feed)


def _averages(folder: Path, feed: Feed) -> None:
    """Feed 07a or 07b: users created and updated as their history says, then orders."""
    known: dict[str, Row] = {}
    for line in _read(folder / "users_history.csv"):
        user = {
            "id": int(line["user_id"]),
            **_columns(line, "practitioner_discount"),
        }
        before = known.get(line["user_id"])
        at = _time(line.get("valid_from_ms") or line["valid_from_utc"])
        feed.change("users", "c" if before is None else "u", before, user, at)
        known[line["user_id"]] = user
    for line in _read(folder / "orders.csv"):
        at = _time(line.get("event_ts_ms") or line["date_utc"])
        order = {
            "id": int(line["order_id"]),
            **_columns(line, "user_id", "amount_total"),
            "date": at,
        }
        feed.change("orders", "c", None, order, at)


def _standard(folder: Path, feed: Feed) -> None:
    """Feed 07c, which gives states and discounts, as events that lead to them.

    A backfilled patient appears after their order. A refunded order's goods are its
    total without 10.00 of tax and shipping, as in the other lines; one item holds them.
    """
    before, ordered, after = (datetime(2020, month, 1, tzinfo=UTC) for month in (1, 2, 3))
    lines = _read(folder / "orders.csv")
    patients = {line["user_id"]: line for line in lines}
    for user_id, line in patients.items():
        created = after if line["discount_source"] == "backfill_first_known" else before
        user = {"id": int(user_id), "practitioner_discount": -Decimal(line["discount_pct"])}
        feed.change("users", "c", None, user, created)
    for line in lines:
        state = line["order_state"]
        total = Decimal(line["amount_total"])
        subtotal = total - 10 if state == "refunded" else Decimal(line["net_subtotal"])
        refund = subtotal - Decimal(line["net_subtotal"])
        order_id = int(line["order_id"])
        order = {
            "id": order_id,
            "user_id": int(line["user_id"]),
            "transaction_id": None if state == "unpaid" else f"T{order_id}",
            "date": ordered,
            "amount_total": total,
            "amount_subtotal": subtotal,
            "amount_refunded": refund,
            "cancelled_at": after if state == "cancelled" else None,
        }
        item = {
            "id": order_id,
            "order_id": order_id,
            "quantity": 1,
            "unit_price": subtotal,
            "refunded_quantity": int(state == "refunded"),
            "refunded_amount": refund,
        }
        feed.change("orders", "c", None, order, ordered)
        feed.change("order_items", "c", None, item, ordered)


def _no_messages(folder: Path, feed: Feed) -> None:
    """Feed nothing: the golden is about rounding alone."""


_BUILDERS: dict[str, Callable[[Path, Feed], None]] = {
    "00": _effective_orders,
    "07a": _averages,
    "07b": _averages,
    "07c": _standard,
    "12": _no_messages,
}
