"""Landing a batch: everything of it, or nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal

import pytest

from bi_assets.landing.land import COUNTS, land
from bi_assets.sql import transaction
from tests.histories import TABLES, World
from tests.landing.messages import Log, order, user
from tests.platform import Platform


@pytest.fixture
def log() -> Log:
    log = Log()
    log.change("users", "c", None, user(1))
    log.change("orders", "c", None, order(1))
    return log


@pytest.fixture
def platform() -> Iterator[Platform]:
    with Platform(tables=TABLES) as platform:
        yield platform


def contents(platform: Platform) -> dict[str, object]:
    """Return all rows of all schemas."""
    return {schema: platform.tables(schema) for schema in ("cdc", "history", "meta", "marts")}


def test_every_count_is_named_even_when_it_is_nothing(platform: Platform, log: Log) -> None:
    counts = platform.land(log.messages).counts
    assert counts == {**dict.fromkeys(COUNTS, 0), "messages": 2, "landed": 2}


def test_what_became_of_each_message_is_counted(platform: Platform, log: Log) -> None:
    log.change("users", "d", user(1), None)
    log.raw("users", log.messages[-1].key, None)
    log.raw("users", b'{"id":2}', b"{")
    again = log.messages[0]
    log.raw("users", again.key, again.value)
    assert platform.land(log.messages).counts == {
        **dict.fromkeys(COUNTS, 0),
        "messages": 6,
        "landed": 3,
        "tombstones": 1,
        "quarantined": 1,
        "duplicates": 1,
    }


def test_a_failure_after_landing_leaves_neither_rows_nor_offsets(platform: Platform, log: Log) -> None:
    platform.land(log.messages)
    platform.refresh()
    before = contents(platform)
    log.change("users", "u", user(1), user(1, -6.0))
    log.raw("orders", b"{}", b"not a message")
    batch = platform.batch(log.messages[2:])
    with pytest.raises(ZeroDivisionError), transaction(platform.con):
        land(platform.con, batch, platform.contracts, platform.settings)
        assert contents(platform) != before
        raise ZeroDivisionError
    assert contents(platform) == before


@pytest.mark.parametrize("failing", ["cdc.users", "meta.offsets", "meta.touched", "cdc.quarantine"])
def test_a_failure_at_any_table_leaves_nothing_of_the_batch(log: Log, failing: str) -> None:
    """The table is gone by the time that the batch wants to write to it."""
    with Platform(tables=TABLES, marts_of={}) as platform:
        log.raw("orders", b"{}", b"not a message")
        platform.con.execute(f"ALTER TABLE {failing} RENAME TO away")
        before = contents(platform)
        with pytest.raises(Exception, match=failing.split(".")[1]):
            platform.land(log.messages)
        assert contents(platform) == before
        platform.con.execute(f"ALTER TABLE {failing.split('.')[0]}.away RENAME TO {failing.split('.')[1]}")
        platform.land(log.messages)
        assert platform.value("SELECT count(*) FROM cdc.orders") == 1


def test_a_topic_that_no_contract_names_is_not_landed(platform: Platform, log: Log) -> None:
    log.raw("secrets", b'{"id":1}', log.messages[0].value)
    platform.land(log.messages)
    names = platform.con.execute(
        "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'cdc'"
    ).fetchall()
    assert {name for (name,) in names} == {*TABLES, "quarantine"}


def test_every_row_knows_where_it_came_from(platform: Platform, log: Log) -> None:
    log.change("orders", "u", order(1), order(1, amount_total="5.00"), row=3, server_id=9, gtid="a:1")
    platform.land(log.messages)
    (row,) = [row for row in platform.rows("cdc.orders") if row["_op"] == "u"]
    place: Mapping[str, object] = {
        "_server_id": 9, "_binlog_file": "binlog.000001", "_row": 3, "_gtid": "a:1", "_snapshot": "false",
        "_topic": "shop.shop.orders", "_partition": 0, "_offset": 1, "_batch_id": 1,
    }  # fmt: skip
    assert {name: row[name] for name in place} == place
    assert Decimal(json.loads(row["_before"])["amount_total"]) != row["amount_total"]


def test_worlds_leave_every_offset_in_the_log_the_quarantine_or_a_count(platform: Platform) -> None:
    messages = World(seed=11, sizes=(20,) * 10).messages()
    counts = platform.land(messages).counts
    assert counts["messages"] == len(messages)
    assert counts["messages"] == sum(
        counts[name] for name in ("landed", "duplicates", "tombstones", "truncates")
    )
