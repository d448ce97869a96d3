"""A shop's topics on a real broker, under a prefix of their own, and a platform that lands them."""

import logging
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import duckdb
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic

from bi_assets.landing.kafka import KafkaSource
from bi_assets.settings import Settings
from bi_assets.status import status
from bi_assets.warehouse import Warehouse
from stack.broker import Broker
from tests.histories import TABLES
from tests.landing.messages import Log
from tests.oracle import Message
from tests.platform import contracts, marts

SECONDS = 30.0
# Brokers go away here, which clients tell at length.
_silent = logging.getLogger("tests.stack.librdkafka")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False


class TopicWorld:
    """`log` makes messages; what is not sent here stays there."""

    def __init__(self, broker: Broker, folder: Path, **settings: Any) -> None:
        self.broker = broker
        self.name = folder.name.replace("_", "-")
        self.log = Log()
        self.warehouse = Warehouse(
            Settings(
                bootstrap_servers=settings.pop("bootstrap_servers", broker.bootstrap_servers),
                data_dir=folder,
                topic_prefix=f"{self.name}.shop",
                **settings,
            ),
            contracts(*TABLES),
            marts(),
        )
        self.admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers}, logger=_silent)
        self.producer = self.new_producer()

    def new_producer(self, **settings: str | int) -> Producer:
        """Return a producer; `settings` have `_` for `.`."""
        more = {name.replace("_", "."): value for name, value in settings.items()}
        return Producer(
            {
                "bootstrap.servers": self.broker.bootstrap_servers,
                "linger.ms": 0,
                "enable.idempotence": True,  # what is sent again keeps its turn
                **more,
            },
            logger=_silent,
        )

    def topic(self, table: str = "users") -> str:
        """The topic of a table."""
        return self.warehouse.settings.topic(table)

    def make(self, table: str = "users", partitions: int = 1, **config: str) -> None:
        """Make the topic of a table; `config` has `_` for `.`."""
        settings = {name.replace("_", "."): value for name, value in config.items()}
        _done(self.admin.create_topics([NewTopic(self.topic(table), partitions, 1, config=settings)]))

    def delete(self, table: str = "users") -> None:
        """Delete the topic of a table."""
        _done(self.admin.delete_topics([self.topic(table)]))

    def add_partitions(self, total: int, table: str = "users") -> None:
        """Have the topic of a table have so many partitions."""
        _done(self.admin.create_partitions([NewPartitions(self.topic(table), total)]))

    def drop_before(self, offset: int, table: str = "users", partition: int = 0) -> None:
        """Do what retention does: nothing before this offset is there any more."""
        _done(self.admin.delete_records([TopicPartition(self.topic(table), partition, offset)]))

    def send(self, *messages: Message, producer: Producer | None = None, timed: bool = False) -> None:
        """Produce messages to the world's own topics, and wait until they are there.

        They are as old as they say where `timed`, and else of now.
        """
        producer = producer or self.producer
        failed: list[Any] = []
        for m in messages:
            producer.produce(
                m.topic.replace("shop", self.name, 1),
                m.value,
                m.key,
                m.partition,
                timestamp=m.timestamp_ms if timed else 0,
                on_delivery=lambda error, _: failed.append(error) if error else None,
            )
        assert producer.flush(SECONDS) == 0
        assert not failed

    def source(self) -> KafkaSource:
        """Return what reads the topics."""
        return KafkaSource(self.warehouse.settings, self.warehouse.topics)

    def rows(self, sql: str) -> list[Any]:
        """Query the core file; rows of one column are given as its values."""
        with duckdb.connect(str(self.warehouse.settings.core_file), read_only=True) as con:
            found = con.execute(sql).fetchall()
        return [row[0] if len(row) == 1 else row for row in found]

    def users(self) -> list[int]:
        """Return the ids of the users' changes that have landed, in order."""
        return self.rows("SELECT id FROM cdc.users ORDER BY id")

    def problems(self) -> list[str]:
        """Return what `status` calls a problem."""
        problems: list[str] = status(self.warehouse)["problems"]
        return problems

    def notes(self) -> list[str]:
        """Return what `status` notes, but that no connector sends heartbeats here."""
        notes: list[str] = status(self.warehouse)["notes"]
        return [note for note in notes if not note.startswith("The connector sends no heartbeats")]


def _done(futures: dict[Any, Future[Any]]) -> None:
    for future in futures.values():
        future.result(SECONDS)


def one_line(sentences: Iterable[str], *parts: str) -> str:
    """Return the one sentence that has all these parts; there must be just one, in one line."""
    found = [s for s in sentences if all(part in s for part in parts)]
    assert len(found) == 1, f"{parts} in {list(sentences)}"
    assert "\n" not in found[0]
    return found[0]
