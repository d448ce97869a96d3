"""From an order in Kafka to the same order in the published file, with Dagster running.

Orders are sent one at a time, at moments that do not depend on how soon the last one was there.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from statistics import median

import duckdb
from confluent_kafka import Producer
from rich.console import Console
from rich.table import Table

from benchmarks.broker import Broker
from benchmarks.dagster_dev import Dagster, platform
from benchmarks.events import Events, History, position
from benchmarks.figures import Figures, Target, new_table, percentile, targets_table
from benchmarks.processes import ProcessError, run
from shop.debezium import envelope

LANDED_ORDERS = 100_000
_PATIENTS = 5_000
_FIRST_ID = 1_000_000_000
_LOOK_SECONDS = 0.002
_GIVE_UP_SECONDS = 120.0
_SLOW_SECONDS = 5.0


@dataclass(frozen=True)
class Mode:
    """How far apart the orders are (seconds), how the platform is set, how many by default."""

    apart: tuple[float, float]
    events: int
    settings: dict[str, str]
    median_target: float
    p95_target: float


MODES = {
    "frequent": Mode((2, 7), 100, {}, 0.3, 2),
    "lone": Mode((30, 60), 30, {}, 0.8, 2),
    "continuous": Mode((2, 7), 100, {"BI_LINGER_SECONDS": "3600"}, 0.25, 0.6),
}


@dataclass(frozen=True)
class Landed:
    """A platform whose data directory holds a landed history; `environment` is its own."""

    broker: Broker
    prefix: str
    history: History
    data_dir: Path
    environment: dict[str, str]


@contextmanager
def landed(broker: Broker, orders: int, prefix: str) -> Iterator[Landed]:
    """Load orders up to now, and `sync` them into a data directory."""
    history = History(orders, _PATIENTS + orders // 50, _PATIENTS, end=datetime.now(UTC))
    broker.load(Events(history), prefix)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        environment = {"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers, "BI_TOPIC_PREFIX": prefix}
        done = run(
            [sys.executable, "-m", "bi_assets", "sync", "--json"], {**environment, "BI_DATA_DIR": folder}
        )
        if json.loads(done.output)["landed"] != history.events:
            raise ProcessError(f"sync did not land {history.events} events:\n{done.output}")
        yield Landed(broker, prefix, history, Path(folder), environment)


def measure(
    broker: Broker, console: Console, mode: str, *, events: int | None = None, orders: int = LANDED_ORDERS
) -> Figures:
    """Send orders in one of the `MODES`; return how long each took to be readable."""
    count = events or MODES[mode].events
    console.print(f"promptness, {mode}: {count} orders on {orders:,} landed ones ...")
    with (
        landed(broker, orders, f"{mode}.shop") as ground,
        platform(ground.data_dir, {**ground.environment, **MODES[mode].settings}) as dagster,
    ):
        dagster.wait_warm()
        sender = _Sender(ground, dagster)
        watcher = _Watcher(ground.data_dir / "publish" / "marts.duckdb")
        sender.send()
        watcher.watch(sender, until=lambda: True)  # it may load what later ones find loaded
        time.sleep(random.uniform(*MODES[mode].apart))
        thread = threading.Thread(target=sender.send_many, args=(count, MODES[mode].apart), daemon=True)
        thread.start()
        watcher.watch(sender, until=lambda: not thread.is_alive())
        sent = sender.sent[1:]
    seconds = [order.readable_at - order.sent_at for order in sent]
    return {
        "mode": mode,
        "broker": broker.label,
        "landed_orders": orders,
        "events": len(sent),
        "median": median(seconds),
        "p95": percentile(seconds, 95),
        "max": max(seconds),
        "slower_than_5_s": sum(s > _SLOW_SECONDS for s in seconds),
        "load_average": os.getloadavg()[0],
        "latencies": [
            {"seconds": round(s, 4), "run_under_way": order.run_under_way, "sent_at": order.sent_at}
            for s, order in zip(seconds, sent, strict=True)
        ],
    }


@dataclass
class _Order:
    number: int
    sent_at: float
    run_under_way: bool = False
    readable_at: float = 0.0


class _Sender:
    """Sends new orders, dated now, and remembers when."""

    def __init__(self, ground: Landed, dagster: Dagster) -> None:
        self.sent: list[_Order] = []
        self._history = ground.history
        self._topic = f"{ground.prefix}.orders"
        self._dagster = dagster
        self._producer = Producer(
            {
                "bootstrap.servers": ground.broker.bootstrap_servers,
                "partitioner": "murmur2_random",
                "linger.ms": 0,
                "log_level": 2,
            }
        )
        self._producer.list_topics(self._topic, timeout=10)

    def waiting(self) -> list[_Order]:
        """Return the orders that have not been seen yet."""
        return [order for order in self.sent if not order.readable_at]

    def send_many(self, count: int, apart: tuple[float, float]) -> None:
        """Send so many, at random distances."""
        due = time.time()
        for _ in range(count):
            time.sleep(max(0.0, due - time.time()))
            self.send()
            due += random.uniform(*apart)

    def send(self) -> None:
        """Send one."""
        number = len(self.sent)
        now_ms = time.time_ns() // 1_000_000
        order = {
            "id": _FIRST_ID + number, "user_id": number % _PATIENTS, "transaction_id": f"T{number}",
            "date": datetime.fromtimestamp(now_ms / 1000, UTC), "amount_total": Decimal("123.45"),
            "amount_subtotal": Decimal("100.00"), "voucher_code": None, "cancelled_at": None,
        }  # fmt: skip
        file, pos = position(self._history.next_place + number)
        key, value = envelope(
            "orders", "c", None, order, source_ts_ms=now_ms // 1000 * 1000, file=file, pos=pos, row=0
        )
        # The watcher must know of it before it can be published.
        sent = _Order(_FIRST_ID + number, time.time())
        self.sent.append(sent)
        self._producer.produce(self._topic, value, key)
        self._producer.flush(10)
        sent.run_under_way = self._dagster.runs_under_way() > 0


class _Watcher:
    """Looks into the published file whenever it is another one."""

    def __init__(self, published: Path) -> None:
        self._published = published
        self._seen = self._inode()

    def watch(self, sender: _Sender, until: Callable[[], bool]) -> None:
        """Look at each new file until `until` is true and every order is readable.

        Errors: `TimeoutError` where one is not in two minutes.
        """
        while not until() or sender.waiting():
            if self._inode() != self._seen:
                self._look(sender)
            waiting = sender.waiting()
            if waiting and time.time() - waiting[0].sent_at > _GIVE_UP_SECONDS:
                raise TimeoutError(f"order {waiting[0].number} was not published in {_GIVE_UP_SECONDS:.0f} s")
            time.sleep(_LOOK_SECONDS)

    def _look(self, sender: _Sender) -> None:
        self._seen = self._inode()
        waiting = sender.waiting()
        with duckdb.connect(str(self._published), read_only=True) as con:
            found = con.execute(
                "SELECT order_id FROM orders_with_discount WHERE order_id >= ?", [_FIRST_ID]
            ).fetchall()
        now = time.time()
        readable = {number for (number,) in found}
        for order in waiting:
            if order.number in readable:
                order.readable_at = now

    def _inode(self) -> int:
        return self._published.stat().st_ino


def table(figures: list[Figures]) -> Table:
    """Return the modes beside one another."""
    first = figures[0]
    shown = new_table(
        f"From {first['broker']} to the published file, seconds ({first['landed_orders']:,} orders landed)",
        "orders are",
        ["n", "median", "p95", "max", "over 5 s", "met by a run"],
    )
    for found in figures:
        apart = MODES[found["mode"]].apart
        met = sum(order["run_under_way"] for order in found["latencies"])
        shown.add_row(
            f"{found['mode']}, {apart[0]}-{apart[1]} s apart",
            str(found["events"]),
            f"{found['median']:.2f}",
            f"{found['p95']:.2f}",
            f"{found['max']:.2f}",
            str(found["slower_than_5_s"]),
            str(met),
        )
    return shown


def targets(figures: list[Figures]) -> Table:
    """Return what is wanted of each mode."""
    wanted: list[Target] = []
    for found in figures:
        mode = MODES[found["mode"]]
        wanted.append((f"{found['mode']}: median", found["median"], "<=", mode.median_target))
        wanted.append((f"{found['mode']}: p95", found["p95"], "<=", mode.p95_target))
    return targets_table("Promptness (s)", wanted)
