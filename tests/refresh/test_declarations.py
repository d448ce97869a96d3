"""Mart files: a new one is a new answer, and a faulty one disables that answer alone."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest

from bi_assets.contracts.contract import CONTRACTS
from bi_assets.landing.land import land
from bi_assets.outputs.publish import publish
from bi_assets.platform import warehouse
from bi_assets.refresh.mart import MARTS, load_marts
from bi_assets.refresh.refresh import refresh
from bi_assets.settings import Settings
from bi_assets.sql import transaction
from bi_assets.warehouse import Warehouse
from tests.landing.messages import Log, order, user
from tests.platform import Platform, marts

REPOSITORY = set(marts())
GOOD = """/*
question = "How many orders has each patient?"
grain    = ["patient_id"]

[columns]
patient_id = "the patient"
n_orders   = { unit = "count", meaning = "orders" }
*/
SELECT patient_id, count(*) AS n_orders FROM marts.orders_with_discount GROUP BY patient_id
"""
FAULTS = {
    "no declaration": ("SELECT 1 AS patient_id", ["line 1", "no declaration"]),
    "not TOML": (GOOD.replace("grain    =", "grain"), ["not TOML", "line 3"]),
    "no question": (
        GOOD.replace("question", "-- question", 1).replace("-- question", "schedule"),
        ["question"],
    ),
    "no grain": (GOOD.replace('grain    = ["patient_id"]', ""), ["lacks grain"]),
    "a grain that is no column": (
        GOOD.replace('["patient_id"]', '["order_id"]'),
        ["'order_id'", "[columns]"],
    ),
    "a misspelt setting": (GOOD.replace("grain ", "partitions = []\ngrain "), ["partitions"]),
    "an unknown partition": (
        GOOD.replace("grain ", 'partition = "month"\ngrain '),
        ["'month'", "order_date"],
    ),
    "an unknown unit": (GOOD.replace('"count"', '"pieces"'), ["n_orders", "'pieces'", "count"]),
    "a misspelt column setting": (GOOD.replace("unit =", "units ="), ["n_orders", "units"]),
    "not SQL": (GOOD.replace("GROUP BY", "GROUPED BY ("), ["not SQL"]),
    "a table that is not there": (GOOD.replace("marts.orders_with_discount", "history.ordres"), ["ordres"]),
    "a mart that is not there": (GOOD.replace("orders_with_discount", "orders_by_moon"), ["orders_by_moon"]),
    "a column that is not there": (GOOD.replace("SELECT patient_id", "SELECT patient"), ["patient"]),
    "a column that is not declared": (
        GOOD.replace("count(*)", "1 AS extra, count(*)"),
        ["extra", "[columns]"],
    ),
    "a column that is not selected": (
        GOOD.replace("*/", 'lost = "not there"\n*/'),
        ["lost", "not selected"],
    ),
    "a check without SQL": (
        GOOD.replace("*/", '[[checks]]\nname = "c"\nsentence = "s"\n*/'),
        ["check", "breaches"],
    ),
    "a check that does not bind": (
        GOOD.replace("*/", '[[checks]]\nname = "c"\nsentence = "s"\nholds = "moon > 0"\n*/'),
        ["check c", "moon"],
    ),
    "itself as its input": (GOOD.replace("orders_with_discount", "orders_of_patients"), ["circle"]),
}


@dataclass
class Repository:
    """A copy of the marts' folder."""

    folder: Path
    data: Path

    def add(self, name: str, text: str) -> None:
        """Write a mart file."""
        (self.folder / name).write_text(text)

    def warehouse(self) -> Warehouse:
        """Return the platform with these marts."""
        return warehouse(Settings(data_dir=self.data), CONTRACTS, self.folder)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    folder = tmp_path / "marts"
    shutil.copytree(MARTS, folder, ignore=shutil.ignore_patterns("__*"))
    return Repository(folder, tmp_path)


@pytest.fixture
def log() -> Log:
    log = Log()
    log.change("users", "c", None, user(1))
    log.change("orders", "c", None, order(1))
    log.change("orders", "c", None, order(2))
    return log


@pytest.fixture
def opened() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as con:
        yield con


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_mart_is_left_out_and_named_and_the_others_work(
    fault: str, repository: Repository, opened: duckdb.DuckDBPyConnection, caplog: pytest.LogCaptureFixture
) -> None:
    text, words = FAULTS[fault]
    repository.add("orders_of_patients.sql", text)
    with caplog.at_level(logging.WARNING):
        platform = repository.warehouse()
    assert set(platform.marts) == REPOSITORY
    told = caplog.messages[-1]
    assert len(caplog.messages) == 1
    assert [word for word in ["orders_of_patients.sql", *words] if word not in told] == [], told
    platform.prepare(opened)


def test_a_faulty_python_mart_is_left_out(repository: Repository) -> None:
    repository.add("moons.py", "def compute(inputs, context): ...")
    found, faults = load_marts(repository.folder)
    assert set(found) == REPOSITORY
    assert "moons.py, line 1" in faults[0]


def test_a_faulty_mart_takes_along_only_those_that_read_it(repository: Repository) -> None:
    broken = (repository.folder / "order_value_by_discount_day.sql").read_text().replace("FROM", "FRM")
    repository.add("order_value_by_discount_day.sql", broken)
    left = {
        "order_value_by_discount_day",
        "avg_order_value_by_discount",
        "avg_order_value_by_discount_per_year",
    }
    assert set(repository.warehouse().marts) == REPOSITORY - left


def test_a_new_sql_file_is_a_new_table_published_with_its_question(
    repository: Repository, opened: duckdb.DuckDBPyConnection, log: Log
) -> None:
    repository.add("orders_of_patients.sql", GOOD)
    platform = repository.warehouse()
    platform.prepare(opened)
    with Platform() as batches, transaction(opened):
        land(opened, batches.batch(log.messages), platform.contracts, platform.settings)
    refresh(opened, platform.marts, scheduled=True)
    publish(opened, platform.marts, platform.settings)
    with duckdb.connect(str(platform.settings.published_file), read_only=True) as con:
        assert con.execute("FROM orders_of_patients").fetchall() == [(1, 2)]
        comment = con.execute("SELECT comment FROM duckdb_tables() WHERE table_name = 'orders_of_patients'")
        assert comment.fetchall() == [("How many orders has each patient?",)]


def test_a_mart_whose_file_changed_is_computed_again_as_a_whole(
    repository: Repository, log: Log, tmp_path: Path
) -> None:
    repository.add("orders_of_patients.sql", GOOD)
    first = repository.warehouse()
    with first.open(evolve=True) as con, Platform() as batches:
        with transaction(con):
            land(con, batches.batch(log.messages), first.contracts, first.settings)
        refresh(con, first.marts, scheduled=True)
    repository.add("orders_of_patients.sql", GOOD.replace("count(*) AS", "10 * count(*) AS"))
    warehouse.cache_clear()  # a program that starts anew reads the files anew
    second = repository.warehouse()
    with second.open(evolve=True) as con:
        refreshed = refresh(con, second.marts, scheduled=True)
        assert [r.mart.name for r in refreshed] == ["orders_of_patients"]
        assert con.execute("FROM marts.orders_of_patients").fetchall() == [(1, 20)]


def test_a_check_that_is_taken_out_of_the_file_holds_nothing_back_any_more(
    repository: Repository, log: Log
) -> None:
    def run() -> list[tuple[object, ...]]:
        warehouse.cache_clear()
        platform = repository.warehouse()
        with platform.open(evolve=True) as con:
            with Platform() as batches, transaction(con):
                land(con, batches.batch(log.messages), platform.contracts, platform.settings)
            refresh(con, platform.marts, scheduled=True)
            publish(con, platform.marts, platform.settings)
        with duckdb.connect(str(platform.settings.published_file), read_only=True) as con:
            return con.execute("SELECT n_orders FROM orders_of_patients").fetchall()

    repository.add("orders_of_patients.sql", GOOD)
    assert run() == [(2,)]
    check = '[[checks]]\nname = "few"\nsentence = "s"\nholds = "n_orders < 3"\n*/'
    repository.add("orders_of_patients.sql", GOOD.replace("*/", check))
    log.change("orders", "c", None, order(3))
    assert run() == [(2,)]
    repository.add("orders_of_patients.sql", GOOD)
    assert run() == [(3,)]


def test_a_mart_whose_file_is_gone_loses_its_table(repository: Repository) -> None:
    repository.add("orders_of_patients.sql", GOOD)
    with repository.warehouse().open(evolve=True) as con:
        assert con.execute("FROM marts.orders_of_patients").fetchall() == []
    (repository.folder / "orders_of_patients.sql").unlink()
    warehouse.cache_clear()
    with repository.warehouse().open(evolve=True) as con:
        left = con.execute("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'marts'").fetchall()
    assert {name for (name,) in left} == REPOSITORY


def test_a_process_that_began_before_a_file_was_changed_leaves_its_table_alone(
    repository: Repository,
) -> None:
    before = repository.warehouse()
    repository.add("orders_of_patients.sql", GOOD)
    warehouse.cache_clear()
    with repository.warehouse().open(evolve=True):
        pass
    with before.open() as con:
        assert con.execute("FROM marts.orders_of_patients").fetchall() == []


def test_a_mart_that_fails_on_the_data_does_not_stop_the_others(
    repository: Repository, opened: duckdb.DuckDBPyConnection, log: Log
) -> None:
    failing = GOOD.replace("count(*) AS n_orders", "CAST(max('x' || order_id) AS BIGINT) AS n_orders")
    repository.add("orders_of_patients.sql", failing)
    platform = repository.warehouse()
    platform.prepare(opened)
    with Platform() as batches, transaction(opened):
        land(opened, batches.batch(log.messages), platform.contracts, platform.settings)
    refresh(opened, platform.marts, scheduled=True)
    assert opened.execute("SELECT count(*) FROM marts.orders_with_discount").fetchall() == [(2,)]


@pytest.mark.parametrize("name", sorted(REPOSITORY))
def test_every_column_of_every_mart_has_a_meaning(name: str) -> None:
    assert [column.name for column in marts()[name].columns if not column.meaning.strip()] == []


@pytest.mark.parametrize("name", sorted(REPOSITORY))
def test_every_mart_checks_its_grain(name: str) -> None:
    assert marts()[name].checks[0].name == "unique"
