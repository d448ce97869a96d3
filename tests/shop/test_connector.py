"""The connector loses nothing, repeats by position, and never outruns its reader."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from shop import connector
from shop.behaviour import Behaviour
from shop.broker import EmbeddedBroker
from shop.connector import Connector
from shop.debezium import HEARTBEAT_TOPIC
from shop.schema import TABLES
from shop.store import SqliteShop
from tests.shop.reader import Read, Reader, changes, patiently

START = datetime(2024, 6, 6, tzinfo=UTC)
GROUP = "pharmacy-bi"


@pytest.fixture
def shop(tmp_path: Path) -> SqliteShop:
    """A shop with its opening and two weeks of history, all in the binlog."""
    shop = SqliteShop(tmp_path / "shop.sqlite")
    behaviour = Behaviour(7)
    shop.apply(behaviour.opening(START), {})
    shop.apply(behaviour.history(START, START + timedelta(days=14)), {})
    return shop


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as broker:
        yield broker


def drained(bootstrap_servers: str, count: int, group: str = "onlooker") -> list[Read]:
    """Return messages until `count` row changes have come; commits to `group`."""
    reader = Reader(bootstrap_servers, group)
    found: list[Read] = []
    for _ in patiently():
        found += reader.poll()
        if len(changes(found)) >= count:
            break
    reader.close()
    return found


def test_the_snapshot_is_marked_as_debezium_marks_it(shop: SqliteShop, broker: EmbeddedBroker) -> None:
    one = Connector(shop, broker, GROUP, START)
    assert one.pump() > 1_000
    rows = [m.value for m in drained(broker.bootstrap_servers, 500)]
    assert {row["op"] for row in rows} == {"r"}
    assert len({(row["source"]["file"], row["source"]["pos"]) for row in rows}) == 1
    assert {row["source"]["row"] for row in rows} == {0}
    assert {row["source"]["server_id"] for row in rows} == {0}
    assert {row["source"]["ts_ms"] for row in rows} == {int(START.timestamp()) * 1000}
    markers: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        markers[row["source"]["table"]][row["source"]["snapshot"]] += 1
    tables = [table for table in TABLES if table in markers]
    assert len(tables) == len(TABLES)
    assert markers[tables[0]]["first"] == markers[tables[-1]]["last"] == 1
    for before, after in pairwise(tables):
        assert markers[before]["last_in_data_collection"] == 1
        assert markers[after]["first_in_data_collection"] == 1
    one.close()


def test_the_stream_follows_the_binlog(shop: SqliteShop, broker: EmbeddedBroker) -> None:
    one = Connector(shop, broker, GROUP, START)
    expected = [row for row in shop.binlog(None, 10_000) if row.ts >= START.timestamp()]
    while one.pump():
        pass
    assert one.waiting == 0
    assert one.produced_until_ms == expected[-1].ts * 1000
    read: list[Read] = []
    stream: list[Read] = []
    reader = Reader(broker.bootstrap_servers)
    for _ in patiently():
        read += changes(reader.poll())
        stream = [m for m in read if m.value["op"] != "r"]
        if len(stream) >= len(expected):
            break
    reader.close()
    assert sorted(m.position for m in stream) == [tuple(row.position) for row in expected]
    by_partition: dict[tuple[str, int], list[tuple[str, int, int]]] = defaultdict(list)
    for message in stream:
        by_partition[message.topic, message.partition].append(message.position)
    for positions in by_partition.values():
        assert positions == sorted(positions)
    one.close()


def test_unlanded_changes_are_sent_again_and_landed_ones_are_not(shop: SqliteShop) -> None:
    with EmbeddedBroker() as first:
        one = Connector(shop, first, GROUP, START)
        while one.pump():
            pass
        total = len(shop.binlog(None, 10_000))
        half = one.landed + total // 2
        seen: list[Read] = []
        reader = Reader(first.bootstrap_servers)
        for _ in patiently():
            seen += reader.poll()
            one.confirm()
            if one.landed >= half:
                break
        reader.close()
        one.confirm()
        left = shop.binlog(None, 10_000)
        one.close()
    with EmbeddedBroker() as second:
        two = Connector(shop, second, GROUP, START)
        assert two.waiting == len(left)
        assert two.landed == shop.changes - len(left)
        while two.pump():
            pass
        again = changes(drained(second.bootstrap_servers, len(left))) if left else []
        assert sorted(m.position for m in again) == [tuple(row.position) for row in left]
        two.close()


def test_a_snapshot_that_has_not_landed_wholly_is_repeated(shop: SqliteShop, broker: EmbeddedBroker) -> None:
    with EmbeddedBroker() as first:
        one = Connector(shop, first, GROUP, START)
        rows = one.pump()
        reader = Reader(first.bootstrap_servers, "onlooker")
        snapshot = reader.poll(commit=False)
        for _ in patiently():
            if any(m.value["source"]["snapshot"] == "last" for m in snapshot):
                break
            snapshot += reader.poll(commit=False)
        # The platform commits one table of thirteen and the shop dies.
        reader.close()
        some = Reader(first.bootstrap_servers, GROUP)
        some.commit_only("shop.shop.clinics", 0, 1)
        one.confirm()
        some.close()
        one.close()
        assert one.landed == 0
    two = Connector(shop, broker, GROUP, START)
    assert two.pump() == rows
    repeated = drained(broker.bootstrap_servers, len(snapshot))
    assert {m.key for m in snapshot} <= {m.key for m in repeated}
    assert {m.value["op"] for m in repeated} == {"r"}
    two.close()


def test_without_commits_the_unread_volume_stays_bounded(
    shop: SqliteShop, broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connector, "MOST_UNCOMMITTED_BYTES", 110_000)
    monkeypatch.setattr(connector, "_CHUNK_BYTES", 30_000)
    one = Connector(shop, broker, GROUP, START)
    while one.pump():
        pass
    assert one.waiting > 100
    one.confirm()
    assert one.pump() == 0
    onlooker = Reader(broker.bootstrap_servers, "onlooker")
    opening = sum(row.ts < START.timestamp() for row in shop.binlog(None, 10_000))
    unread = one.produced - opening
    volume: Counter[tuple[str, int]] = Counter()
    for _ in patiently():
        found = changes(onlooker.poll(commit=False))
        for message in found:
            unread -= message.value["op"] != "r"
            volume[message.topic, message.partition] += len(message.raw or b"")
        if unread <= 0:
            break
    onlooker.close()
    assert 50_000 < max(volume.values()) <= 110_000
    # Once the platform commits, the line goes on to the end.
    reader = Reader(broker.bootstrap_servers)
    for _ in patiently():
        reader.poll()
        one.confirm()
        one.pump()
        if one.landed == shop.changes:
            break
    assert shop.binlog_size() == 0
    reader.close()
    one.close()


def test_heartbeats_have_their_own_topic(shop: SqliteShop, broker: EmbeddedBroker) -> None:
    one = Connector(shop, broker, GROUP, START)
    one.heartbeat(1234)
    reader = Reader(broker.bootstrap_servers)
    found: list[Read] = []
    for _ in patiently():
        found += reader.poll()
        if found:
            break
    assert found[0].topic == HEARTBEAT_TOPIC
    assert json.loads(found[0].raw or b"") == {"ts_ms": 1234}
    reader.close()
    one.close()
