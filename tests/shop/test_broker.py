"""The embedded broker is a Kafka broker to other clients."""

import socket

import pytest

from shop.broker import EmbeddedBroker
from tests.shop.reader import Reader, patiently


def test_another_client_reads_what_was_produced() -> None:
    with EmbeddedBroker() as broker:
        broker.produce("shop.shop.orders", b"k", b"v", partition=2, headers=[("h", b"1")])
        broker.produce("shop.shop.orders", b"k", None, partition=2)
        broker.flush()
        reader = Reader(broker.bootstrap_servers)
        found = []
        for _ in patiently():
            found += reader.poll()
            if len(found) == 2:
                break
        reader.close()
    assert found[0] == ("shop.shop.orders", 2, b"k", b"v", [("h", b"1")])
    assert found[1].raw is None


def test_keys_go_to_javas_partition() -> None:
    where: list[tuple[int, int]] = []
    with EmbeddedBroker() as broker:
        broker.produce("t", b"21", b"v", on_delivery=lambda *at: where.append(at))
        broker.flush()
    # org.apache.kafka.common.utils.Utils.murmur2("21") is -973932308.
    assert where == [((-973932308 & 0x7FFFFFFF) % 4, 0)]


def test_it_listens_on_loopback_only_and_ends_with_its_block() -> None:
    with EmbeddedBroker() as broker:
        host, port = broker.bootstrap_servers.split(":")
        assert host == "127.0.0.1"
        socket.create_connection((host, int(port)), 5).close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((host, int(port)), 5)
