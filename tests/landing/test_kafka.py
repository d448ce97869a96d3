"""Landing from a real broker, the one inside librdkafka."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from bi_assets.landing.debezium_json import decode_sql
from bi_assets.landing.kafka import KafkaSource
from bi_assets.landing.land import land
from bi_assets.landing.offsets import landed_offsets
from bi_assets.micro_batch import sync
from bi_assets.settings import Settings
from bi_assets.sql import transaction
from bi_assets.warehouse import Warehouse
from shop.broker import EmbeddedBroker
from tests.histories import TABLES
from tests.landing.messages import Log, order, user
from tests.platform import contracts, marts, produce


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as broker:
        yield broker


def warehouse_of(broker: EmbeddedBroker, folder: Path, **settings: Any) -> Warehouse:
    settings = {"bootstrap_servers": broker.bootstrap_servers, "data_dir": folder, **settings}
    return Warehouse(Settings(**settings), contracts(*TABLES), marts())


def query(warehouse: Warehouse, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(warehouse.settings.core_file), read_only=True) as con:
        return con.execute(sql).fetchall()


def test_two_readers_at_once_land_each_message_once(broker: EmbeddedBroker, tmp_path: Path) -> None:
    """Both connect before either lands: a `sync` beside a lingering run."""
    log = Log()
    log.change("users", "r", None, user(1))
    log.raw("users", b'{"id":2}', b"not a message")
    produce(broker, log.messages)
    warehouse = warehouse_of(broker, tmp_path)
    topics = [warehouse.settings.topic(table) for table in TABLES]
    for _ in range(2):
        log.change("users", "r", None, user(3))
    with KafkaSource(warehouse.settings, topics) as one, KafkaSource(warehouse.settings, topics) as two:
        with warehouse.open() as con:
            landed = landed_offsets(con)
        for source in (one, two):
            source.connect(landed)
        for source in (one, two):
            while source.backlog(source.ends):
                if batch := source.read(0.5):
                    with warehouse.open() as con, transaction(con):
                        land(con, batch, warehouse.contracts, warehouse.settings)
    assert query(warehouse, "SELECT count(*) FROM cdc.users") == [(1,)]
    assert query(warehouse, "SELECT count(*) FROM cdc.quarantine") == [(1,)]


def test_a_message_that_the_decoder_itself_fails_on_is_set_aside_and_the_rest_lands(
    broker: EmbeddedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No such message is known: the fault is put into the decoder."""

    def faulty(*arguments: Any) -> str:
        sql = decode_sql(*arguments)
        assert "op AS _op" in sql
        return sql.replace(
            "op AS _op", "CASE WHEN contains(text, 'choke') THEN error('!') ELSE op END AS _op"
        )

    monkeypatch.setattr("bi_assets.landing.land.decode_sql", faulty)
    log = Log()
    for number in range(1, 40):
        log.change("users", "c", None, user(number, note="choke" if number in (3, 20) else ""))
    log.change("orders", "c", None, order(1))
    produce(broker, log.messages)
    warehouse = warehouse_of(broker, tmp_path)
    outcome = sync(warehouse)
    assert [batch.counts["messages"] for batch in outcome.landed] == [40]
    assert query(warehouse, "SELECT count(*) FROM state.users") == [(37,)]
    assert query(warehouse, "SELECT count(*) FROM state.orders") == [(1,)]
    assert query(warehouse, "SELECT key_token, cause FROM cdc.quarantine ORDER BY 1") == [
        ("20", "the decoder failed on this message"),
        ("3", "the decoder failed on this message"),
    ]


def test_a_fault_of_the_machine_is_no_fault_of_the_messages(
    broker: EmbeddedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log()
    for number in (1, 2, 3):
        log.change("users", "c", None, user(number))
    produce(broker, log.messages)
    warehouse = warehouse_of(broker, tmp_path)

    def unreadable(*arguments: Any) -> str:
        missing = f"(SELECT any_value(column0) FROM read_csv('{tmp_path}/missing'))"
        return decode_sql(*arguments).replace("op AS _op", f"coalesce({missing}, op) AS _op")

    with monkeypatch.context() as broken:
        broken.setattr("bi_assets.landing.land.decode_sql", unreadable)
        with pytest.raises(duckdb.IOException):
            sync(warehouse)
    assert query(warehouse, "SELECT count(*) FROM cdc.quarantine") == [(0,)]
    sync(warehouse)
    assert query(warehouse, "SELECT count(*) FROM state.users") == [(3,)]


def test_what_the_broker_dropped_is_reported_and_the_rest_lands(
    broker: EmbeddedBroker, tmp_path: Path
) -> None:
    warehouse = warehouse_of(broker, tmp_path)
    log = Log()
    log.change("users", "c", None, user(1))
    produce(broker, log.messages)
    sync(warehouse)
    filler = "x" * 400_000
    for number in range(2, 42):  # the broker keeps about 5 MB of a partition
        log.change("users", "c", None, user(number, note=filler))
    produce(broker, log.messages[1:])
    sync(warehouse)
    ((topic, partition, first, last),) = query(
        warehouse, "SELECT topic, partition, first_offset, last_offset FROM meta.losses"
    )
    assert (topic, partition, first) == ("shop.shop.users", 0, 1)
    assert last < 40
    landed = [offset for (offset,) in query(warehouse, "SELECT _offset FROM cdc.users ORDER BY ALL")]
    assert landed == [0, *range(last + 1, 41)]
    assert query(warehouse, "SELECT next_offset FROM meta.offsets WHERE topic = 'shop.shop.users' "
                 "AND partition = 0") == [(41,)]  # fmt: skip


def test_a_loss_is_reported_once(broker: EmbeddedBroker, tmp_path: Path) -> None:
    warehouse = warehouse_of(broker, tmp_path)
    log = Log()
    log.change("users", "c", None, user(1))
    produce(broker, log.messages)
    sync(warehouse)
    for number in range(2, 32):
        log.change("users", "c", None, user(number, note="x" * 400_000))
    produce(broker, log.messages[1:])
    sync(warehouse)
    log.change("users", "c", None, user(99))
    produce(broker, log.messages[-1:])
    sync(warehouse)
    assert query(warehouse, "SELECT count(*) FROM meta.losses") == [(1,)]


def test_a_new_broker_that_sends_everything_again_neither_doubles_nor_reports_a_loss(tmp_path: Path) -> None:
    log = Log()
    log.change("users", "c", None, user(1))
    log.change("users", "u", user(1), user(1, -6.0), hours=1)
    log.change("orders", "c", None, order(1), hours=2)
    with EmbeddedBroker() as old, EmbeddedBroker() as new:  # both alive: their ids differ
        for broker in (old, new):
            produce(broker, log.messages)
            warehouse = warehouse_of(broker, tmp_path)
            sync(warehouse)
    assert query(warehouse, "SELECT count(*) FROM cdc.users") == [(2,)]
    assert query(warehouse, "SELECT count(*) FROM cdc.orders") == [(1,)]
    assert query(warehouse, "SELECT count(*) FROM meta.losses") == [(0,)]
    assert query(warehouse, "SELECT count(DISTINCT cluster_id) FROM meta.offsets") == [(2,)]


def test_a_sync_without_news_lands_nothing_and_publishes(broker: EmbeddedBroker, tmp_path: Path) -> None:
    log = Log()
    log.change("users", "c", None, user(1))
    produce(broker, log.messages)
    warehouse = warehouse_of(broker, tmp_path)
    assert sync(warehouse).messages == 1
    outcome = sync(warehouse)
    assert outcome.messages == 0
    assert outcome.published


def test_heartbeats_of_the_broker_advance_the_published_as_of(broker: EmbeddedBroker, tmp_path: Path) -> None:
    log = Log()
    log.change("users", "c", None, user(1))
    log.change("orders", "c", None, order(1))
    log.heartbeat(50)
    produce(broker, log.messages)
    warehouse = warehouse_of(broker, tmp_path)
    sync(warehouse)
    with duckdb.connect(str(warehouse.settings.published_file), read_only=True) as con:
        published = con.execute("SELECT DISTINCT as_of, complete_through FROM _meta").fetchall()
    assert [(str(as_of), through) for as_of, through in published] == [
        ("2024-05-02", datetime(2024, 5, 3, 14, tzinfo=UTC).replace(tzinfo=None))
    ]


@pytest.mark.parametrize("sent_ms", [1795567660000000, 10**16, -5])
def test_a_producers_odd_time_holds_nothing_up(broker: EmbeddedBroker, tmp_path: Path, sent_ms: int) -> None:
    """Such as microseconds where Kafka wants milliseconds."""
    log = Log()
    log.change("users", "c", None, user(1))
    key, value = log.bytes_of("users", "c", None, user(2))
    broker.produce("shop.shop.users", key, value, partition=1, timestamp_ms=sent_ms)
    broker.produce(
        "shop.shop.users", b'{"id":3}', b'{"id":3,"practitioner_discount":1.5}', timestamp_ms=sent_ms
    )
    produce(broker, log.messages)
    warehouse = warehouse_of(broker, tmp_path)
    sync(warehouse)
    assert query(warehouse, "SELECT id FROM state.users WHERE id < 3 ORDER BY id") == [(1,), (2,)]
