"""SIGKILL of `pharmacy-bi sync` at any moment loses nothing and doubles nothing."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import duckdb
import pytest

from bi_assets.micro_batch import sync
from bi_assets.settings import Settings
from bi_assets.warehouse import Warehouse
from shop.broker import EmbeddedBroker
from tests.histories import TABLES, World
from tests.lives import lives
from tests.platform import assert_published_as_the_oracle, contracts, marts, produce, published

KILLS = 51
"""By each of two workers."""
_ROUND = 14
_LONGEST_LIFE = 60.0


def log_rows(settings: Settings, table: str) -> list[tuple[Any, ...]]:
    """Return the change log of a table, without what differs from run to run.

    A truncate that came before what it deletes leaves more deletes than versions.
    """
    with duckdb.connect(str(settings.core_file), read_only=True) as con:
        return con.execute(
            f"SELECT * EXCLUDE (_batch_id, _landed_at) FROM cdc.{table} "
            "WHERE _snapshot <> 'truncate' OR _version_no IS NOT NULL ORDER BY ALL"
        ).fetchall()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_sync_that_is_killed_again_and_again_ends_where_an_undisturbed_one_does(
    seed: int, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    messages = World(seed, (30,) * 30).messages()
    with EmbeddedBroker() as broker:
        killed = Settings(bootstrap_servers=broker.bootstrap_servers, data_dir=tmp_path / "killed")
        sent = rounds = 0
        longest = 0.6
        with lives(killed, "sync") as runs:
            while runs.kills < KILLS:
                assert sent < len(messages), "the world is too small for so many kills"
                produce(broker, messages[sent : sent + _ROUND])
                sent += _ROUND
                rounds += 1
                ended = False
                while not ended:
                    ended = runs.live(rng.uniform(0.0, longest))
                    # about as long as a whole sync, so that each of its moments is met
                    longest *= 0.8 if ended else 1.1
                    if killed.published_file.exists():
                        assert len(published(killed)["_meta"]) == len(marts())
            assert runs.live(_LONGEST_LIFE)
        assert rounds > 3, "whole syncs came in between"

        calm = Settings(bootstrap_servers=broker.bootstrap_servers, data_dir=tmp_path / "calm")
        sync(Warehouse(calm, contracts(), marts()))
    found = assert_published_as_the_oracle(killed, messages[:sent])
    expected = published(calm)
    assert {name: found[name] for name in marts()} == {name: expected[name] for name in marts()}
    for table in TABLES:
        assert log_rows(killed, table) == log_rows(calm, table)
