"""`verify --shop` without a connector: what it says then. With one: tests/stack/test_change_semantics.py."""

from __future__ import annotations

import json

import pytest

from bi_assets.errors import UserError
from bi_assets.operations import verify_shop
from tests.landing.messages import order, user
from tests.operations.desk import Desk
from tests.operations.test_commands import call
from tests.stack.topics import read_topics

SIGNALS = "shop.signals"


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
