"""Columns that no contract names are counted, and never stored."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.histories import TABLES
from tests.landing.messages import Log, user
from tests.platform import Platform


@pytest.fixture
def platform() -> Iterator[Platform]:
    with Platform(tables=TABLES) as platform:
        yield platform


def drift(platform: Platform) -> dict[str, int]:
    return {row["column_name"]: row["events"] for row in platform.rows("meta.drift")}


def test_rows_with_an_unknown_column_are_counted_over_batches(platform: Platform) -> None:
    log = Log()
    log.change("users", "c", None, user(1))
    log.change("users", "c", None, user(2, loyalty_level="gold"))
    platform.land(log.messages)
    assert drift(platform) == {"loyalty_level": 1}
    log.change("users", "c", None, user(3, loyalty_level="tin"))
    log.change("users", "d", user(2, loyalty_level="gold"), None)
    platform.land(log.messages[2:])
    assert drift(platform) == {"loyalty_level": 3}


def test_an_unknown_column_is_never_stored(platform: Platform) -> None:
    log = Log()
    log.change("users", "c", None, user(1, loyalty_level="PLANTED-VALUE"))
    platform.land(log.messages)
    assert "PLANTED-VALUE" not in repr([platform.tables(s) for s in ("cdc", "history", "meta", "state")])
    columns = platform.con.execute("SELECT column_name FROM duckdb_columns()").fetchall()
    assert ("loyalty_level",) not in columns


def test_a_column_that_the_contract_excludes_is_no_drift(platform: Platform) -> None:
    log = Log()
    log.change("users", "c", None, user(1, email="a@example.org", date_of_birth=1))
    platform.land(log.messages)
    assert drift(platform) == {}


def test_a_row_with_an_unknown_column_lands(platform: Platform) -> None:
    log = Log()
    log.change("users", "c", None, user(1, loyalty_level="gold"))
    assert platform.land(log.messages).tables == {"users": 1}


def test_a_lone_unknown_column_among_thousands_of_rows_is_found_once_it_is_sampled(
    platform: Platform,
) -> None:
    log = Log()
    for number in range(1, 3_000):
        log.change("users", "c", None, user(number, **({"loyalty_level": "x"} if number == 2_999 else {})))
    platform.land(log.messages)
    assert drift(platform) == {"loyalty_level": 1}
