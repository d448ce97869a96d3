"""`make bench`: what it costs to turn change events into published marts.

The same events go through the platform (landing, history, marts, publication) and through the
loop that one writes first: `json.loads` each message, INSERT each row, join at the end. Both start
from bytes in memory, so that no broker's speed is in the figures. The loop keeps no history, checks
nothing and knows no duplicates; it gets a tenth of the events, since it would take minutes.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from random import Random

import duckdb
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from bi_assets.landing.batch import MESSAGE_SCHEMA, Batch, Partition
from bi_assets.landing.land import land
from bi_assets.outputs.publish import publish
from bi_assets.platform import warehouse
from bi_assets.refresh.refresh import refresh
from bi_assets.settings import Settings
from bi_assets.sql import transaction
from shop.debezium import envelope

ORDERS, PATIENTS, DISCOUNT_EVERY = 200_000, 5_000, 40
BATCH = 50_000
LOOP_SHARE = 10
START = datetime(2024, 1, 1, tzinfo=UTC)

Event = tuple[str, int, bytes, bytes]
"""Topic, partition, key, value."""


def events() -> Iterator[Event]:
    """Yield patients, orders half a minute apart, and now and then a changed discount."""
    random = Random(1)
    discounts = dict.fromkeys(range(PATIENTS), -5.0)
    position = 4

    def event(
        table: str, op: str, before: dict[str, object] | None, after: dict[str, object], at: int
    ) -> Event:
        nonlocal position
        position += 400
        key, value = envelope(
            table,
            op,
            before,
            after,
            source_ts_ms=at // 1000 * 1000,
            file="binlog.000001",
            pos=position,
            row=0,
        )
        return f"shop.shop.{table}", hash(key) % 4, key, value

    def patient(number: int) -> dict[str, object]:
        return {"id": number, "practitioner_id": number % 12, "clinic_id": 1,
                "practitioner_discount": discounts[number], "register_date": START}  # fmt: skip

    at = int(START.timestamp() * 1000)
    for number in discounts:
        yield event("users", "c", None, patient(number), at)
    for number in range(ORDERS):
        at += 30_000
        who = random.randrange(PATIENTS)
        if number % DISCOUNT_EVERY == 0:
            before = patient(who)
            discounts[who] = -float(random.randrange(4, 16))
            yield event("users", "u", before, patient(who), at)
        order = {
            "id": number, "user_id": who, "practitioner_id": who % 12, "clinic_id": 1,
            "transaction_id": f"T{number}", "date": datetime.fromtimestamp(at / 1000, UTC),
            "amount_total": Decimal("123.45"), "amount_subtotal": Decimal("100.00"),
            "amount_tax": Decimal("13.45"), "amount_shipping": Decimal("10.00"),
            "amount_refunded": Decimal("0.00"), "shipping_method_id": 1, "voucher_code": None,
            "cancelled_at": None,
        }  # fmt: skip
        yield event("orders", "c", None, order, at)


def batches(of: Sequence[Event]) -> Iterator[Batch]:
    """Yield the events as Kafka would hand them over."""
    offsets: dict[Partition, int] = {}
    for start in range(0, len(of), BATCH):
        rows: dict[str, list[tuple[int, int, int, bytes, bytes]]] = {}
        for topic, number, key, value in of[start : start + BATCH]:
            partition = Partition("bench", None, topic, number)
            offset = offsets.get(partition, 0)
            offsets[partition] = offset + 1
            rows.setdefault(topic, []).append((number, offset, 0, key, value))
        tables = {
            topic: pa.table(list(zip(*found, strict=True)), schema=MESSAGE_SCHEMA)
            for topic, found in rows.items()
        }
        yield Batch(tables, dict(offsets), dict(offsets), datetime.now(UTC).replace(tzinfo=None))


def through_the_platform(of: Sequence[Event], folder: Path) -> None:
    """Land, derive, refresh, publish."""
    platform = warehouse(Settings(data_dir=folder))
    for batch in batches(of):
        with platform.open() as con, transaction(con):
            land(con, batch, platform.contracts, platform.settings)
    with platform.open() as con:
        refresh(con, platform.marts, scheduled=True)
        publish(con, platform.marts, platform.settings)


def through_a_loop(of: Sequence[Event], folder: Path) -> None:
    """Do what one writes first: a row at a time."""
    with duckdb.connect(str(folder / "loop.duckdb")) as con:
        con.execute("CREATE TABLE users (id BIGINT, discount DOUBLE, valid_from BIGINT)")
        con.execute(
            "CREATE TABLE orders (id BIGINT, user_id BIGINT, ordered_at BIGINT, amount DECIMAL(12,2))"
        )
        for topic, _, _, value in of:
            message = json.loads(value)
            row = message["after"]
            if topic.endswith(".users"):
                values = [row["id"], row["practitioner_discount"], message["source"]["ts_ms"]]
                con.execute("INSERT INTO users VALUES (?, ?, ?)", values)
            else:
                values = [row["id"], row["user_id"], row["date"], row["amount_total"]]
                con.execute("INSERT INTO orders VALUES (?, ?, ?, ?)", values)
        con.execute(
            "SELECT discount, avg(amount) FROM orders o ASOF JOIN users u "
            "ON o.user_id = u.id AND o.ordered_at >= u.valid_from GROUP BY discount"
        ).fetchall()


def measure(work: Callable[[Sequence[Event], Path], None], of: Sequence[Event]) -> tuple[float, float]:
    """Return events per second, and CPU seconds per million events."""
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        work(of, Path(folder))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return len(of) / wall, cpu / len(of) * 1e6


def main() -> int:
    """Run both, print the comparison."""
    made = list(events())
    platform = measure(through_the_platform, made)
    loop = measure(through_a_loop, made[: len(made) // LOOP_SHARE])
    table = Table(title=f"{len(made):,} events in memory to published marts (DuckDB {duckdb.__version__})")
    for name in ("", "events/s", "CPU s per million", "ratio to the loop"):
        table.add_column(name, justify="left" if not name else "right")
    for name, (rate, cpu) in {"the platform": platform, "a loop, row by row": loop}.items():
        table.add_row(name, f"{rate:,.0f}", f"{cpu:.1f}", f"{rate / loop[0]:.1f} x")
    Console().print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:,.0f} MB, the events included")
    return 0


if __name__ == "__main__":
    sys.exit(main())
