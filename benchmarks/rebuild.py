"""All SQL marts computed anew from history, beside the same SQL typed into DuckDB."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
from rich.console import Console
from rich.table import Table

from benchmarks.events import Events
from benchmarks.figures import Figures, medians, new_table, targets_table
from benchmarks.growth import history
from benchmarks.processes import cpu_of_this_process
from benchmarks.warehouses import Filled
from bi_assets.refresh.mart import Mart
from bi_assets.refresh.refresh import compute
from bi_assets.sql import transaction
from bi_assets.warehouse import Warehouse

ORDERS = 1_000_000
REPETITIONS = 3


def measure(console: Console, *, orders: int = ORDERS, repetitions: int = REPETITIONS) -> Figures:
    """Rebuild copies of one warehouse in each way, in alternating order."""
    console.print(f"rebuild: landing {orders:,} orders ...")
    with tempfile.TemporaryDirectory() as folder:
        filled = Filled(Path(folder), Events(history(orders)))
        core = filled.warehouse.settings.core_file
        kept = core.with_name("kept.duckdb")
        shutil.copyfile(core, kept)
        marts = [mart for mart in filled.warehouse.marts.values() if mart.sql]
        unchecked = [replace(mart, checks=()) for mart in marts]
        ways: dict[str, Callable[[], None]] = {
            "by_hand": lambda: _by_hand(core, marts),
            "platform": lambda: _rebuild(filled.warehouse, marts),
            "platform_without_checks": lambda: _rebuild(filled.warehouse, unchecked),
        }
        found: dict[str, list[Figures]] = {name: [] for name in ways}
        for repetition in range(repetitions):
            for name in list(ways)[:: -1 if repetition % 2 else 1]:
                console.print(f"rebuild: {name}, {repetition + 1} of {repetitions}")
                shutil.copyfile(kept, core)
                started, cpu = time.perf_counter(), cpu_of_this_process()
                ways[name]()
                found[name].append(
                    {"seconds": time.perf_counter() - started, "cpu_seconds": cpu_of_this_process() - cpu}
                )
    return {
        "orders": orders,
        "ways": {name: {**medians(done), "repetitions": done} for name, done in found.items()},
    }


def _rebuild(warehouse: Warehouse, marts: list[Mart]) -> None:
    with warehouse.open() as con:
        for mart in marts:
            with transaction(con):
                compute(con, mart, None)


def _by_hand(core: Path, marts: list[Mart]) -> None:
    with duckdb.connect(str(core)) as con:
        con.execute("SET TimeZone = 'UTC'")
        for mart in marts:
            con.execute(f"CREATE OR REPLACE TABLE {mart.table} AS {mart.sql}")


def table(figures: Figures) -> Table:
    """Return the ways beside one another."""
    shown = new_table(
        f"Every SQL mart computed as a whole, {figures['orders']:,} orders",
        "",
        ["s", "CPU s"],
    )
    for name, found in figures["ways"].items():
        shown.add_row(name.replace("_", " "), f"{found['seconds']:.2f}", f"{found['cpu_seconds']:.2f}")
    return shown


def targets(figures: Figures) -> Table:
    """Return what is wanted."""
    ways = figures["ways"]
    by_hand = ways["by_hand"]["cpu_seconds"]
    return targets_table(
        "Rebuild",
        [
            ("CPU, of by hand", ways["platform"]["cpu_seconds"] / by_hand, "<=", 1.5),
            (
                "CPU without checks, of by hand",
                ways["platform_without_checks"]["cpu_seconds"] / by_hand,
                "<=",
                1.5,
            ),
        ],
    )
