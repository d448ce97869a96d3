"""Complete through a time means: no transaction of before then lacks a part."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import timedelta

import pytest

from bi_assets import source_status
from tests.histories import TABLES, interleaved, split
from tests.landing.messages import NOON, Log, order, user, wall
from tests.oracle import Message
from tests.platform import Platform

SECOND = timedelta(seconds=1)


@pytest.fixture
def platform() -> Iterator[Platform]:
    with Platform(tables=TABLES, marts_of={}) as platform:
        yield platform


class Transactions:
    """A log whose changes belong to transactions."""

    def __init__(self, rng: random.Random | None = None) -> None:
        """With `rng`, orders and items are in any of three partitions."""
        self.log = Log()
        self._rng = rng
        self._ends = 0

    def order_with_items(self, number: int, *, items: int, hours: float) -> list[Message]:
        """Return an order, its items, and what the topic of transactions says of them."""
        where = [self._rng.randrange(3) if self._rng else 0 for _ in range(items + 1)]
        bought = self.log.change("orders", "c", None, order(number, hours), hours=hours, partition=where[-1])
        changes = [bought]
        for item in range(items):
            row = {"id": 10 * number + item, "order_id": number, "quantity": 1}
            changes.append(self.log.change("order_items", "c", None, row, hours=hours, partition=where[item]))
        return [
            *(self.part_of(change, number, place) for place, change in enumerate(changes, start=1)),
            self.end(number, {"shop.orders": 1, "shop.order_items": items, "shop.audit": 5}, hours),
        ]

    def part_of(self, change: Message, number: int, place: int) -> Message:
        """Return a change that says which transaction it belongs to."""
        told = {"id": f"t{number}", "total_order": place, "data_collection_order": 1}
        assert change.value
        return change._replace(
            value=change.value.replace(b'"transaction":null', b'"transaction":' + json.dumps(told).encode())
        )

    def end(self, number: int, counts: dict[str, int], hours: float) -> Message:
        """Return the end of a transaction."""
        told = {
            "status": "END",
            "id": f"t{number}",
            "event_count": sum(counts.values()),
            "data_collections": [{"data_collection": t, "event_count": n} for t, n in counts.items()],
            "ts_ms": int((NOON + timedelta(hours=hours)).timestamp()) * 1000,
        }
        self._ends += 1
        return Message("shop.transaction", 0, self._ends - 1, b"{}", json.dumps(told).encode())


def test_an_order_without_its_items_holds_it_back(platform: Platform) -> None:
    made = Transactions()
    platform.land([made.log.change("users", "c", None, user(1)), made.end(0, {}, 0)])
    bought, item, end = made.order_with_items(1, items=1, hours=2)
    assert platform.land([bought, made.log.heartbeat(3)]).progress.complete_through == wall(2) - SECOND
    assert platform.land([end]).progress.complete_through == wall(2) - SECOND
    assert platform.land([item]).progress.complete_through == wall(3)


def test_items_without_their_order_hold_it_back(platform: Platform) -> None:
    made = Transactions()
    bought, item, end = made.order_with_items(1, items=1, hours=2)
    assert platform.land([item, end]).progress.complete_through == wall(2) - SECOND
    assert platform.land([bought]).progress.complete_through == wall(2)


def test_changes_of_tables_that_are_not_landed_are_not_waited_for(platform: Platform) -> None:
    made = Transactions()
    assert platform.land(made.order_with_items(1, items=2, hours=2)).progress.complete_through == wall(2)
    assert platform.rows("meta.transactions") == []


def test_a_change_that_is_sent_again_stands_for_no_other(platform: Platform) -> None:
    made = Transactions()
    bought, item, end = made.order_with_items(1, items=1, hours=2)
    again = made.log.raw("orders", bought.key, bought.value)
    assert platform.land([bought, again, end]).progress.complete_through == wall(2) - SECOND
    assert platform.land([item]).progress.complete_through == wall(2)


def test_a_truncate_has_no_end_and_holds_nothing_back(platform: Platform) -> None:
    made = Transactions()
    platform.land(made.order_with_items(1, items=0, hours=1))
    truncate = made.part_of(made.log.truncate("orders", hours=2), 2, 1)
    assert platform.land([truncate, made.log.heartbeat(3)]).progress.complete_through == wall(3)


def test_what_does_not_come_in_five_minutes_is_reported_and_holds_back_no_longer(platform: Platform) -> None:
    made = Transactions()
    bought, _, end = made.order_with_items(1, items=1, hours=2)
    assert platform.land([bought, end], read_at=wall(2.01)).progress.complete_through == wall(2) - SECOND
    beat = made.log.heartbeat(2.2)
    assert platform.land([beat], read_at=wall(2.2)).progress.complete_through == wall(2.2)
    (problem,) = source_status.tell(platform.con, platform.contracts, platform.settings).problems
    assert problem.startswith("1 transactions have not come as a whole, the oldest (t1, 2024-05-01 14:00:00")
    assert "with 1 of 2 changes" in problem


def test_a_change_sent_again_after_its_transaction_was_whole_is_forgotten(platform: Platform) -> None:
    made = Transactions()
    first = made.order_with_items(1, items=0, hours=2)
    platform.land(first, read_at=wall(2))
    again = made.log.raw("orders", first[0].key, first[0].value)
    platform.land([again], read_at=wall(2.1))
    progress = platform.land([made.log.heartbeat(2.3)], read_at=wall(2.3)).progress
    assert progress.complete_through == wall(2.3)
    assert platform.rows("meta.transactions") == []
    assert source_status.tell(platform.con, platform.contracts, platform.settings).problems == []


@pytest.mark.parametrize("seed", range(2))
def test_however_they_arrive_it_does_not_pass_a_transaction_of_which_a_part_is_missing(seed: int) -> None:
    rng = random.Random(seed)
    made = Transactions(rng)
    known = made.end(0, {}, 0)
    whole = {n: made.order_with_items(n, items=rng.randint(0, 3), hours=n) for n in range(1, 12)}
    messages = [message for parts in whole.values() for message in parts]
    arrived: set[Message] = set()
    through = None
    with Platform(tables=TABLES, marts_of={}) as platform:
        platform.land([known])  # so that it is known that there is such a topic
        for batch in split(interleaved(messages, rng), rng, 8):
            arrived.update(batch)
            before = through
            through = platform.land(batch, read_at=wall(20)).progress.complete_through
            torn = [n for n, parts in whole.items() if 0 < len(arrived & set(parts)) < len(parts)]
            if torn and through != before:
                assert through is not None
                assert through < wall(min(torn))
    assert through == wall(11)
