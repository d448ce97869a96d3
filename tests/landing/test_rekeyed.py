"""A changed primary key: one row that goes on under another key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bi_assets.micro_batch import sync
from bi_assets.settings import Settings
from bi_assets.warehouse import Warehouse
from shop.broker import EmbeddedBroker
from tests.histories import TABLES
from tests.landing.messages import Log, order, user
from tests.platform import Platform, assert_as_the_oracle, contracts, marts, produce, published


@pytest.fixture
def log() -> Log:
    log = Log()
    log.change("users", "c", None, user(1))
    log.change("orders", "c", None, order(1))
    log.rekey("orders", order(1), order(9), hours=2, partition=1)
    return log


@pytest.fixture
def platform() -> Iterator[Platform]:
    with Platform(tables=TABLES) as platform:
        yield platform


def test_a_rekeyed_order_is_neither_a_deleted_nor_another_order(platform: Platform, log: Log) -> None:
    platform.land(log.messages)
    platform.refresh()
    rows = platform.rows("marts.orders_with_discount")
    assert [(row["order_id"], row["order_state"]) for row in rows] == [(9, "paid")]
    assert_as_the_oracle(platform, log.messages)


def test_history_says_what_key_it_had_and_has(platform: Platform, log: Log) -> None:
    platform.land(log.messages)
    rows = platform.rows("history.orders ORDER BY id, version_no")
    assert [(row["id"], row["rekeyed_from"], row["rekeyed_to"]) for row in rows] == [
        (1, None, None),
        (1, None, '{"id":"9"}'),
        (9, '{"id":"1"}', None),
    ]


def test_an_order_that_takes_the_old_key_is_an_order_of_its_own(platform: Platform, log: Log) -> None:
    log.change("orders", "c", None, order(1, hours=3), hours=3)
    platform.land(log.messages)
    platform.refresh()
    assert [row["order_id"] for row in platform.rows("marts.orders_with_discount ORDER BY order_id")] == [
        1,
        9,
    ]
    assert_as_the_oracle(platform, log.messages)


def test_a_delete_without_the_header_stays_a_deleted_order(platform: Platform, log: Log) -> None:
    log.change("orders", "d", order(9), None, hours=4, partition=1)
    platform.land(log.messages)
    platform.refresh()
    assert [row["order_state"] for row in platform.rows("marts.orders_with_discount")] == ["deleted"]


def test_the_other_key_of_a_patient_is_a_token() -> None:
    log = Log()
    log.change("users", "c", None, user(1))
    log.rekey("users", user(1), user(2), hours=1)
    with Platform(Settings(data_dir=Path("unused"), pseudonym_key="k" * 32), tables=TABLES) as platform:
        platform.land(log.messages)
        (deleted,) = platform.rows("history.users WHERE rekeyed_to IS NOT NULL")
        (going_on,) = platform.rows("history.users WHERE rekeyed_from IS NOT NULL")
    assert json.loads(deleted["rekeyed_to"]) == {"id": going_on["id"]}
    assert json.loads(going_on["rekeyed_from"]) == {"id": deleted["id"]}
    assert len(going_on["id"]) == 64


def test_the_headers_of_the_broker_link_the_keys(log: Log, tmp_path: Path) -> None:
    """Debezium gives every message headers of its own context."""
    with EmbeddedBroker() as broker:
        context = ("__debezium.context.taskId", b"0")
        produce(broker, [m._replace(headers=(context, *m.headers)) for m in log.messages])
        settings = Settings(bootstrap_servers=broker.bootstrap_servers, data_dir=tmp_path)
        sync(Warehouse(settings, contracts(*TABLES), marts()))
    assert [row["order_id"] for row in published(settings)["orders_with_discount"]] == [9]
