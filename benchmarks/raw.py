"""A process that only consumes: BROKER PREFIX MESSAGES [NAME=VALUE ...] of librdkafka's settings."""

import json
import sys
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

PARTITIONS = 4
SILENCE_SECONDS = 30


def main() -> None:
    """Drain the topics; print the seconds from the first message possible to the last, and bytes."""
    broker, prefix, expected, *settings = sys.argv[1:]
    consumer = Consumer(
        {
            "bootstrap.servers": broker,
            "group.id": "benchmark",
            "enable.auto.commit": False,
            **dict(setting.split("=") for setting in settings),
        }
    )
    left, size = int(expected), 0
    started = time.perf_counter()
    consumer.assign(
        [
            TopicPartition(f"{prefix}.{name}", number, OFFSET_BEGINNING)
            for name in ("users", "orders")
            for number in range(PARTITIONS)
        ]
    )
    heard = started
    while left:
        messages = consumer.consume(min(50_000, left), timeout=1.0)
        if messages:
            heard = time.perf_counter()
        elif time.perf_counter() - heard > SILENCE_SECONDS:
            raise SystemExit(f"{left} messages are missing")
        for message in messages:
            if error := message.error():
                raise SystemExit(error.str())
            size += len(message.value() or b"")
            left -= 1
    print(json.dumps({"seconds": time.perf_counter() - started, "bytes": size}))
    consumer.close()


if __name__ == "__main__":
    main()
