"""What the platform is to the shop: a consumer that reads everything and commits what it has."""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import Consumer, TopicPartition

from shop.debezium import HEARTBEAT_TOPIC, envelope, topic
from shop.schema import TABLES
from shop.store import SqliteShop

PATIENCE_SECONDS = 60.0
TOPICS = [*map(topic, TABLES), HEARTBEAT_TOPIC]

# Brokers are killed under their readers here, which these would tell on stderr.
_silent = logging.getLogger("tests.shop.reader.librdkafka")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False


class Read(NamedTuple):
    """One message as a consumer sees it, with its JSON parsed."""

    topic: str
    partition: int
    key: bytes | None
    raw: bytes | None
    headers: list[tuple[str, Any]]

    @property
    def value(self) -> Any:
        return None if self.raw is None else json.loads(self.raw)

    @property
    def position(self) -> tuple[str, int, int]:
        source = self.value["source"]
        return source["file"], source["pos"], source["row"]


class Reader:
    """Reads all the shop's topics from their beginning; commits when told to."""

    def __init__(self, bootstrap_servers: str, group: str = "pharmacy-bi") -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": group,
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
            },
            logger=_silent,
        )
        # The embedded broker makes a topic, of four partitions, when it is asked for.
        for name in TOPICS:
            self._consumer.list_topics(name, timeout=10)
        self._consumer.assign(
            [TopicPartition(name, partition, 0) for name in TOPICS for partition in range(4)]
        )

    def poll(self, at_most: int = 5_000, *, commit: bool = True) -> list[Read]:
        """Return what has come within a tenth of a second."""
        found = []
        for message in self._consumer.consume(at_most, 0.1):
            assert message.error() is None, message.error()
            name, partition = message.topic(), message.partition()
            assert name is not None and partition is not None
            headers = message.headers() or []
            assert isinstance(headers, list)
            found.append(Read(name, partition, message.key(), message.value(), headers))
        if found and commit:
            self._consumer.commit(asynchronous=False)
        return found

    def commit_only(self, name: str, partition: int, offset: int) -> None:
        """Commit one offset and nothing else."""
        self._consumer.commit(offsets=[TopicPartition(name, partition, offset)], asynchronous=False)

    def close(self) -> None:
        self._consumer.close()


class Shop:
    """A shop process and what it says."""

    def __init__(self, data_dir: Path, *arguments: str) -> None:
        self.said = data_dir.with_suffix(".said")
        command = [sys.executable, "-m", "shop", "serve", "--data-dir", str(data_dir), *arguments]
        with self.said.open("w") as out:
            self.process = subprocess.Popen(command, stdout=out)
        self.bootstrap_servers: str = self.wait_for("ready")["bootstrap_servers"]

    def events(self) -> list[dict[str, Any]]:
        lines = self.said.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def has_said(self, event: str) -> dict[str, Any] | None:
        return next((e for e in self.events() if e["event"] == event), None)

    def wait_for(self, event: str) -> dict[str, Any]:
        for _ in patiently():
            found = self.has_said(event)
            if found is not None:
                return found
            assert self.process.poll() is None, "the shop has ended"
            time.sleep(0.02)
        raise AssertionError("unreachable")

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(10)


@contextmanager
def running_shop(data_dir: Path, *arguments: str) -> Iterator[Shop]:
    """Run `python -m shop serve` for the length of a block."""
    shop = Shop(data_dir, *arguments)
    try:
        yield shop
    finally:
        shop.process.kill()
        shop.process.wait()


def patiently() -> Iterator[None]:
    """Go round until the caller has what it waits for; fail after a minute."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        yield
    raise AssertionError("waited in vain")


def changes(messages: Iterable[Read]) -> list[Read]:
    """Return the row changes of some messages: no tombstones, no heartbeats."""
    return [m for m in messages if m.raw is not None and m.topic != HEARTBEAT_TOPIC]


def tables_of(shop: SqliteShop) -> dict[tuple[str, bytes], dict[str, Any]]:
    """Return a shop's tables as Kafka should know them: (table, message key) -> image."""
    found = {}
    for table in TABLES:
        for row in shop.rows(table):
            key, value = envelope(table, "r", None, row, source_ts_ms=0, file="", pos=0, row=0, ts_ms=0)
            found[table, key] = json.loads(value)["after"]
    return found
