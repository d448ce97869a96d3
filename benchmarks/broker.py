"""A broker for a benchmark: the real Kafka where there is Java, else the one in librdkafka."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from benchmarks.events import PARTITIONS, TABLES, Events
from shop.broker import EmbeddedBroker
from stack.fetch import Fetched, fetch
from stack.kafka import kafka_server
from stack.process import LOCALHOST, free_ports

# Unlike the tests', this broker is to be as fast as it can.
_JVM_OPTIONS = ["-Xms1g", "-Xmx1g", "-XX:+UseG1GC"]
_CHUNK = 50_000


@dataclass(frozen=True)
class Broker:
    """Where it is; `fetched` is None for the broker that is embedded in librdkafka."""

    bootstrap_servers: str
    fetched: Fetched | None

    @property
    def is_real(self) -> bool:
        """Whether it is Kafka itself."""
        return self.fetched is not None

    @property
    def label(self) -> str:
        """What to call it in a table."""
        return "Kafka" if self.is_real else "broker embedded in librdkafka"

    def create_topics(self, prefix: str) -> None:
        """Create PREFIX.orders and PREFIX.users; an embedded broker makes them on first use."""
        if not self.is_real:
            return
        # The events are dated years back: time must not make them go.
        config = {"retention.ms": "-1"}
        topics = [NewTopic(f"{prefix}.{name}", PARTITIONS, 1, config=config) for name in TABLES]
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 2})
        for created in admin.create_topics(topics).values():
            created.result()

    def load(self, events: Events, prefix: str = "shop.shop") -> None:
        """Create the topics and put a whole history into them."""
        self.create_topics(prefix)
        producer = Producer(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "partitioner": "murmur2_random",  # as Debezium's Java client
                "compression.type": "lz4",
                "linger.ms": 50,
                "log_level": 2,
                "batch.num.messages": 10_000,
                "queue.buffering.max.messages": 4 * _CHUNK,
                "queue.buffering.max.kbytes": 1_000_000,
            }
        )
        for chunk in events.chunks(_CHUNK):
            _produce(producer, chunk, prefix)
        if left := producer.flush(60):
            raise RuntimeError(f"{left} messages have not arrived at {self.bootstrap_servers}")


def _produce(producer: Producer, events: pa.Table, prefix: str) -> None:
    topics = {name: f"{prefix}.{name}" for name in TABLES}
    columns = (events.column(name).to_pylist() for name in ("name", "key", "value", "ts_ms"))
    for name, key, value, ts_ms in zip(*columns, strict=True):
        while True:
            try:
                producer.produce(topics[name], value, key, timestamp=ts_ms)
                break
            except BufferError:
                producer.poll(0.1)
    producer.poll(0)


@contextmanager
def broker(folder: Path) -> Iterator[Broker]:
    """Run a broker with its data in `folder`."""
    if has_java():
        fetched = fetch(tools=["java", "mvn"])
        port, controller_port = free_ports(2)
        server = kafka_server(fetched, folder, port, controller_port, jvm_options=_JVM_OPTIONS)
        server.start()
        try:
            server.wait_ready()
            yield Broker(f"{LOCALHOST}:{port}", fetched)
        finally:
            server.stop()
    else:
        with EmbeddedBroker() as embedded:
            yield Broker(embedded.bootstrap_servers, None)


def has_java() -> bool:
    """Whether Kafka can be fetched and run here."""
    return shutil.which("java") is not None and shutil.which("mvn") is not None
