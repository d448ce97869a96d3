"""Reading whole topics of a real broker."""

from collections.abc import Iterable

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition

READ_SECONDS = 30.0


def read_topics(bootstrap_servers: str, names: Iterable[str] | None = None) -> list[Message]:
    """Return every message that topics hold now, per partition in offset order.

    `names` None are all topics, internal ones included. Raises KafkaException for a broken
    partition and AssertionError if a minute's half does not suffice.
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
        messages: list[Message] = []
        # Positions and not counts: offsets also number the control records of transactions.
        while any(
            position.offset < ends[position.topic, position.partition]
            for position in consumer.position(partitions)
            if ends[position.topic, position.partition] > 0
        ):
            batch = consumer.consume(10_000, timeout=READ_SECONDS)
            assert batch, "the broker holds back messages"
            for message in batch:
                if message.error() is not None:
                    raise KafkaException(message.error())
            messages += batch
        return messages
    finally:
        consumer.close()
