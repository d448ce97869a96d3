"""What real brokers do to topics: nothing that exists is lost, nothing goes unsaid, nothing crashes."""

import logging
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from confluent_kafka import Consumer, TopicPartition

from bi_assets.errors import UserError
from bi_assets.landing import kafka
from bi_assets.landing.batch import Batch
from bi_assets.landing.kafka import KafkaSource
from bi_assets.landing.land import land
from bi_assets.landing.offsets import landed_offsets
from bi_assets.micro_batch import linger, sync
from bi_assets.sql import transaction
from sensors import kafka_cdc
from stack.broker import Broker
from stack.process import free_ports
from tests.landing.messages import order, user, wall
from tests.stack.topic_world import SECONDS, TopicWorld, one_line

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    hurry = {
        # Compaction as soon as there is something to compact.
        "log.cleaner.backoff.ms": "100",
        "log.initial.task.delay.ms": "100",
        # One that was killed may come back at once.
        "broker.session.timeout.ms": "1500",
        "broker.heartbeat.interval.ms": "300",
    }
    with Broker(tmp_path_factory.mktemp("broker"), hurry) as broker:
        yield broker


@pytest.fixture
def world(broker: Broker, tmp_path: Path) -> TopicWorld:
    return TopicWorld(broker, tmp_path)


def some_users(world: TopicWorld, *ids: int, partition: int = 0) -> None:
    """Send a change for each."""
    world.send(*[world.log.change("users", "c", None, user(n), partition=partition) for n in ids])


def read_all(world: TopicWorld, source: KafkaSource) -> None:
    """Land what a connected source has to give, as a lingering run does."""
    while batch := source.read(1.0):
        with world.warehouse.open() as con, transaction(con):
            land(con, batch, world.warehouse.contracts, world.warehouse.settings)


def landed(world: TopicWorld) -> kafka.LandedOffsets:
    with world.warehouse.open() as con:
        return landed_offsets(con)


# Retention


def test_what_retention_ate_is_told_and_the_rest_lands(world: TopicWorld) -> None:
    world.make()
    some_users(world, 1, 2)
    sync(world.warehouse)
    some_users(world, 3, 4, 5)
    world.drop_before(4)
    sync(world.warehouse)
    assert world.users() == [1, 2, 5]
    line = one_line(world.problems(), world.topic(), "2 offsets", "0: 2-3")
    assert "take a new snapshot" in line and "retention.ms" in line


def test_status_tells_of_a_loss_before_anything_else_has_come(world: TopicWorld) -> None:
    world.make()
    some_users(world, 1)
    sync(world.warehouse)
    some_users(world, 2)
    world.drop_before(2)
    sync(world.warehouse)
    one_line(world.problems(), "1 offsets", "0: 1-1")
    some_users(world, 3)
    sync(world.warehouse)
    one_line(world.problems(), "1 offsets", "0: 1-1")


def test_a_topic_that_has_lost_its_beginning_when_it_is_first_seen_is_told(world: TopicWorld) -> None:
    world.make()
    some_users(world, 1, 2, 3)
    world.drop_before(2)
    sync(world.warehouse)
    assert world.users() == [3]
    one_line(world.problems(), world.topic(), "2 offsets", "0: 0-1")


def test_what_retention_eats_under_a_running_reader_is_told(world: TopicWorld) -> None:
    world.make()
    some_users(world, 1)
    sync(world.warehouse)
    some_users(world, 2, 3, 4)
    with world.source() as source:
        source.connect(landed(world), fetch=False)
        world.drop_before(3)
        # What `connect` does at the end: retention was quicker.
        source._consumer.assign([TopicPartition(world.topic(), 0, 1)])
        read_all(world, source)
        assert source.topics_changed()
        source.connect(landed(world))
        read_all(world, source)
    assert world.users() == [1, 4]
    one_line(world.problems(), "2 offsets", "0: 1-2")


def test_heartbeats_that_nobody_heard_are_no_loss(world: TopicWorld) -> None:
    some_users(world, 1)
    world.send(world.log.heartbeat(1))
    sync(world.warehouse)
    world.send(world.log.heartbeat(2), world.log.heartbeat(3))
    heartbeats = world.warehouse.settings.heartbeat_topic
    for future in world.admin.delete_records([TopicPartition(heartbeats, 0, 2)]).values():
        future.result(SECONDS)
    sync(world.warehouse)
    assert world.problems() == []


# Topics that go, come back, grow


def test_a_deleted_topic_is_told_and_everything_else_lands(world: TopicWorld) -> None:
    some_users(world, 1, 2)
    sync(world.warehouse)
    world.delete()
    world.send(world.log.change("orders", "c", None, order(1)))
    sync(world.warehouse)
    assert world.rows("SELECT id FROM cdc.orders") == [1]
    line = one_line(world.problems(), world.topic(), "does not have this topic any more", "2 offsets")
    assert "new snapshot" in line


def test_a_topic_made_anew_is_read_from_its_beginning(world: TopicWorld) -> None:
    world.make()
    some_users(world, 1, 2)
    sync(world.warehouse)
    world.delete()
    world.make()
    some_users(world, 3, 4, 5)
    sync(world.warehouse)
    assert world.users() == [1, 2, 3, 4, 5]
    one_line(world.notes(), world.topic(), "made anew", "0: 2")
    sync(world.warehouse)
    assert world.users() == [1, 2, 3, 4, 5]
    one_line(world.notes(), world.topic(), "made anew", "0: 2")


def test_what_a_deleted_topic_still_held_is_a_loss(world: TopicWorld) -> None:
    world.make()
    some_users(world, 1)
    with world.source() as source, world.warehouse.open(evolve=True) as con:
        source.connect({})
        batch = source.read(SECONDS)
        assert batch
        ends = {p: end + (2 if p.topic == world.topic() else 0) for p, end in batch.end_offsets.items()}
        with transaction(con):  # two more are there, and have not been read
            land(con, Batch(batch.messages, batch.next_offsets, ends, batch.read_at),
                 world.warehouse.contracts, world.warehouse.settings)  # fmt: skip
    world.delete()
    one_line(world.problems(), "does not have this topic", "not landed: 2")
    world.make()
    some_users(world, 4)
    sync(world.warehouse)
    one_line(world.problems(), world.topic(), "2 offsets", "0: 1-2")


def test_a_topic_made_anew_under_a_running_reader_is_noticed(world: TopicWorld) -> None:
    """It has grown beyond where the old one was read: its offsets alone would not tell."""
    world.make()
    some_users(world, 1, 2)
    with world.source() as source:
        with world.warehouse.open(evolve=True) as con:
            source.connect(landed_offsets(con))
        read_all(world, source)
        world.delete()
        world.make()
        some_users(world, 3, 4, 5, 6)
        read_all(world, source)
        assert source.topics_changed()
        source.connect(landed(world))
        read_all(world, source)
    assert world.rows("SELECT DISTINCT id FROM cdc.users ORDER BY id") == [1, 2, 3, 4, 5, 6]
    assert world.rows("SELECT count(*) FROM history.users") == [6]
    one_line(world.notes(), world.topic(), "made anew")


def test_a_deleted_topic_does_not_stop_a_running_reader(world: TopicWorld) -> None:
    some_users(world, 1)
    world.send(world.log.change("orders", "c", None, order(1)))
    with world.source() as source:
        with world.warehouse.open(evolve=True) as con:
            source.connect(landed_offsets(con))
        read_all(world, source)
        world.delete()
        world.send(world.log.change("orders", "c", None, order(2)))
        read_all(world, source)
        source.refresh_ends()
        assert source.topics_changed()
    assert world.rows("SELECT id FROM cdc.orders ORDER BY id") == [1, 2]


def test_partitions_that_are_added_are_read_from_their_beginning(world: TopicWorld) -> None:
    world.make()
    some_users(world, 1)
    with world.source() as source:
        with world.warehouse.open(evolve=True) as con:
            source.connect(landed_offsets(con))
        read_all(world, source)
        assert not source.topics_changed()
        world.add_partitions(3)
        world.producer = world.new_producer()  # the old one learns of it within minutes
        some_users(world, 2, partition=1)
        some_users(world, 3, partition=2)
        assert source.topics_changed()
        source.connect(landed(world))
        read_all(world, source)
    some_users(world, 4, partition=2)
    sync(world.warehouse)
    assert world.users() == [1, 2, 3, 4]
    assert world.problems() == []


def test_a_topic_cut_short_by_a_broken_disk_is_told(world: TopicWorld, broker: Broker) -> None:
    world.make()
    some_users(world, 1, 2, 3)
    sync(world.warehouse)
    broker.stop()
    shutil.rmtree(broker.folder / "kafka" / f"{world.topic()}-0")
    broker.start()
    some_users(world, 4)
    sync(world.warehouse)
    assert world.users() == [1, 2, 3, 4]
    one_line(world.notes(), world.topic(), "cut short", "0: 3")


# Transactions


def test_what_a_transaction_took_back_never_happened(world: TopicWorld) -> None:
    world.make()
    producer = world.new_producer(transactional_id=world.name)
    producer.init_transactions(SECONDS)
    for n, end in [(1, producer.commit_transaction), (2, producer.abort_transaction),
                   (3, producer.commit_transaction)]:  # fmt: skip
        producer.begin_transaction()
        world.send(world.log.change("users", "c", None, user(n)), producer=producer)
        end(SECONDS)
    sync(world.warehouse)
    assert world.users() == [1, 3]
    # Three messages and three control records.
    assert world.rows(f"SELECT next_offset FROM meta.offsets WHERE topic = '{world.topic()}'") == [6]
    assert world.problems() == []


def test_an_unfinished_transaction_stops_nobody_and_is_told(world: TopicWorld) -> None:
    world.make()
    producer = world.new_producer(transactional_id=world.name)
    producer.init_transactions(SECONDS)
    producer.begin_transaction()
    world.send(world.log.change("users", "c", None, user(1), hours=1), producer=producer, timed=True)
    world.send(
        world.log.change("users", "c", None, user(2), hours=2),  # waits behind it
        world.log.change("orders", "c", None, order(1), hours=3),
        world.log.heartbeat(4),
        timed=True,
    )
    started = time.monotonic()
    sync(world.warehouse)
    assert time.monotonic() - started < 10
    assert world.users() == []
    assert world.rows("SELECT id FROM cdc.orders") == [1]
    assert world.rows("SELECT complete_through FROM meta.progress") == [None]
    one_line(world.notes(), world.topic(), "2 messages", "transaction", "kafka-transactions.sh")
    producer.commit_transaction(SECONDS)
    sync(world.warehouse)
    assert world.users() == [1, 2]
    assert world.rows("SELECT complete_through FROM meta.progress") == [wall(4)]
    assert world.notes() == []


# Compaction


def test_holes_that_compaction_left_are_no_losses(world: TopicWorld) -> None:
    world.make(cleanup_policy="compact", segment_ms="1", min_cleanable_dirty_ratio="0.001")
    log = world.log
    world.send(log.change("users", "c", None, user(1)), log.change("users", "c", None, user(2)))
    sync(world.warehouse)
    for discount in (-6.0, -7.0, -8.0, -9.0):
        world.send(log.change("users", "u", user(1), user(1, discount)))
        time.sleep(0.01)  # into a segment of its own
    some_users(world, 3)
    left = wait_for_compaction(world, fewer_than=7)
    assert left[-1] == 6
    sync(world.warehouse)
    assert world.rows("SELECT _offset FROM cdc.users ORDER BY 1") == sorted({0, 1, *left})
    assert world.problems() == []
    one_line(world.notes(), world.topic(), "compacted", "cleanup.policy=delete")


def wait_for_compaction(world: TopicWorld, *, fewer_than: int) -> list[int]:
    """Return the offsets that a topic has left, once it has fewer."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        consumer = Consumer({"bootstrap.servers": world.broker.bootstrap_servers, "group.id": "onlooker"})
        consumer.assign([TopicPartition(world.topic(), 0, 0)])
        offsets: list[int] = []
        while not offsets or offsets[-1] != 6:
            offsets += [m.offset() or 0 for m in consumer.consume(10, timeout=1.0) if not m.error()]
        consumer.close()
        if len(offsets) < fewer_than:
            return offsets
    raise AssertionError("the broker does not compact")


# Large messages


def test_a_message_larger_than_the_fetch_sizes_lands(world: TopicWorld) -> None:
    world.make(max_message_bytes="20000000")
    large = world.log.change("users", "c", None, user(1, note="x" * 12_000_000))
    world.send(large, producer=world.new_producer(message_max_bytes=20_000_000))
    some_users(world, 2)
    sync(world.warehouse)
    assert world.users() == [1, 2]


def test_a_message_larger_than_the_client_takes_is_told_and_holds_up_nothing_else(
    broker: Broker, tmp_path: Path
) -> None:
    limits = tmp_path / "kafka.properties"
    limits.write_text("message.max.bytes=100000\nfetch.max.bytes=100000\nreceive.message.max.bytes=200000\n")
    world = TopicWorld(broker, tmp_path, kafka_config=limits)
    world.make(max_message_bytes="20000000")
    world.send(world.log.change("orders", "c", None, order(1)))
    sync(world.warehouse)
    large = world.log.change("users", "c", None, user(1, note="x" * 300_000))
    world.send(large, producer=world.new_producer(message_max_bytes=20_000_000))
    with pytest.raises(UserError, match="larger than the client takes"):
        sync(world.warehouse)
    line = one_line(world.problems(), "larger than the client takes")
    assert "receive.message.max.bytes higher in KAFKA_CONFIG" in line
    linger(world.warehouse, lambda is_ending: False)  # ends, and does not raise
    limits.write_text("")
    sync(world.warehouse)
    assert world.users() == [1]
    assert world.problems() == []


# Brokers that go and come back


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "BATCH_MESSAGES", 50)
    monkeypatch.setattr(kafka, "_AT_ONCE", 50)


@pytest.mark.usefixtures("small_batches")
def test_a_broker_that_restarts_in_the_midst_of_a_sync_is_waited_for(
    world: TopicWorld, broker: Broker
) -> None:
    some_users(world, *range(1, 301))
    batches = 0

    def restart(done: int, left: int) -> None:
        nonlocal batches
        batches += 1
        if batches == 1:
            broker.stop(kill=True)
            restarting.append(thread.submit(broker.start))

    with ThreadPoolExecutor(1) as thread:
        restarting: list[object] = []
        sync(world.warehouse, restart)
    assert batches > 1
    assert world.users() == list(range(1, 301))
    assert world.problems() == []


@pytest.mark.usefixtures("small_batches")
def test_a_broker_that_stays_away_ends_a_sync_with_what_had_come(
    world: TopicWorld, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "_ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(kafka, "_RESTART_SECONDS", 1.0)
    some_users(world, *range(1, 301))
    with pytest.raises(UserError, match="No Kafka broker answers at"):
        sync(world.warehouse, lambda done, left: broker.stop())
    some = world.users()
    assert some and some == list(range(1, len(some) + 1))
    assert world.warehouse.settings.published_file.exists()
    one_line(world.problems(), "No Kafka broker answers at", broker.bootstrap_servers, "Start it")
    linger(world.warehouse, lambda is_ending: False)  # ends, and does not raise
    broker.start()
    sync(world.warehouse)
    assert world.users() == list(range(1, 301))
    assert world.problems() == []


def test_a_broker_that_comes_back_elsewhere_is_found_by_its_other_address(
    broker: Broker, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    both = f"{broker.bootstrap_servers},127.0.0.1:{port}"
    world = TopicWorld(broker, tmp_path, bootstrap_servers=both)
    some_users(world, 1)
    with world.source() as source:
        with world.warehouse.open(evolve=True) as con:
            source.connect(landed_offsets(con))
        read_all(world, source)
        broker.stop()
        broker.start(port=port)
        world.producer = world.new_producer()
        some_users(world, 2)
        deadline = time.monotonic() + SECONDS
        while world.users() != [1, 2]:
            assert time.monotonic() < deadline
            read_all(world, source)
    # The setting is changed: it is the same cluster, and nothing lands again.
    moved = TopicWorld(broker, tmp_path)
    assert sync(moved.warehouse).messages == 0
    assert (moved.problems(), moved.notes()) == ([], [])


# The sensor


def test_the_sensor_says_once_that_the_broker_is_away_and_goes_on_when_it_is_back(
    world: TopicWorld, broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kafka, "_ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(kafka_cdc, "_PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(kafka_cdc, "_WAIT_SECONDS", 2.0)
    some_users(world, 1)
    sync(world.warehouse)
    sensor = kafka_cdc.kafka_cdc(world.warehouse)
    with dg.DagsterInstance.ephemeral() as instance, caplog.at_level(logging.WARNING, "sensors.kafka_cdc"):

        def evaluate() -> Any:
            return sensor(dg.build_sensor_context(instance=instance))

        assert isinstance(evaluate(), dg.SkipReason)
        broker.stop()
        for _ in range(3):
            skipped = evaluate()
        assert isinstance(skipped, dg.SkipReason)
        assert "No Kafka broker answers" in (skipped.skip_message or "")
        monkeypatch.setattr(kafka_cdc, "_WAIT_SECONDS", 25.0)
        with ThreadPoolExecutor(1) as thread:
            evaluation = thread.submit(evaluate)
            broker.start()
            some_users(world, 2)
            assert isinstance(evaluation.result(), dg.RunRequest)
    said = [record.message for record in caplog.records if record.name == "sensors.kafka_cdc"]
    assert len(said) == 2
    assert "No Kafka broker answers" in said[0]
    assert said[1] == "Kafka answers again."
