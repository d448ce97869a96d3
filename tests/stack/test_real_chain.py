"""From the shop's SQL to published answers: nothing lost, nothing changed on the way."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from shop.debezium import envelope
from shop.schema import TABLES
from stack.servers import Stack
from tests import oracle
from tests.stack.published import assert_equals_oracle, sync
from tests.stack.simulation import OPENING, Simulation
from tests.stack.topics import Record, end_offset, read_topics

pytestmark = pytest.mark.stack

TOPICS = {table: f"shop.shop.{table}" for table in TABLES}


def test_marts_equal_the_oracle(stack: Stack, shop_database: Any, tmp_path: Path) -> None:
    shop = Simulation(shop_database)
    shop.open()
    shop.start_connector(stack)
    sync(stack.bootstrap_servers, tmp_path / "data")
    shop.live(days=56)
    stack.wait_delivered()

    records = read_topics(stack.bootstrap_servers, TOPICS.values())
    assert_every_kind_of_change_was_seen(shop)
    assert_times_are_the_shops(shop, records)
    assert_topics_hold_the_tables(shop, records)
    sync(stack.bootstrap_servers, tmp_path / "data")
    assert_equals_oracle(tmp_path / "data", for_oracle(records))


def test_a_killed_connector_loses_nothing(stack: Stack, shop_database: Any, tmp_path: Path) -> None:
    shop = Simulation(shop_database)
    shop.open()
    shop.start_connector(stack)

    with trading(shop):
        for killed in range(1, 4):
            wait_for_more_orders(stack)
            stack.stop_connect(kill=True)
            if killed == 2:
                sync(stack.bootstrap_servers, tmp_path / "data")
            stack.start_connect()
    stack.wait_delivered()

    records = read_topics(stack.bootstrap_servers, TOPICS.values())
    assert changes_sent_again(records) > 0, "the connector was killed at harmless moments"
    assert_topics_hold_the_tables(shop, records)
    sync(stack.bootstrap_servers, tmp_path / "data")
    assert_equals_oracle(tmp_path / "data", for_oracle(records))


@contextmanager
def trading(shop: Simulation) -> Iterator[None]:
    """Let the shop trade, five days a second, in a thread until the end of the block.

    Raises what the shop's SQL raised.
    """
    over = Event()

    def trade() -> None:
        while not over.wait(0.2):
            shop.live(days=1)

    with ThreadPoolExecutor(1) as thread:
        life = thread.submit(trade)
        try:
            yield
        finally:
            over.set()
        life.result()


def wait_for_more_orders(stack: Stack) -> None:
    """Return once some fresh orders are in Kafka, so that the connector is in the midst of it."""
    topic = TOPICS["orders"]
    seen = end_offset(stack.bootstrap_servers, topic)
    deadline = time.monotonic() + 60
    while end_offset(stack.bootstrap_servers, topic) < seen + 20:
        assert time.monotonic() < deadline, "no orders arrive"
        time.sleep(0.05)


def events(records: list[Record], topic: str | None = None) -> list[tuple[Record, dict[str, Any]]]:
    """Return the records that are no tombstones, of one topic or of all, with their values."""
    return [
        (record, json.loads(record.value))
        for record in records
        if record.value is not None and topic in (None, record.topic)
    ]


def assert_every_kind_of_change_was_seen(shop: Simulation) -> None:
    """The shop has lived through what the marts must cope with."""
    expected = {
        ("users", "insert"),
        ("users", "update"),
        ("orders", "insert"),
        ("orders", "update"),
        ("orders", "delete"),
        ("order_items", "update"),  # refunds
        ("order_items", "delete"),
        ("favourite_products", "delete"),
    }
    assert expected <= shop.kinds.keys()
    assert len(shop.seconds) > 300


def assert_times_are_the_shops(shop: Simulation, records: list[Record]) -> None:
    """Events carry the times at which the shop's transactions happened, to the second."""
    snapshot: set[int] = set()
    stream: set[int] = set()
    for _, event in events(records):
        (snapshot if event["op"] == "r" else stream).add(event["source"]["ts_ms"])
    assert snapshot == {int(OPENING.timestamp()) * 1000}
    assert {ts // 1000 for ts in stream} <= shop.seconds
    # Some transactions set what is set already, and leave no trace in the binlog.
    assert len(stream) > 0.9 * len(shop.seconds)
    created = [event for _, event in events(records, TOPICS["orders"]) if event["op"] == "c"]
    assert created
    for event in created:
        assert event["source"]["ts_ms"] == event["after"]["date"] // 1000 * 1000


def assert_topics_hold_the_tables(shop: Simulation, records: list[Record]) -> None:
    """The last event of each key is the table's row, in the form that `shop.debezium` gives it.

    So this also shows that the simulated connector speaks as the real one does.
    """
    for table, topic in TOPICS.items():
        last = {record.key: event for record, event in events(records, topic)}
        present = {key: event["after"] for key, event in last.items() if event["op"] != "d"}
        rows: dict[bytes | None, dict[str, Any]] = {}
        for row in shop.rows(table):
            key, value = envelope(table, "c", None, row, source_ts_ms=0, file="binlog.000001", pos=4, row=0)
            simulated = json.loads(value)
            rows[key] = simulated["after"]
        assert rows, f"{table} is empty"
        assert present == rows, table
        for event in last.values():
            assert event.keys() == simulated.keys()
            assert event["source"].keys() == simulated["source"].keys()


def changes_sent_again(records: list[Record]) -> int:
    """Return how many changes of the binlog are in Kafka more than once."""
    places = [
        (record.topic, record.key, *(event["source"][part] for part in ("file", "pos", "row")))
        for record, event in events(records)
        if event["op"] != "r"
    ]
    return len(places) - len(set(places))


def for_oracle(records: list[Record]) -> list[oracle.Message]:
    """Return records as the oracle takes them."""
    return [oracle.Message(*record[:5]) for record in records]
