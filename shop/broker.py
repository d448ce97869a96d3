"""The Kafka broker that is built into librdkafka, on a loopback port of its own.

It lives in memory: a new one is empty and has a new cluster id. Topics come into
being on first use, with four partitions. It keeps about 5 MB per partition and
drops older messages without a word.
"""

import logging
from collections.abc import Callable
from types import TracebackType

from confluent_kafka import KafkaError, KafkaException, Message, Producer

Headers = list[tuple[str, str | bytes | None]]
"""Header names and values, in order."""

Delivered = Callable[[int, int], None]
"""Takes the partition and the offset that a message got."""

_FLUSH_SECONDS = 30.0

# librdkafka greets every mock cluster with a warning that it is one.
_silent = logging.getLogger("shop.broker.librdkafka")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False


class EmbeddedBroker:
    """A broker for as long as the `with` block lasts.

    `producer` is connected to it and hashes keys to partitions as Java does;
    other processes reach it at `bootstrap_servers` ("127.0.0.1:port").
    """

    def __init__(self) -> None:
        self.producer = Producer(
            {
                "bootstrap.servers": "ignored",
                "test.mock.num.brokers": 1,
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                "queue.buffering.max.messages": 200_000,
            },
            logger=_silent,
        )
        # Only the list of brokers tells on which port librdkafka listens.
        broker = next(iter(self.producer.list_topics(timeout=10).brokers.values()))
        self.bootstrap_servers = f"{broker.host}:{broker.port}"
        self._failure: KafkaError | None = None

    def produce(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        partition: int | None = None,
        headers: Headers | None = None,
        timestamp_ms: int | None = None,
        on_delivery: Delivered | None = None,
    ) -> None:
        """Queue one message; `flush` makes sure that it has arrived.

        Without `partition` the key decides; `on_delivery` is told, before `flush`
        returns, where the message went.
        """

        def report(error: KafkaError | None, message: "Message[bytes, bytes]") -> None:
            self._failure = self._failure or error
            partition, offset = message.partition(), message.offset()
            if on_delivery is not None and partition is not None and offset is not None:
                on_delivery(partition, offset)

        while True:
            try:
                self.producer.produce(
                    topic,
                    value,
                    key,
                    -1 if partition is None else partition,
                    on_delivery=report,
                    timestamp=timestamp_ms or 0,
                    headers=headers,
                )
                break
            except BufferError:
                self.producer.poll(0.1)

    def flush(self) -> None:
        """Wait until every queued message is in the broker; raise if one is not."""
        left = self.producer.flush(_FLUSH_SECONDS)
        self._raise_failure()
        if left:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{left} messages not sent"))

    def _raise_failure(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise KafkaException(failure)

    def __enter__(self) -> "EmbeddedBroker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The broker dies with its last client: what is still queued has nowhere to go.
        self.producer.purge()
        self.producer.poll(0)
        del self.producer
