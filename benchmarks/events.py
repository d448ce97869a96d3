"""The benchmarks' events: a pharmacy's orders, and its patients' changing discounts.

They are made by DuckDB a range at a time, as the bytes that `shop.debezium.envelope` would write.
An order's bytes follow from its number, so that any number of them takes no memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb
import pyarrow as pa

from bi_assets.landing.batch import MESSAGE_SCHEMA, Batch, Partition
from shop.debezium import VERSION

ORDERS, USERS = "orders", "users"
TABLES = (ORDERS, USERS)
PARTITIONS = 4
ORDER_EVERY_MS = 30_000
"""2,880 orders a day, however many days there are."""
_POSITIONS = 400
"""Bytes of binlog from one event to the next."""
_BINLOG_BYTES = 1_000_000_000
"""A binlog file is full at that size, and the next one begins."""


def position(place: int) -> tuple[str, int]:
    """Return binlog file and position of the event at this place in the order of all events."""
    file, offset = divmod(place * _POSITIONS, _BINLOG_BYTES)
    return f"binlog.{1 + file:06d}", 4 + offset


Truth = dict[float, tuple[int, int]]
"""Discount -> orders, and the sum of their amounts in cents."""


@dataclass(frozen=True)
class History:
    """What has happened at the shop until `end`.

    All `patients` register before the first order; their later changes of discount are spread evenly
    among the orders. `changes` counts both. Times are whole half minutes before `end`, so that no
    discount changes in the second of an order.
    """

    orders: int
    changes: int
    patients: int
    end: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    @property
    def events(self) -> int:
        """Messages in all."""
        return self.orders + self.changes

    @property
    def next_place(self) -> int:
        """Place of whatever happens next, in the order of all events."""
        return self.patients + 2 * self.orders

    @property
    def start_ms(self) -> int:
        """Epoch milliseconds of the first order."""
        return int(self.end.timestamp() * 1000) // 1000 * 1000 - self.orders * ORDER_EVERY_MS


class Events:
    """Makes a history's events, and knows what they come to."""

    def __init__(self, history: History) -> None:
        self.history = history
        self._con = duckdb.connect()
        self._con.execute("SET TimeZone = 'UTC'")
        self._con.execute("SET threads = 2")
        for macro in _MACROS:
            self._con.execute(macro)
        self._con.execute(
            _CHANGES,
            {
                "patients": history.patients,
                "later": history.changes - history.patients,
                "orders": history.orders,
                "start_ms": history.start_ms,
            },
        )

    def between(self, first: int, last: int) -> pa.Table:
        """Return the events from order `first` to before order `last`, in the order of the binlog.

        Columns: `name` (of the table), `key`, `value`, `ts_ms`. What came before the first order
        comes with it.
        """
        history = self.history
        return self._con.sql(
            """
            SELECT name, key, value, ts_ms FROM (
              SELECT 'orders' AS name, place, ts_ms, key_of(id) AS key,
                envelope('null', image(o, 'null'), 'orders', 'c', ts_ms, place) AS value
              FROM new_orders(range($first, $last), $start_ms, $patients) o
              UNION ALL
              SELECT 'users', place, ts_ms, key_of(id), envelope(
                CASE WHEN before IS NULL THEN 'null' ELSE patient(id, before, $start_ms) END,
                patient(id, discount, $start_ms), 'users', op, ts_ms, place)
              FROM changes WHERE place >= $first_place AND place < $last_place)
            ORDER BY place""",
            params={
                "first": first,
                "last": last,
                "start_ms": history.start_ms,
                "patients": history.patients,
                "first_place": 0 if first == 0 else self._place(first),
                "last_place": self._place(last),
            },
        ).to_arrow_table()

    def after(
        self, first: int, orders: int, corrected: Sequence[int] = (), patient: int | None = None
    ) -> pa.Table:
        """Return what happens from order `first` on, which follows on the history.

        So many new orders, and in between, these older ones are cancelled, and a patient's discount
        becomes 20 %. Columns as of `between`.
        """
        return self._con.sql(
            f"""
            SELECT name, key, value, ts_ms FROM (
              SELECT 'orders' AS name, place, ts_ms, key_of(id) AS key,
                envelope('null', image(o, 'null'), 'orders', 'c', ts_ms, place) AS value
              FROM new_orders(range($first, $first + $orders), $start_ms, $patients) o
              UNION ALL
              SELECT 'orders', c.place, c.ts_ms, key_of(o.id),
                envelope(image(o, 'null'), image(o, c.ts_ms), 'orders', 'u', c.ts_ms, c.place)
              FROM new_orders($corrected::BIGINT[], $start_ms, $patients) o
              JOIN (SELECT UNNEST($corrected::BIGINT[]) AS id, UNNEST(range(len($corrected::BIGINT[]))) AS n,
                $patients::BIGINT + 2 * ($first + n) + 1 AS place,
                $start_ms + ($first::BIGINT + n) * {ORDER_EVERY_MS} + {ORDER_EVERY_MS // 2} AS ts_ms) c
                ON c.id = o.id
              UNION ALL
              SELECT 'users', place, ts_ms, key_of(id), envelope(patient(id, discount, $start_ms),
                patient(id, -20.0::DOUBLE, $start_ms), 'users', 'u', ts_ms, place)
              FROM (SELECT id, arg_max(discount, c.place) AS discount,
                  $patients::BIGINT + 2 * ($first + $orders) - 1 AS place,
                  $start_ms + ($first::BIGINT + $orders - 1) * {ORDER_EVERY_MS}
                    + {ORDER_EVERY_MS // 2} AS ts_ms
                FROM changes c WHERE id = $patient GROUP BY id))
            ORDER BY place""",
            params={
                "first": first,
                "orders": orders,
                "corrected": list(corrected),
                "patient": patient,
                "start_ms": self.history.start_ms,
                "patients": self.history.patients,
            },
        ).to_arrow_table()

    def _place(self, order: int) -> int:
        return self.history.patients + 2 * order

    def chunks(self, orders: int) -> Iterator[pa.Table]:
        """Yield all events, so many orders at a time."""
        for first in range(0, self.history.orders, orders):
            yield self.between(first, min(first + orders, self.history.orders))

    def truth(self) -> Truth:
        """Return what the orders come to, by the discount that was in force when they were made."""
        rows = self._con.execute(
            """
            SELECT c.discount, count(*), CAST(sum(o.cents) AS BIGINT)
            FROM new_orders(range($orders), $start_ms, $patients) o
            ASOF JOIN changes c ON o.user_id = c.id AND o.at_ms >= c.ts_ms
            GROUP BY c.discount""",
            {
                "orders": self.history.orders,
                "start_ms": self.history.start_ms,
                "patients": self.history.patients,
            },
        ).fetchall()
        return {discount: (orders, cents) for discount, orders, cents in rows}


_MACROS = [
    # A number below n that looks random and follows from `seed`.
    "CREATE MACRO any_of(n, seed) AS CAST(hash(seed) % n AS BIGINT)",
    f"""
CREATE MACRO envelope(before_image, after_image, name, op, ms, place) AS encode(concat(
  '{{"before":', before_image, ',"after":', after_image,
  ',"source":{{"version":"{VERSION}","connector":"mysql","name":"shop","ts_ms":', ms,
  ',"snapshot":"false","db":"shop","sequence":null,"ts_us":', ms, '000,"ts_ns":', ms,
  '000000,"table":"', name, '","server_id":1,"gtid":null,"file":"binlog.',
  lpad(CAST(1 + place * {_POSITIONS} // {_BINLOG_BYTES} AS VARCHAR), 6, '0'),
  '","pos":', 4 + place * {_POSITIONS} % {_BINLOG_BYTES},
  ',"row":0,"thread":11,"query":null}},"transaction":null,"op":"', op,
  '","ts_ms":', ms + 137, ',"ts_us":', ms + 137, '042,"ts_ns":', ms + 137, '042691}}'))""",
    """
CREATE MACRO key_of(id) AS encode(concat('{"id":', id, '}'))""",
    """
CREATE MACRO patient(id, discount, start_ms) AS concat(
  '{"id":', id, ',"practitioner_id":', id % 12, ',"clinic_id":1,"practitioner_discount":', discount,
  ',"register_date":', start_ms - 3600000, '}')""",
    # What an order comes to depends on who made it, and when. The rest is carried along.
    f"""
CREATE MACRO new_orders(numbers, start_ms, patients) AS TABLE
  SELECT number AS id, any_of(patients, number) AS user_id,
    start_ms + number * {ORDER_EVERY_MS} + any_of(1000, number + 0.1) AS at_ms,
    start_ms + number * {ORDER_EVERY_MS} AS ts_ms, 2000 + any_of(30000, number + 0.2) AS cents,
    patients + 2 * number AS place
  FROM (SELECT UNNEST(numbers) AS number)""",
    # The columns that `avg_order_value_by_discount` comes from.
    """
CREATE MACRO image(o, cancelled_at) AS concat(
  '{"id":', o.id, ',"user_id":', o.user_id, ',"transaction_id":"T', o.id, '","date":', o.at_ms,
  ',"amount_total":"', CAST(o.cents / 100 AS DECIMAL(12, 2)), '","amount_subtotal":"',
  CAST(o.cents * 4 // 5 / 100 AS DECIMAL(12, 2)), '","voucher_code":null,"cancelled_at":',
  cancelled_at, '}')""",
]
_CHANGES = f"""
CREATE TABLE changes AS
SELECT id, op, place, ts_ms, discount, lag(discount) OVER (PARTITION BY id ORDER BY place) AS before
FROM (
  SELECT id, 'c' AS op, id AS place, $start_ms - 3600000 AS ts_ms,
    CAST(CASE id % 8 WHEN 0 THEN 0 ELSE -3 - id % 8 END AS DOUBLE) AS discount
  FROM range($patients) p(id)
  UNION ALL
  SELECT any_of($patients, number + 0.3), 'u', $patients + 2 * after_order + 1,
    $start_ms + after_order * {ORDER_EVERY_MS} + {ORDER_EVERY_MS // 2},
    CAST(CASE any_of(12, number + 0.5) WHEN 0 THEN 0 ELSE -3 - any_of(12, number + 0.5) END AS DOUBLE)
  FROM (SELECT number, number * $orders // $later AS after_order FROM range($later) c(number)))"""


class Batches:
    """Hands events over as Kafka would: as batches whose offsets go on from one to the next."""

    def __init__(self, prefix: str = "shop.shop") -> None:
        self._partitions = {
            name: [Partition("bench", None, f"{prefix}.{name}", n) for n in range(PARTITIONS)]
            for name in TABLES
        }
        self._next = {p: 0 for partitions in self._partitions.values() for p in partitions}
        self._con = duckdb.connect()

    def batch(self, events: pa.Table) -> Batch:
        """Return a batch of these events (`name`, `key`, `value`, `ts_ms`), in their order."""
        messages = {}
        self._con.register("events", events)
        for name, partitions in self._partitions.items():
            start = [self._next[p] for p in partitions]
            table = self._con.sql(
                f"""
                SELECT part, list_extract($start::BIGINT[], part + 1) + row_number()
                    OVER (PARTITION BY part ORDER BY ord) - 1 AS place, ts_ms, key, value
                FROM (SELECT *, CAST(hash(key) % {PARTITIONS} AS INTEGER) AS part, row_number() OVER () AS ord
                      FROM events WHERE name = $name)
                ORDER BY part, place""",
                params={"name": name, "start": start},
            ).to_arrow_table()
            if table.num_rows == 0:
                continue
            table = table.rename_columns(MESSAGE_SCHEMA.names).cast(MESSAGE_SCHEMA)
            messages[partitions[0].topic] = table
            newest = table.group_by("partition").aggregate([("offset", "max")]).to_pylist()
            for row in newest:
                self._next[partitions[row["partition"]]] = row["offset_max"] + 1
        self._con.unregister("events")
        ends: Mapping[Partition, int] = dict(self._next)
        return Batch(messages, ends, ends, datetime.now(UTC).replace(tzinfo=None))
