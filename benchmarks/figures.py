"""What the parts of the benchmark have in common: figures, and how they are told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median, quantiles
from typing import Any

from rich.table import Table

Figures = dict[str, Any]
"""The figures of a part, as they go into the JSON file."""


def new_table(title: str, first: str, columns: Iterable[str]) -> Table:
    """Return a table whose first column is text and whose others are numbers."""
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def targets_table(title: str, targets: Sequence[Target]) -> Table:
    """Return a table of what was reached beside what was wanted."""
    table = new_table(title, "", ["measured", "target", ""])
    for name, value, sign, bound in targets:
        wanted = f"{sign} {bound:g}"
        table.add_row(name, f"{value:,.2f}", wanted, verdict(value, sign, bound))
    return table


Target = tuple[str, float, str, float]
"""What, measured, "<=" or ">=", bound."""


def verdict(value: float, sign: str, bound: float) -> str:
    """Tell in colour whether a target is met."""
    met = value <= bound if sign == "<=" else value >= bound
    return "[green]met[/green]" if met else "[red]missed[/red]"


def percentile(values: Sequence[float], percent: int) -> float:
    """Return a percentile, interpolated between the values."""
    if len(values) < 2:
        return values[0]
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def medians(repetitions: Sequence[Figures]) -> Figures:
    """Return the median of each number that the repetitions have in common."""
    return {
        name: median(repetition[name] for repetition in repetitions)
        for name, value in repetitions[0].items()
        if type(value) in (int, float)
    }
