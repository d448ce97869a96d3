"""Reading whole topics of a real broker."""

import time
from collections.abc import Iterable
from typing import NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition


class Record(NamedTuple):
    """One message; `value` None is a tombstone."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str | bytes | None, ...]]


READ_SECONDS = 30.0


def read_topics(bootstrap_servers: str, names: Iterable[str] | None = None) -> list[Record]:
    """Return every message that topics hold now, per partition in offset order.

    `names` None are all topics, internal ones included. Raises KafkaException for a broken
    partition and AssertionError if half a minute does not suffice.
    """
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": "test-reader"})
    try:
        held = consumer.list_topics(timeout=READ_SECONDS).topics
        partitions = [
            TopicPartition(name, number, OFFSET_BEGINNING)
            for name in (held if names is None else names)
            for number in held[name].partitions
        ]
        ends = {
            (part.topic, part.partition): consumer.get_watermark_offsets(part, READ_SECONDS)[1]
            for part in partitions
        }
        consumer.assign(partitions)
        records: list[Record] = []
        # Positions and not counts: offsets also number the control records of transactions.
        deadline = time.monotonic() + READ_SECONDS
        # Positions and not counts: offsets also number the control records of transactions.
        while any(
            position.offset < ends[position.topic, position.partition]
            for position in consumer.position(partitions)
            if ends[position.topic, position.partition] > 0
        ):
            assert time.monotonic() < deadline, "the broker holds back messages"
            records += [_record(message) for message in consumer.consume(1000, timeout=0.2)]
        return records
    finally:
        consumer.close()


def _record(message: Message) -> Record:
    if (error := message.error()) is not None:
        raise KafkaException(error)
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    headers = [tuple(header) for header in message.headers() or []]
    return Record(topic, partition, offset, message.key(), message.value(), headers)


def end_offset(bootstrap_servers: str, topic: str) -> int:
    """Return how many messages a topic has received, all partitions together."""
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": "test-reader"})
    try:
        partitions = consumer.list_topics(topic, timeout=READ_SECONDS).topics[topic].partitions
        return sum(
            consumer.get_watermark_offsets(TopicPartition(topic, number), READ_SECONDS)[1]
            for number in partitions
        )
    finally:
        consumer.close()
