"""Histories of the shop as Debezium may tell them, made up: everything that real ones do, at once.

A `World` is many small independent histories (patients with their orders and items) whose changes
share one binlog and one set of Kafka partitions. It is a pure function of a few integers, so that
Hypothesis can shrink it: to a world where one history has a few actions and the others none.
"""

from __future__ import annotations

import itertools
import json
import random
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from shop.debezium import envelope, topic
from tests.oracle import Message

Row = dict[str, Any]
TABLES = ("users", "orders", "order_items")
PARTITIONS = 3
HISTORIES = 30
_DISCOUNTS = (None, 0.0, -0.0, -5.0, -5.0, -7.5, -12.25, -100.0)
_AMOUNTS = ("0.00", "19.99", "100.00", "100.01", "250.50", "1234.56")
_FUTURE_MS = int(datetime(2099, 1, 1, tzinfo=UTC).timestamp()) * 1000
_START = datetime(2024, 3, 30, 20, tzinfo=UTC)


@dataclass(frozen=True)
class World:
    """`sizes` has the number of actions of each history; the rest follows from `seed`."""

    seed: int
    sizes: tuple[int, ...]

    @property
    def n_histories(self) -> int:
        """Histories that do anything."""
        return sum(size > 0 for size in self.sizes)

    def messages(self) -> list[Message]:
        """Return what Kafka holds, in the order in which it was produced."""
        return _Connector(self).run()


def worlds(*, histories: int = HISTORIES, actions: int = 24) -> st.SearchStrategy[World]:
    """Worlds of up to so many histories of up to so many actions."""
    sizes = st.tuples(*[st.integers(0, actions)] * histories)
    return st.builds(World, st.integers(0, 2**32 - 1), sizes)


def interleaved(messages: Sequence[Message], rng: random.Random) -> list[Message]:
    """Shuffle messages, but keep the order of each partition."""
    waiting: dict[tuple[str, int], list[Message]] = defaultdict(list)
    for message in reversed(messages):
        waiting[message.topic, message.partition].append(message)
    shuffled = []
    while waiting:
        # runs, as a consumer fetches them: one partition for a while, then another
        where = rng.choice(list(waiting))
        for _ in range(rng.choice([1, 2, 10, 100])):
            shuffled.append(waiting[where].pop())
            if not waiting[where]:
                del waiting[where]
                break
    return shuffled


def split(messages: Sequence[Message], rng: random.Random, pieces: int) -> list[list[Message]]:
    """Cut messages into batches; some may be empty."""
    cuts = sorted(rng.randint(0, len(messages)) for _ in range(pieces - 1))
    bounds = [0, *cuts, len(messages)]
    return [list(messages[a:b]) for a, b in itertools.pairwise(bounds)]


@dataclass
class _Change:
    table: str
    op: str
    before: Row | None
    after: Row | None
    place: dict[str, Any]
    headers: tuple[tuple[str, bytes], ...] = ()


class _Connector:
    """Merges the histories into one binlog, and sends it to Kafka as a connector with faults would."""

    def __init__(self, world: World) -> None:
        self._rng = random.Random(f"{world.seed}/connector")
        self._histories = [
            _history(random.Random(f"{world.seed}/{number}"), 100 * number, size)
            for number, size in enumerate(world.sizes)
            if size
        ]
        self._now = _START
        self._server, self._file, self._pos, self._row = 1, 1, 1_000, 0
        self._base = "binlog"
        self._snapshots = self._rng.random() < 0.7
        # Where servers change, what a truncate deletes depends on what had landed.
        self._truncates = self._rng.random() < 0.3
        self._sent: list[_Change] = []
        self._state: dict[str, dict[int, Row]] = {table: {} for table in TABLES}
        self._messages: list[Message] = []
        self._offsets: dict[tuple[str, int], int] = defaultdict(int)

    def run(self) -> list[Message]:
        steps = {
            self._rotate: 0.03,
            self._fail_over: 0 if self._truncates else 0.01,
            self._restart: 0.03,
            self._snapshot_again: 0.01 if self._snapshots else 0,
        }
        unborn = self._snapshot if self._snapshots and self._rng.random() < 0.7 else None
        alive = list(self._histories)
        history = self._rng.choice(alive) if alive else None
        while alive:
            for step, chance in steps.items():
                if self._rng.random() < chance:
                    step()
            self._tick()
            if history not in alive or self._rng.random() < 0.3:
                history = self._rng.choice(alive)
            assert history
            try:
                act = next(history)
            except StopIteration:
                alive.remove(history)
                continue
            if self._truncates and self._rng.random() < 0.01:
                self._truncate(silent=unborn is not None)
                self._tick()
            for table, op, before, after in act(self._state, self._now):
                self._apply(table, op, before, after, silent=unborn is not None)
            if unborn and self._rng.random() < 0.05:
                unborn()  # what the shop had before the connector came
                unborn = None
        if unborn:
            unborn()
        return self._messages

    def _truncate(self, *, silent: bool) -> None:
        table = self._rng.choice(TABLES)
        self._state[table].clear()
        if not silent:
            place = self._place()
            # One from the future that is sent twice is of the time of the one that lands first.
            place["source_ts_ms"] = min(place["source_ts_ms"], int(self._now.timestamp() * 1000))
            self._send(_Change(table, "t", None, None, place))
            self._row += 1

    def _tick(self) -> None:
        # mostly within a second or two: ties are what goes wrong
        seconds = self._rng.choice([0, 0, 0, 0.4, 1, 1, 2, 3600, 86_400])
        self._now += timedelta(seconds=seconds)
        if self._rng.random() < 0.7:  # else a further row of the same event
            self._pos += self._rng.randint(1, 400)
            self._row = 0
        else:
            self._row += 1

    def _apply(self, table: str, op: str, before: Row | None, after: Row | None, *, silent: bool) -> None:
        if before is not None:
            self._state[table].pop(before["id"], None)
        if after is not None:
            self._state[table][after["id"]] = after
        if silent:
            return
        place = self._place()
        if before and after and before["id"] != after["id"]:  # Debezium makes two changes of it
            old, new = ({"id": row["id"]} for row in (before, after))
            newkey, oldkey = (json.dumps(key, separators=(",", ":")).encode() for key in (new, old))
            self._send(_Change(table, "d", before, None, place, (("__debezium.newkey", newkey),)))
            self._send(_Change(table, "c", None, after, place, (("__debezium.oldkey", oldkey),)))
        else:
            self._send(_Change(table, op, before, after, place))
        self._row += 1

    def _place(self) -> dict[str, Any]:
        return {
            "source_ts_ms": self._clock(),
            "file": f"{self._base}.{self._file:06d}",
            "pos": self._pos,
            "row": self._row,
            "server_id": self._server,
        }

    def _clock(self) -> int:
        """Source time: whole seconds; after a failover the other server's, a little behind; or nonsense."""
        if self._rng.random() < 0.01:
            return _FUTURE_MS
        behind = 3 if self._server > 1 else 0
        return (int(self._now.timestamp()) - behind) * 1000

    def _send(self, change: _Change) -> None:
        if change.op == "t":
            _, value = envelope(change.table, "d", {"id": 0}, None, **change.place, ts_ms=0)
            value = value.replace(b'"before":{"id":0}', b'"before":null').replace(b'"op":"d"', b'"op":"t"')
            self._produce(change.table, None, value)
        else:
            key, value = envelope(
                change.table, change.op, change.before, change.after, **change.place, ts_ms=0
            )
            self._produce(change.table, key, value, change.headers)
            if change.op == "d" and self._rng.random() < 0.9:  # a crash may lose the tombstone
                self._produce(change.table, key, None)
        if change.op != "r":
            self._sent.append(change)

    def _produce(
        self,
        table: str,
        key: bytes | None,
        value: bytes | None,
        headers: tuple[tuple[str, bytes], ...] = (),
    ) -> None:
        name = topic(table)
        number = self._rng.randrange(PARTITIONS) if key is None else zlib.crc32(key) % PARTITIONS
        offset = self._offsets[name, number]
        sent_ms = int(self._now.timestamp() * 1000)
        self._messages.append(Message(name, number, offset, key, value, sent_ms, headers))
        # the markers of a transaction take offsets too
        self._offsets[name, number] += self._rng.choice([1, 1, 1, 1, 1, 1, 1, 1, 1, 2])

    def _rotate(self) -> None:
        """A new binlog file: `pos` begins anew, and the number gets a digit more now and then."""
        self._file += self._rng.choice([1, 1, 9, 999_990])
        self._pos, self._row = 4, 0

    def _fail_over(self) -> None:
        """Another server: its positions can't be compared with those before."""
        self._server += 1
        self._base = self._rng.choice([self._base, "binlog", "mysql-bin"])
        self._file, self._pos, self._row = self._rng.randint(1, 3), self._rng.randint(4, 2_000), 0

    def _restart(self) -> None:
        """Debezium restarts from an older position and sends what came since once more."""
        again = self._rng.choice([1, 2, 5, 20])
        of_server = [c for c in self._sent[-again:] if c.place["server_id"] == self._server]
        del self._sent[len(self._sent) - len(of_server) :]
        for change in of_server:
            self._send(change)

    def _snapshot(self) -> None:
        """Every row as it is now. All share the position, and name no server."""
        self._pos, self._row = self._pos + 1, 0  # the end of the binlog
        for table, rows in self._state.items():
            for row in list(rows.values()):
                place = {
                    "source_ts_ms": self._clock(),
                    "file": f"{self._base}.{self._file:06d}",
                    "pos": self._pos,
                    "row": 0,
                    "snapshot": "true",
                }
                self._send(_Change(table, "r", None, row, place))

    def _snapshot_again(self) -> None:
        """A second snapshot, as after `when_needed`, or an incremental one of a part of the rows."""
        if self._rng.random() < 0.5:
            self._snapshot()
            return
        self._pos, self._row = self._pos + 1, 0
        for table, rows in self._state.items():
            for row in [r for r in rows.values() if self._rng.random() < 0.3]:
                place = {
                    "source_ts_ms": self._clock(),
                    "file": f"{self._base}.{self._file:06d}",
                    "pos": self._pos,
                    "row": 0,
                    "snapshot": "incremental",
                    "server_id": self._server,
                }
                self._send(_Change(table, "r", None, row, place))


State = dict[str, dict[int, Row]]
Step = tuple[str, str, Row | None, Row | None]
"""Table, op, row before, row after."""
Action = Callable[[State, datetime], list[Step]]


def _history(rng: random.Random, first_id: int, size: int) -> Iterator[Action]:
    """Yield what happens to two patients, their orders and items."""
    actions = _Actions(rng, first_id)
    for _ in range(size):
        yield rng.choices([act for act, _ in actions.weighted], [weight for _, weight in actions.weighted])[0]


class _Actions:
    """What may happen in a history, on what there is of it now; nothing where there is nothing."""

    def __init__(self, rng: random.Random, first_id: int) -> None:
        self._rng = rng
        self._ids = range(first_id + 1, first_id + 4)
        self.weighted: list[tuple[Action, int]] = [
            (self.register, 4),
            (self.change_patient, 6),
            (self.delete_patient, 1),
            (self.order, 6),
            (self.correct_order, 4),
            (self.cancel_order, 1),
            (self.delete_order, 1),
            (self.rekey, 1),
            (self.refund, 2),
            (self.item, 2),
        ]

    def _new(self, state: State, table: str) -> int | None:
        free = [i for i in self._ids if i not in state[table]]
        return self._rng.choice(free) if free else None

    def _any(self, state: State, table: str) -> Row | None:
        rows = [state[table][i] for i in self._ids if i in state[table]]
        return self._rng.choice(rows) if rows else None

    def register(self, state: State, now: datetime) -> list[Step]:
        if (patient := self._new(state, "users")) is None:
            return []
        row = {
            "id": patient,
            "practitioner_id": self._rng.randint(1, 2),
            "clinic_id": 1,
            "practitioner_discount": self._rng.choice(_DISCOUNTS),
            "register_date": now,
        }
        return [("users", "c", None, row)]

    def change_patient(self, state: State, now: datetime) -> list[Step]:
        if (row := self._any(state, "users")) is None:
            return []
        after = {**row, "practitioner_discount": self._rng.choice(_DISCOUNTS)}
        if self._rng.random() < 0.2:
            after["practitioner_id"] = self._rng.randint(1, 3)
        return [("users", "u", row if self._rng.random() < 0.9 else None, after)]

    def delete_patient(self, state: State, now: datetime) -> list[Step]:
        row = self._any(state, "users")
        return [("users", "d", row, None)] if row else []

    def order(self, state: State, now: datetime) -> list[Step]:
        if (order := self._new(state, "orders")) is None:
            return []
        subtotal = Decimal(self._rng.choice(_AMOUNTS))
        row = {
            "id": order,
            "user_id": self._rng.choice(self._ids),
            "practitioner_id": 1,
            "clinic_id": 1,
            "transaction_id": self._rng.choice([None, "T", "T"]),
            "date": now + timedelta(seconds=self._rng.choice([0, 0, 0, 0.3, -1, -86_400, 7_200])),
            "amount_total": None if self._rng.random() < 0.05 else subtotal + Decimal("7.50"),
            "amount_subtotal": None if self._rng.random() < 0.05 else subtotal,
            "amount_refunded": Decimal(0),
            "cancelled_at": None,
        }
        return [("orders", "c", None, row)]

    def _change_order(self, state: State, **columns: object) -> list[Step]:
        row = self._any(state, "orders")
        return [("orders", "u", row, {**row, **columns})] if row else []

    def correct_order(self, state: State, now: datetime) -> list[Step]:
        which = self._rng.randint(0, 3)
        if which == 0:  # on another day, under another discount
            return self._change_order(state, date=now - timedelta(hours=self._rng.randint(0, 80)))
        if which == 1:
            return self._change_order(state, user_id=self._rng.choice(self._ids))
        if which == 2:
            return self._change_order(state, transaction_id="T")
        return self._change_order(state, amount_total=Decimal(self._rng.choice(_AMOUNTS)))

    def cancel_order(self, state: State, now: datetime) -> list[Step]:
        return self._change_order(state, cancelled_at=now)

    def delete_order(self, state: State, now: datetime) -> list[Step]:
        row = self._any(state, "orders")
        return [("orders", "d", row, None)] if row else []

    def rekey(self, state: State, now: datetime) -> list[Step]:
        table = self._rng.choice(TABLES)
        row, key = self._any(state, table), self._new(state, table)
        return [(table, "u", row, {**row, "id": key})] if row and key is not None else []

    def refund(self, state: State, now: datetime) -> list[Step]:
        if self._rng.random() < 0.5:
            return self._change_order(state, amount_refunded=Decimal(self._rng.choice(_AMOUNTS)))
        row = self._any(state, "order_items")
        if row is None:
            return []
        after = {**row, "refunded_amount": Decimal(self._rng.choice(_AMOUNTS))}
        return [("order_items", "u", row, after)]

    def item(self, state: State, now: datetime) -> list[Step]:
        row = self._any(state, "order_items")
        if row and self._rng.random() < 0.3:
            return [("order_items", "d", row, None)]
        if row and self._rng.random() < 0.3:  # an item that was booked on the wrong order
            return [("order_items", "u", row, {**row, "order_id": self._rng.choice(self._ids)})]
        if (item := self._new(state, "order_items")) is None:
            return []
        return [("order_items", "c", None, {
            "id": item,
            "order_id": self._rng.choice(self._ids),
            "product_id": 1,
            "quantity": 2,
            "unit_price": Decimal("50.00"),
            "refunded_quantity": 0,
            "refunded_amount": Decimal(0),
        })]  # fmt: skip
