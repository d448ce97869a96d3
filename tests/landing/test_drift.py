"""The shop's columns change: what is not known is counted and never stored, what is gone is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from bi_assets import source_status
from bi_assets.contracts.contract import SCHEMA_CHANGES
from tests.histories import TABLES
from tests.landing.messages import Log, order, user
from tests.platform import Platform, Row


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


def told(platform: Platform) -> source_status.Told:
    return source_status.tell(platform.con, platform.contracts, platform.settings)


def changed(platform: Platform, policy: str) -> Log:
    """Give the contract of users a policy; return a log of which the first row has landed."""
    users = replace(platform.contracts["users"], schema_changes=policy)
    platform.contracts = {**platform.contracts, "users": users}
    log = Log()
    log.change("users", "c", None, whole(1))
    platform.land(log.messages)
    return log


def whole(number: int, **columns: object) -> Row:
    """Return a patient with all the contract's columns."""
    return user(number, **{"clinic_id": 1, "register_date": 0, **columns})


def without(row: Row, name: str) -> Row:
    return {column: value for column, value in row.items() if column != name}


def test_an_unknown_column_from_the_first_row_on_is_listed_and_no_problem(platform: Platform) -> None:
    log = Log()
    log.change("users", "c", None, user(1, loyalty_level="gold"))
    platform.land(log.messages)
    assert drift(platform) == {"loyalty_level": 1}
    assert (told(platform).problems, told(platform).notes) == ([], [])


def test_a_column_that_never_was_there_is_no_drift(platform: Platform) -> None:
    log = Log()
    log.change("users", "c", None, without(whole(1), "clinic_id"))
    log.change("users", "c", None, without(whole(2), "clinic_id"))
    platform.land(log.messages[:1])
    platform.land(log.messages[1:])
    assert drift(platform) == {}


@pytest.mark.parametrize(("policy", "is_problem"), [("report", True), ("accept", False)])
def test_a_new_and_a_dropped_column_are_told_as_the_policy_says(
    platform: Platform, policy: str, is_problem: bool
) -> None:
    log = changed(platform, policy)
    renamed = without(whole(2, clinic="one"), "clinic_id")
    log.change("users", "c", None, renamed)
    assert platform.land(log.messages[1:]).tables == {"users": 1}
    found = told(platform)
    said, silent = (found.problems, found.notes) if is_problem else (found.notes, found.problems)
    assert silent == []
    new, dropped = said
    assert new.startswith("users.clinic is new at the shop")
    assert dropped.startswith("users.clinic_id is no longer at the shop")
    assert "stored as null" in dropped
    assert platform.value("SELECT clinic_id FROM state.users WHERE id = 2") is None


def test_a_dropped_column_with_a_value_for_that_is_stored_as_it(platform: Platform) -> None:
    log = Log()
    log.change("orders", "c", None, order(1))
    log.change("orders", "c", None, without(order(2), "transaction_id"))
    platform.land(log.messages[:1])
    platform.land(log.messages[1:])
    (problem,) = told(platform).problems
    assert "stored as '(not recorded)'" in problem
    assert platform.value("SELECT transaction_id FROM state.orders WHERE id = 2") == "(not recorded)"


def test_what_the_contract_has_been_changed_for_is_told_no_longer(platform: Platform) -> None:
    log = changed(platform, "report")
    log.change("users", "c", None, without(whole(2, clinic="one"), "clinic_id"))
    platform.land(log.messages[1:])
    users = platform.contracts["users"]
    columns = tuple(c for c in users.columns if c.name != "clinic_id")
    platform.contracts = {
        **platform.contracts, "users": replace(users, columns=columns, excluded=(*users.excluded, "clinic")),
    }  # fmt: skip
    assert told(platform).problems == []


def test_a_column_that_is_there_again_is_told_no_longer(platform: Platform) -> None:
    log = changed(platform, "report")
    log.change("users", "c", None, without(whole(2), "clinic_id"))
    platform.land(log.messages[1:])
    assert len(told(platform).problems) == 1
    log.raw("users", log.messages[-1].key, None)
    platform.land(log.messages[-1:])
    assert len(told(platform).problems) == 1, "a tombstone has no columns"
    log.change("users", "c", None, whole(3))
    platform.land(log.messages[-1:])
    assert told(platform).problems == []


def test_rows_of_another_shape_go_to_quarantine_where_the_contract_says_so(platform: Platform) -> None:
    log = changed(platform, "quarantine")
    log.change("users", "c", None, without(whole(2, clinic="one", email="e"), "clinic_id"))
    log.change("users", "d", whole(1, clinic="one"), None)
    log.change("users", "c", None, whole(3, email="an excluded column may be there"))
    assert platform.land(log.messages[1:]).counts["quarantined"] == 2
    causes = platform.rows('(SELECT cause FROM cdc.quarantine ORDER BY "offset")')
    assert [row["cause"] for row in causes] == [
        "the shape of the row has changed: no contract names clinic; there is no clinic_id",
        "the shape of the row has changed: no contract names clinic",
    ]
    assert [row["id"] for row in platform.rows("state.users ORDER BY id")] == [1, 3]


@pytest.mark.parametrize("policy", SCHEMA_CHANGES)
def test_a_required_column_that_is_dropped_is_quarantined_by_any_policy(
    platform: Platform, policy: str
) -> None:
    log = changed(platform, policy)
    log.change("users", "c", None, without(whole(2), "practitioner_discount"))
    log.change("users", "c", None, whole(3, practitioner_discount="very much"))
    assert platform.land(log.messages[1:]).counts["quarantined"] == 2
    causes = [row["cause"] for row in platform.rows('(FROM cdc.quarantine ORDER BY "offset")')]
    assert "practitioner_discount" in causes[0]
    assert causes[1].startswith("practitioner_discount is not a valid double")


def test_a_large_batch_is_searched_for_a_missing_column_once_the_sample_lacks_it(platform: Platform) -> None:
    log = changed(platform, "report")
    for number in range(2, 1_502):
        row = whole(number)
        log.change("users", "c", None, without(row, "clinic_id") if number > 1_000 else row)
    platform.land(log.messages[1:])
    assert drift(platform) == {"clinic_id": 501}
