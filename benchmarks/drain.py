"""A backlog drained: consumed only, by the platform, by Kafka Streams, by a loop over rows.

Each contender is a process of its own, from its start to its exit; the broker's CPU is not
counted. What each answers is compared with the truth.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import duckdb
from rich.console import Console
from rich.table import Table

from benchmarks import kafka_streams
from benchmarks.broker import Broker, has_java
from benchmarks.events import Events, History, Truth
from benchmarks.figures import Figures, Target, medians, new_table, targets_table
from benchmarks.processes import Cost, run

ORDERS = 1_000_000 if has_java() else 50_000  # the embedded broker keeps no more
NAIVE_ORDERS = 50_000
TUNED = ["fetch.queue.backoff.ms=5"]
PATIENTS = 5_000

RAW, TUNED_RAW, PLATFORM, JOIN, VERSIONED, NAIVE = (
    "consume only, librdkafka's defaults",
    "consume only, tuned",
    "Pharmacy BI (sync)",
    "Kafka Streams, table join",
    "Kafka Streams, versioned store",
    "Python loop over rows",
)


@dataclass(frozen=True)
class Load:
    """Events that lie in topics of a broker."""

    broker: Broker
    prefix: str
    history: History
    truth: Truth


def load(broker: Broker, orders: int, prefix: str) -> Load:
    """Put so many orders into the broker, their patients, and a changed discount for every fiftieth order."""
    history = History(orders, PATIENTS + orders // 50, PATIENTS)
    events = Events(history)
    broker.load(events, prefix)
    return Load(broker, prefix, history, events.truth())


def measure(
    broker: Broker, console: Console, *, orders: int = ORDERS, naive: int = NAIVE_ORDERS, repetitions: int = 3
) -> Figures:
    """Drain the same topics by every contender, in alternating order."""
    console.print(f"drain: loading {orders:,} orders ...")
    large = load(broker, orders, "drain.shop")
    small = load(broker, naive, "naive.shop") if naive != orders else large
    contenders: dict[str, Callable[[], Figures]] = {
        RAW: lambda: consume_only(large, []),
        TUNED_RAW: lambda: consume_only(large, TUNED),
        PLATFORM: lambda: sync(large),
        NAIVE: lambda: loop(small),
    }
    if broker.is_real and shutil.which("javac") is None:
        console.print("drain: no Java compiler, Kafka Streams is left out (Debian: openjdk-17-jdk-headless)")
    elif broker.is_real:
        home = kafka_streams.build()
        contenders[JOIN] = lambda: streams(large, home, "plain")
        contenders[VERSIONED] = lambda: streams(large, home, "versioned")
    found: dict[str, list[Figures]] = {name: [] for name in contenders}
    for repetition in range(repetitions):
        for name in list(contenders)[:: -1 if repetition % 2 else 1]:
            console.print(f"drain: {name}, {repetition + 1} of {repetitions}")
            found[name].append(contenders[name]())
    sizes = {name: small.history.events if name == NAIVE else large.history.events for name in contenders}
    return {
        "broker": broker.label,
        "bytes_per_event": round(found[RAW][0]["bytes"] / large.history.events),
        "contenders": {
            name: _summary(sizes[name], done) for name, done in found.items()
        },
    }  # fmt: skip


def _summary(events: int, repetitions: list[Figures]) -> Figures:
    middle = medians(repetitions)
    answers = [repetition["right"] for repetition in repetitions if "right" in repetition]
    return {
        "events": events,
        "events_per_second": events / middle["seconds"],
        "cpu_seconds_per_million": middle["cpu_seconds"] / events * 1e6,
        "peak_mb": middle["peak_mb"],
        "right": all(answers) if answers else None,
        "repetitions": repetitions,
    }


def consume_only(loaded: Load, settings: list[str]) -> Figures:
    """Consume all messages; `seconds` are from the first that is possible to the last."""
    events = str(loaded.history.events)
    command = [sys.executable, "-m", "benchmarks.raw", loaded.broker.bootstrap_servers, loaded.prefix, events]
    cost = run([*command, *settings])
    told = json.loads(cost.output)
    return {**_figures(cost), "seconds": told["seconds"], "bytes": told["bytes"]}


def sync(loaded: Load) -> Figures:
    """Land, derive, refresh and publish everything into an empty data directory."""
    with tempfile.TemporaryDirectory() as folder:
        cost = run([sys.executable, "-m", "bi_assets", "sync", "--json"], _environment(loaded, Path(folder)))
        landed = json.loads(cost.output)["landed"]
        with duckdb.connect(f"{folder}/publish/marts.duckdb", read_only=True) as con:
            rows = con.execute(
                "SELECT discount, n_orders, avg_order_value FROM avg_order_value_by_discount"
            ).fetchall()
    answer = {float(discount): (orders, average) for discount, orders, average in rows}
    wanted = {
        discount: (orders, _average(orders, cents)) for discount, (orders, cents) in loaded.truth.items()
    }
    return {**_figures(cost), "right": answer == wanted and landed == loaded.history.events}


def streams(loaded: Load, home: Path, store: str) -> Figures:
    """Join and average by Kafka Streams, from the process's start to its exit."""
    with tempfile.TemporaryDirectory() as folder:
        cost = run(
            kafka_streams.command(
                home,
                loaded.broker.bootstrap_servers,
                loaded.prefix,
                loaded.history.orders,
                Path(folder),
                store,
            )
        )
    return {**_figures(cost), "right": _answer(cost.output) == loaded.truth}


def loop(loaded: Load) -> Figures:
    """Take each message by itself."""
    events = str(loaded.history.events)
    cost = run(
        [sys.executable, "-m", "benchmarks.naive", loaded.broker.bootstrap_servers, loaded.prefix, events]
    )
    return {**_figures(cost), "right": _answer(cost.output) == loaded.truth}


def _figures(cost: Cost) -> Figures:
    return {
        "seconds": cost.wall,
        "process_seconds": cost.wall,
        "cpu_seconds": cost.cpu,
        "peak_mb": cost.peak_mb,
    }


def _environment(loaded: Load, folder: Path) -> dict[str, str]:
    return {
        "KAFKA_BOOTSTRAP_SERVERS": loaded.broker.bootstrap_servers,
        "BI_TOPIC_PREFIX": loaded.prefix,
        "BI_DATA_DIR": str(folder),
    }


def _answer(output: str) -> Truth:
    rows = map(json.loads, output.splitlines())
    return {row["discount"]: (row["orders"], row["cents"]) for row in rows}


def _average(orders: int, cents: int) -> Decimal:
    return (Decimal(cents) / orders / 100).quantize(Decimal("0.01"), ROUND_HALF_UP)


def table(figures: Figures) -> Table:
    """Return the contenders beside one another."""
    contenders = figures["contenders"]
    title = f"A backlog in {figures['broker']}, {figures['bytes_per_event']} bytes per event: drained"
    shown = new_table(
        title,
        "",
        ["events", "events/s", "of tuned", "CPU s per million", "peak MB", "answer"],
    )
    for name, found in contenders.items():
        shown.add_row(
            name,
            f"{found['events']:,}",
            f"{found['events_per_second']:,.0f}",
            f"{found['events_per_second'] / contenders[TUNED_RAW]['events_per_second']:.3f}",
            f"{found['cpu_seconds_per_million']:.1f}",
            f"{found['peak_mb']:,.0f}",
            {None: "", True: "right", False: "[red]wrong[/red]"}[found["right"]],
        )
    return shown


def targets(figures: Figures) -> Table | None:
    """Return what is wanted; None where Kafka Streams was left out."""
    contenders = figures["contenders"]
    if JOIN not in contenders:
        return None
    ours = contenders[PLATFORM]
    rate = ours["events_per_second"]
    wanted: list[Target] = [
        ("CPU seconds per million events", ours["cpu_seconds_per_million"], "<=", 8),
        ("events/s, of tuned consume only", rate / contenders[TUNED_RAW]["events_per_second"], ">=", 0.25),
        ("events/s, of Kafka Streams' table join", rate / contenders[JOIN]["events_per_second"], ">=", 4),
        ("events/s, of its versioned store", rate / contenders[VERSIONED]["events_per_second"], ">=", 5),
        ("peak MB", ours["peak_mb"], "<=", 600),
    ]
    return targets_table(f"Drain; the targets are for {ORDERS:,} orders", wanted)
