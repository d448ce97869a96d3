"""Histories through a real broker, read and landed by `sync`, published, and compared with the model."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bi_assets.micro_batch import sync
from bi_assets.settings import Settings
from bi_assets.warehouse import Warehouse
from shop.broker import EmbeddedBroker
from tests.histories import TABLES, World
from tests.platform import assert_published_as_the_oracle, contracts, marts, produce

HISTORIES = 104
SHARDS = 4


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as broker:
        yield broker


def world_of(number: int) -> World:
    """Return a world of one history: of few to some forty actions."""
    return World(seed=1_000 + number, sizes=(5 + number % 40,))


@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_history_through_the_broker_has_the_answers_of_the_model(
    shard: int, broker: EmbeddedBroker, tmp_path: Path
) -> None:
    """Each has topics and a data directory of its own, and comes in one or two syncs."""
    sources: Counter[str] = Counter()
    for number in range(shard, HISTORIES, SHARDS):
        messages = world_of(number).messages()
        rng = random.Random(number)
        prefix = f"history{number}.shop"
        settings = Settings(
            bootstrap_servers=broker.bootstrap_servers, data_dir=tmp_path / str(number), topic_prefix=prefix
        )
        warehouse = Warehouse(settings, contracts(*TABLES), marts())
        cut = rng.randint(0, len(messages)) if number // SHARDS % 4 == 0 else len(messages)
        for piece in filter(None, (messages[:cut], messages[cut:])):
            produce(broker, piece, prefix=prefix)
            assert sync(warehouse).messages == len(piece)
        if messages:
            found = assert_published_as_the_oracle(settings, messages)
            sources.update(row["discount_source"] for row in found["orders_with_discount"])
    assert {"asof", "backfill_first_known", "missing_patient"} <= set(sources), "the histories say too little"


def test_topics_of_another_prefix_are_not_read(broker: EmbeddedBroker, tmp_path: Path) -> None:
    messages = world_of(30).messages()
    produce(broker, messages, prefix="mine.shop")
    produce(broker, world_of(31).messages(), prefix="theirs.shop")
    settings = Settings(
        bootstrap_servers=broker.bootstrap_servers, data_dir=tmp_path, topic_prefix="mine.shop"
    )
    assert sync(Warehouse(settings, contracts(*TABLES), marts())).messages == len(messages)
