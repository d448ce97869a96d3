"""What a small batch costs once much has landed; and what many small ones leave on disk.

In one process and without Kafka: land, history and refresh, with the core file opened for each as a
micro-batch run does.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from random import Random
from statistics import median

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from benchmarks.events import Events, History
from benchmarks.figures import Figures, Target, new_table, targets_table
from benchmarks.processes import cpu_of_this_process
from benchmarks.warehouses import Filled

SMALL, LARGE = 100_000, 10_000_000
BATCHES = 20
SERIES = 2_000
_NEW, _CORRECTED = 90, 9  # and one patient: 100 events


def measure(
    console: Console,
    *,
    small: int = SMALL,
    large: int = LARGE,
    batches: int = BATCHES,
    series: int = SERIES,
) -> Figures:
    """Land the same kind of batches on little and on much; then many small batches, and one of them all."""
    return {
        "batches": {str(orders): _batches(console, orders, batches) for orders in (small, large)},
        "series": _series(console, small, series),
    }


def history(orders: int) -> History:
    """Return a history in which the patients are as many as their orders need."""
    patients = max(orders // 20, 1)
    return History(orders, patients + orders // 50, patients)


def _batches(console: Console, orders: int, count: int) -> Figures:
    console.print(f"growth: landing {orders:,} orders ...")
    chance = Random(1)
    with tempfile.TemporaryDirectory() as folder:
        filled = Filled(Path(folder), Events(history(orders)))
        bytes_per_event = filled.core_bytes / filled.events.history.events
        console.print(f"growth: {count} batches of 100 events ...")
        done: list[Figures] = []
        filled.publish()
        for number in range(count):
            events = filled.events.after(
                orders + number * _NEW,
                _NEW,
                corrected=chance.sample(range(orders), _CORRECTED),
                patient=number,
            )
            done.append(_cost(filled, events))
    seconds = median(one["publish_seconds"] for one in done)
    megabytes = done[-1]["published_mb"]
    return {
        "bytes_per_event": bytes_per_event,
        "cpu_seconds": median(one["cpu_seconds"] for one in done),
        "seconds": median(one["seconds"] for one in done),
        "land_cpu_seconds": median(one["land_cpu_seconds"] for one in done),
        "publish_seconds": seconds,
        "publish_cpu_seconds": median(one["publish_cpu_seconds"] for one in done),
        "published_mb": megabytes,
        "publish_ms_per_100_mb": seconds * 1000 / (megabytes / 100),
        "repetitions": done,
    }


def _cost(filled: Filled, events: pa.Table) -> Figures:
    started, cpu = time.perf_counter(), cpu_of_this_process()
    filled.land(events)
    landed = cpu_of_this_process()
    filled.refresh()
    seconds, refreshed = time.perf_counter() - started, cpu_of_this_process()
    published = filled.publish()
    return {
        "seconds": seconds,
        "cpu_seconds": refreshed - cpu,
        "land_cpu_seconds": landed - cpu,
        "publish_seconds": published.seconds,
        "publish_cpu_seconds": cpu_of_this_process() - refreshed,
        "published_mb": published.size / 1e6,
    }


def _series(console: Console, orders: int, count: int) -> Figures:
    """Four new orders and a correction, again and again; and the same events as one batch."""
    console.print(f"growth: {count:,} batches of 5 events ...")
    chance = Random(2)
    events = Events(history(orders))
    each = [
        events.after(orders + number * 4, 4, corrected=[chance.randrange(orders)]) for number in range(count)
    ]
    added: list[float] = []
    seconds: list[float] = []
    for batches in (each, [pa.concat_tables(each)]):
        with tempfile.TemporaryDirectory() as folder:
            filled = Filled(Path(folder), events)
            before, started = filled.core_bytes, time.perf_counter()
            for batch in batches:
                filled.batch(batch)
            added.append((filled.core_bytes - before) / (5 * count))
            seconds.append(time.perf_counter() - started)
    return {
        "batches": count,
        "seconds_per_batch": seconds[0] / count,
        "bytes_per_event": added[0],
        "bytes_per_event_in_one_batch": added[1],
    }


def table(figures: Figures) -> Table:
    """Return small beside large."""
    shown = new_table(
        "A batch of 100 events, by what has landed before (medians)",
        "orders landed",
        ["CPU s", "of it landing", "s", "core bytes per event", "publish s", "MB", "ms per 100 MB"],
    )
    for orders, found in figures["batches"].items():
        shown.add_row(
            f"{int(orders):,}",
            f"{found['cpu_seconds']:.3f}",
            f"{found['land_cpu_seconds']:.3f}",
            f"{found['seconds']:.3f}",
            f"{found['bytes_per_event']:.0f}",
            f"{found['publish_seconds']:.2f}",
            f"{found['published_mb']:.1f}",
            f"{found['publish_ms_per_100_mb']:,.0f}",
        )
    series = figures["series"]
    shown.caption = (
        f"{series['batches']:,} batches of 5 events grow the core file by {series['bytes_per_event']:,.0f} "
        f"bytes per event; as one batch by {series['bytes_per_event_in_one_batch']:,.0f}"
    )
    return shown


def targets(figures: Figures) -> Table:
    """Return what is wanted."""
    small, large = figures["batches"].values()
    wanted: list[Target] = [
        ("CPU of a batch, large of small", large["cpu_seconds"] / small["cpu_seconds"], "<=", 1.5),
        ("publish, ms per 100 MB", large["publish_ms_per_100_mb"], "<=", 350),
    ]
    return targets_table("Growth", wanted)
