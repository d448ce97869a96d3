"""The CPU of a platform that has nothing to do, beside that of a Dagster that never has."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.broker import Broker
from benchmarks.dagster_dev import one_sensor, platform
from benchmarks.figures import Figures, new_table, targets_table
from benchmarks.promptness import LANDED_ORDERS, landed

SECONDS = 60.0
_SETTLE_SECONDS = 20.0


def measure(
    broker: Broker, console: Console, *, seconds: float = SECONDS, orders: int = LANDED_ORDERS
) -> Figures:
    """Run both side by side, and return the CPU seconds of each over the same time."""
    console.print(f"idle: {seconds:.0f} s without events ...")
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        landed(broker, orders, "idle.shop") as ground,
        platform(ground.data_dir, ground.environment) as ours,
        one_sensor(Path(folder)) as empty,
    ):
        ours.wait_warm()
        empty.wait_warm()
        time.sleep(_SETTLE_SECONDS)
        before = ours.cpu(), empty.cpu()
        time.sleep(seconds)
        after = ours.cpu(), empty.cpu()
    return {
        "broker": broker.label,
        "seconds": seconds,
        "platform_cpu_seconds": after[0] - before[0],
        "empty_dagster_cpu_seconds": after[1] - before[1],
    }


def table(figures: Figures) -> Table:
    """Return both beside one another."""
    title = f"CPU seconds in {figures['seconds']:.0f} s without events"
    shown = new_table(title, "", ["CPU s", "of a core"])
    for name, key in (
        ("Pharmacy BI (up)", "platform_cpu_seconds"),
        ("dagster dev, one skipping sensor", "empty_dagster_cpu_seconds"),
    ):
        shown.add_row(name, f"{figures[key]:.1f}", f"{figures[key] / figures['seconds']:.1%}")
    return shown


def targets(figures: Figures) -> Table:
    """Return what is wanted."""
    ratio = figures["platform_cpu_seconds"] / figures["empty_dagster_cpu_seconds"]
    return targets_table("Idle", [("CPU, of an empty dagster dev", ratio, "<=", 1.5)])
