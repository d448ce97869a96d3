"""`verify --shop`: what it makes of a connector's answer, and of none.

The connector is played here; tests/stack/test_change_semantics.py has the real one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bi_assets.errors import UserError
from bi_assets.operations import verify_shop
from tests.landing.messages import order, user
from tests.operations.desk import Desk
from tests.operations.test_commands import call
from tests.stack.topics import read_topics

SIGNALS = "shop.signals"
NOTIFICATIONS = "shop.notifications"
_SECONDS = 20.0


@pytest.fixture
def sold(desk: Desk) -> Desk:
    """Two patients and an order have landed; another order is in Kafka."""
    for patient in (1, 2):
        desk.log.change("users", "c", None, user(patient))
    desk.log.change("orders", "c", None, order(1, hours=3), hours=3)
    desk.sync()
    desk.log.change("orders", "c", None, order(2, hours=4), hours=4)
    desk.send()
    return desk


def test_a_connector_that_does_not_react_is_told_with_the_settings_it_needs(
    sold: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    sold.broker.produce(SIGNALS, b"shop", b"{}", partition=0)
    sold.broker.flush()
    monkeypatch.setattr(verify_shop, "_ANSWER_SECONDS", 1.0)
    result = call(sold, "verify", "--shop", "--yes")
    assert result.exit_code == 1
    assert "3 rows as far as they are known here: about 28 queries" in result.output
    (told,) = [line for line in result.output.splitlines() if "does not react" in line]
    for setting in (
        "read.only=true",
        "signal.enabled.channels=kafka",
        f"signal.kafka.topic={SIGNALS}",
        "signal.kafka.bootstrap.servers",
    ):
        assert setting in told
    signal = read_topics(sold.settings.bootstrap_servers, [SIGNALS])[-1]
    asked = json.loads(signal.value or b"")
    assert (signal.key, signal.partition, asked["type"]) == (b"shop", 0, "execute-snapshot")
    assert asked["data"]["type"] == "INCREMENTAL"
    assert set(asked["data"]["data-collections"]) == {f"shop.{table}" for table in sold.warehouse.contracts}
    assert sold.query("SELECT count(*) FROM state.orders") == [(2,)], "what Kafka had did not land"


def test_a_topic_for_signals_that_is_not_there_is_told_and_nothing_is_sent(sold: Desk) -> None:
    with pytest.raises(UserError, match=r"has no topic shop\.signals for signals\. Make the topic"):
        verify_shop.compare(sold.warehouse, verify_shop.load_of(sold.warehouse))


def test_the_shop_is_not_asked_before_somebody_has_agreed(sold: Desk) -> None:
    result = call(sold, "verify", "--shop", "--table", "users")
    assert result.exit_code == 1
    assert "1 tables of the shop as a whole, 2 rows" in result.output
    assert "Run it with --yes to go on" in result.output


def test_a_table_that_is_not_known_is_refused(sold: Desk) -> None:
    assert "There is no table 'nobody'" in call(sold, "verify", "--shop", "--table", "nobody").output


def answer(desk: Desk, statuses: Mapping[str, str]) -> None:
    """Be the connector: once asked, send what the log has, and tell how each table went."""
    deadline = time.monotonic() + _SECONDS
    while len(asked := read_topics(desk.settings.bootstrap_servers, [SIGNALS])) < 2:
        assert time.monotonic() < deadline, "there was no signal"
    identity = json.loads(asked[-1].value or b"")["id"]

    def tell(of: str, kind: str, **more: str) -> None:
        told = {"id": of, "type": kind, "aggregate_type": "Incremental Snapshot", "additional_data": more}
        desk.broker.produce(NOTIFICATIONS, None, json.dumps(told).encode(), partition=0)

    tell("another snapshot's", "COMPLETED")
    desk.send()
    for table, status in statuses.items():
        tell(identity, "TABLE_SCAN_COMPLETED", scanned_collection=f"shop.{table}", status=status)
    tell(identity, "COMPLETED")
    desk.broker.flush()


def compared(desk: Desk, statuses: Mapping[str, str]) -> verify_shop.Compared:
    """Compare the tables that the connector tells of."""
    for topic in (SIGNALS, NOTIFICATIONS):
        desk.broker.produce(topic, None, b"{}", partition=0)
    desk.broker.flush()
    with ThreadPoolExecutor(1) as connector:
        answered = connector.submit(answer, desk, statuses)
        found = verify_shop.compare(desk.warehouse, verify_shop.load_of(desk.warehouse, statuses))
        answered.result()
    return found


def test_what_differs_is_told_and_mended_and_what_cannot_be_told_is_not(desk: Desk) -> None:
    log = desk.log
    for patient in range(1, 6):
        log.change("users", "c", None, user(patient))
    log.change("orders", "c", None, order(1))
    log.change("orders", "c", None, order(2))
    log.change("brands", "c", None, {"id": 1, "name": "one"})
    desk.sync()
    again: dict[str, Any] = {"pos": 9_000, "snapshot": "incremental", "hours": 5}
    log.change("users", "r", None, user(1), **again)
    log.change("users", "r", None, user(2, -9.0), **again)
    log.change("users", "r", None, user(3, 7.5), **again)  # into quarantine: it is not gone
    # A change that comes meanwhile, and a delete; patient 4 was read after the one.
    log.change("users", "u", user(4), user(4, -1.0), pos=8_900, hours=5)
    log.change("users", "r", None, user(4, -1.0), **again)
    log.change("orders", "d", order(2), None, pos=9_100, hours=5)
    log.change("users", "r", None, user(6), **again)
    found = compared(desk, {"users": "SUCCEEDED", "orders": "EMPTY", "brands": "UNKNOWN_SCHEMA"})

    assert found.tables == {
        "users": {"known": 5, "read": 4, "changed": 1, "missing": 1, "vanished": 1},
        "orders": {"known": 2, "read": 0, "changed": 0, "missing": 0, "vanished": 1},
        "brands": {"known": 1, "read": 0, "changed": 0, "missing": 0, "vanished": 0},
    }
    assert found.differences == [
        "users, id 2: practitioner_discount was -5.0000, is -9.0000 at the shop",
        "users, id 6: was missing here, and has landed now.",
        "users, id 5: is no longer at the shop.",
        "orders, id 1: is no longer at the shop.",
        "users: what vanished stays here until it is swept: have the connector take a new snapshot of the "
        "whole table, then run `pharmacy-bi sweep users --apply`.",
        "orders is empty at the shop; what vanished stays here, since `pharmacy-bi sweep` needs a snapshot "
        "that has a row.",
    ]
    refused, not_read = found.not_compared
    assert refused.startswith("users: 1 messages that came meanwhile are in quarantine")
    assert not_read.startswith("brands was not read as a whole (the connector says UNKNOWN_SCHEMA)")
    assert not found.ok
    state = desk.query("SELECT id, practitioner_discount FROM state.users ORDER BY id")
    assert [(n, float(discount)) for n, discount in state] == [
        (1, -5), (2, -9), (3, -5), (4, -1), (5, -5), (6, -5),
    ]  # fmt: skip


def test_where_nothing_differs_all_is_well(sold: Desk) -> None:
    again: dict[str, Any] = {"pos": 9_000, "snapshot": "incremental", "hours": 5}
    for patient in (1, 2):
        sold.log.change("users", "r", None, user(patient), **again)
    found = compared(sold, {"users": "SUCCEEDED"})
    assert (found.ok, found.differences, found.not_compared) == (True, [], [])
    assert found.tables["users"]["read"] == 2
