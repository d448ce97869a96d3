"""Marts without a shop: a daily one, one that reads it, and whatever changes a test wants in them.

What is to be published is followed apart from the code under test.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any, cast

import duckdb

from bi_assets.outputs.publish import Published, publish
from bi_assets.refresh import changed
from bi_assets.refresh.mart import Mart, MartColumn
from bi_assets.settings import Settings
from bi_assets.sql import transaction
from bi_assets.warehouse import Warehouse

DAYS = 12
Rows = list[tuple[Any, ...]]
_FIRST = date(2024, 1, 1)
_SEEN = {
    "sales": "SELECT id, day, CAST(round(amount, 2) AS DECIMAL(18, 2)), note FROM marts.sales ORDER BY ALL",
    "totals": "SELECT note, n FROM marts.totals ORDER BY ALL",
}


def book_marts() -> dict[str, Mart]:
    """Return the two marts."""
    sales = Mart(
        name="sales", file=Path("sales.sql"), question="What was sold?", grain=("id",), partition="day",
        columns=(MartColumn("id", "the sale"), MartColumn("day", "its day", "date"),
                 MartColumn("amount", "what it came to", "money"), MartColumn("note", "a text")),
        checks=(), inputs=(), digest="sales 1",
        sql="SELECT 1::BIGINT AS id, DATE '2024-01-01' AS day, 1::DECIMAL(38, 4) AS amount, 'x' AS note",
    )  # fmt: skip
    totals = Mart(
        name="totals", file=Path("totals.sql"), question="How often?", grain=("note",),
        columns=(MartColumn("note", "a text"), MartColumn("n", "how often", "count")),
        checks=(), inputs=("marts.sales",), digest="totals 1", sql="SELECT 'x' AS note, 1::BIGINT AS n",
    )  # fmt: skip
    return {"sales": sales, "totals": totals}


def days(numbers: Iterable[int]) -> list[date]:
    """Return days by their number."""
    return [_FIRST + timedelta(days=number) for number in sorted(set(numbers))]


def prepare(con: duckdb.DuckDBPyConnection, settings: Settings, marts: Mapping[str, Mart]) -> None:
    """Make the core database's schema, or take on changed marts."""
    Warehouse(settings, {}, marts).prepare(con, evolve=True)


def fill(con: duckdb.DuckDBPyConnection, rows: int) -> None:
    """Compute both marts for the first time."""
    with transaction(con):
        con.execute(
            "INSERT INTO marts.sales SELECT i, DATE '2024-01-01' + CAST(i * $days // $rows AS INTEGER), "
            "(hash(i) % 10000000) / 10000, md5(i::VARCHAR) FROM range($rows) r(i)",
            {"rows": rows, "days": DAYS},
        )
        changed.record(con, "sales", None)
        totals(con)
        con.execute("UPDATE meta.marts SET version = 1")


def totals(con: duckdb.DuckDBPyConnection) -> None:
    """Compute the mart that reads the other."""
    con.execute("DELETE FROM marts.totals")
    con.execute("INSERT INTO marts.totals SELECT note[:1], count(*) FROM marts.sales GROUP BY ALL")
    changed.record(con, "totals", None)


def sell(con: duckdb.DuckDBPyConnection, of: list[date], seed: int) -> None:
    """Compute days anew, most of them: rows that stay, change, go and come, also twice the same."""
    chance = random.Random(seed)
    with transaction(con):
        for day in of:
            con.execute(
                "UPDATE marts.sales SET amount = amount + 0.004, note = CASE WHEN id % 2 = 0 THEN NULL "
                "ELSE note END WHERE day = ? AND hash(id + ?) % 5 = 0",
                [day, seed],
            )
            con.execute("DELETE FROM marts.sales WHERE day = ? AND hash(id + ?) % 5 = 1", [day, seed])
            for _ in range(chance.randrange(1, 4)):
                con.execute(
                    "INSERT INTO marts.sales SELECT $id, $day, $amount, $note FROM range($times)",
                    {
                        "id": chance.randrange(10**6),
                        "day": day,
                        "amount": f"{chance.randrange(10**6)}.{chance.randrange(10**4):04}",
                        "note": chance.choice([None, "a", "b"]),
                        "times": chance.choice([1, 1, 2]),
                    },
                )
        changed.record(con, "sales", of)
        totals(con)


def core(con: duckdb.DuckDBPyConnection) -> dict[str, Rows]:
    """Return what the core database's marts look like when published."""
    return {name: con.execute(sql).fetchall() for name, sql in _SEEN.items()}


def seen(file: Path) -> dict[str, Rows]:
    """Return what an analyst sees of the marts."""
    with duckdb.connect(str(file), read_only=True) as con:
        return {name: con.execute(f"FROM {name} ORDER BY ALL").fetchall() for name in _SEEN}


class Interrupted(Exception):
    """What a `Fragile` connection does."""


class Fragile:
    """A connection that breaks at its nth statement."""

    def __init__(self, con: duckdb.DuckDBPyConnection, lasts: int) -> None:
        self._con = con
        self._lasts = lasts

    def execute(self, sql: str, parameters: object = None) -> duckdb.DuckDBPyConnection:
        self._lasts -= 1
        if self._lasts < 0 and not sql.startswith(("COMMIT", "ROLLBACK", "DETACH")):
            raise Interrupted
        return self._con.execute(sql, parameters)


class Books:
    """A core database with the two marts, and what is to be seen of them."""

    def __init__(self, folder: Path, rows: int = 60, *, con: duckdb.DuckDBPyConnection | None = None) -> None:
        self.settings = Settings(data_dir=folder)
        self.marts = book_marts()
        self.con = con or duckdb.connect(config={"threads": 1})
        prepare(self.con, self.settings, self.marts)
        fill(self.con, rows)
        self.expected: dict[str, Rows] = {}
        self.publish()

    @property
    def file(self) -> Path:
        """The published file."""
        return self.settings.published_file

    @property
    def previous(self) -> Path:
        """The file before."""
        return self.file.with_name(".marts.duckdb.previous")

    def sell(self, *numbers: int, seed: int = 0) -> None:
        """Compute days anew."""
        sell(self.con, days(numbers), seed)

    def fail(self, mart: str, breaches: int = 1) -> None:
        """Have an error-check of a mart fail."""
        self.con.execute("DELETE FROM meta.checks WHERE mart = ?", [mart])
        self.con.execute("INSERT INTO meta.checks VALUES (?, 'c', 'error', ?, NULL, true)", [mart, breaches])

    def mend(self, mart: str) -> None:
        """Have it hold again."""
        self.fail(mart, 0)

    def declare(self, mart: str, **settings: Any) -> None:
        """Change the declaration of a mart, whose rows are then computed again."""
        before = f"CREATE TEMP TABLE before AS FROM marts.{mart}"
        self.con.execute(before)
        self.marts = {**self.marts, mart: replace(self.marts[mart], **settings)}
        prepare(self.con, self.settings, self.marts)
        with transaction(self.con):
            self.con.execute(f"INSERT INTO marts.{mart} FROM before")
            changed.record(self.con, mart, None)
            self.con.execute("UPDATE meta.marts SET version = 1")
        self.con.execute("DROP TABLE before")

    def publish(self, *, lasts: int | None = None) -> Published:
        """Publish; with `lasts`, over a connection that breaks after so many statements."""
        con = self.con if lasts is None else cast("duckdb.DuckDBPyConnection", Fragile(self.con, lasts))
        result = publish(con, self.marts, self.settings)
        failing = {mart for (mart,) in self.con.execute("SELECT mart FROM meta.checks WHERE breaches > 0")
                   .fetchall()}  # fmt: skip
        for name, rows in core(self.con).items():
            if name not in failing or name not in self.expected:
                self.expected[name] = rows
        return result

    def assert_published(self) -> None:
        """Compare the published file with what it is to hold."""
        assert seen(self.file) == self.expected

    def close(self) -> None:
        """Let go of the memory."""
        self.con.close()
