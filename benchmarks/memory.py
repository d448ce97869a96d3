"""The memory of `sync` at its peak, by how much it has to land."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.broker import Broker, has_java
from benchmarks.drain import ORDERS, load, sync
from benchmarks.figures import Figures, new_table, targets_table

BACKLOGS = (1_000_000, 3_000_000) if has_java() else (ORDERS,)


def measure(broker: Broker, console: Console, *, backlogs: Sequence[int] = BACKLOGS) -> Figures:
    """Run `sync` once on each backlog of orders."""
    found: Figures = {}
    for orders in backlogs:
        console.print(f"memory: {orders:,} orders ...")
        found[str(orders)] = sync(load(broker, orders, f"memory{orders}.shop"))
    return {"broker": broker.label, "backlogs": found}


def table(figures: Figures) -> Table:
    """Return the backlogs beside one another."""
    shown = new_table("Memory of sync", "orders", ["peak MB", "s", "CPU s", "answer"])
    for orders, found in figures["backlogs"].items():
        shown.add_row(
            f"{int(orders):,}",
            f"{found['peak_mb']:,.0f}",
            f"{found['seconds']:.1f}",
            f"{found['cpu_seconds']:.1f}",
            "right" if found["right"] else "[red]wrong[/red]",
        )
    return shown


def targets(figures: Figures) -> Table:
    """Return what is wanted."""
    peaks = {orders: found["peak_mb"] for orders, found in figures["backlogs"].items()}
    return targets_table(
        "Memory", [(f"peak MB, {int(orders):,} orders", peak, "<=", 600) for orders, peak in peaks.items()]
    )
