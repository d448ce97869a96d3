"""However the changes arrive, the answers are the same, and those of the model in plain Python."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bi_assets.refresh.refresh import compute
from bi_assets.settings import Settings
from bi_assets.sql import transaction
from tests.histories import TABLES, World, interleaved, split, worlds
from tests.oracle import Message
from tests.platform import Platform, Tables, assert_as_the_oracle

BERLIN = "Europe/Berlin"
ZONES = st.sampled_from([("UTC", "UTC"), ("UTC", BERLIN), (BERLIN, BERLIN)])
"""Source zone, business zone. The worlds begin in the night in which Berlin's clocks change."""
SEEDS = st.integers(0, 2**32 - 1)
_OF_THE_BATCH = {"_batch_id", "_landed_at"}


def opened(zones: tuple[str, str]) -> Platform:
    source, business = zones
    where = Path("unused")
    return Platform(
        Settings(data_dir=where, source_timezone=source, business_timezone=business), tables=TABLES
    )


def everything(platform: Platform) -> dict[str, Tables]:
    """Return the rows of every layer; batch ids and landing times are told apart from the data."""
    logs = {
        table: sorted(
            repr({name: value for name, value in row.items() if name not in _OF_THE_BATCH})
            # Where a truncate came before what it deletes, the log has more of its deletes than versions.
            for row in platform.rows(f"cdc.{table} WHERE _snapshot <> 'truncate' OR _version_no IS NOT NULL")
        )
        for table in TABLES
    }
    return {
        "marts": platform.tables("marts"),
        "history": platform.tables("history"),
        "cdc": {table: [(row,) for row in rows] for table, rows in logs.items()},
    }


def redelivered(pieces: list[list[Message]], rng: random.Random) -> list[list[Message]]:
    """Deliver a partition's latest messages once more, a batch later, now and then."""
    again = []
    for number, piece in enumerate(pieces):
        earlier = [message for before in pieces[:number] for message in before]
        repeated: list[Message] = []
        if earlier and rng.random() < 0.5:
            where = rng.choice(earlier)
            repeated = [
                message
                for message in earlier
                if (message.topic, message.partition) == (where.topic, where.partition)
                and message.offset >= where.offset
            ]
        again.append(repeated + piece)
    return again


@pytest.mark.parametrize("shard", range(8))
@settings(max_examples=8)
@given(world=worlds(), zones=ZONES, arrival=SEEDS)
def test_no_interleaving_duplication_or_split_changes_a_row(
    shard: int, world: World, zones: tuple[str, str], arrival: int
) -> None:
    messages = world.messages()
    source, business = zones
    with opened(zones) as platform:
        platform.land(messages)
        platform.refresh()
        assert_as_the_oracle(platform, messages, timezone=business, source_timezone=source)
        expected = everything(platform)
    rng = random.Random(arrival)
    with opened(zones) as platform:
        pieces = split(interleaved(messages, rng), rng, rng.randint(2, 5))
        for piece in redelivered(pieces, rng):
            platform.land(piece)
            if rng.random() < 0.4:
                platform.refresh(scheduled=rng.random() < 0.5)
        platform.refresh()
        assert everything(platform) == expected


@pytest.mark.parametrize("shard", range(2))
@settings(max_examples=6)
@given(world=worlds(), zones=ZONES, arrival=SEEDS)
def test_refreshing_what_was_touched_equals_computing_everything(
    shard: int, world: World, zones: tuple[str, str], arrival: int
) -> None:
    rng = random.Random(arrival)
    with opened(zones) as platform:
        for piece in split(interleaved(world.messages(), rng), rng, 3):
            platform.land(piece)
            platform.refresh()
            refreshed = platform.tables("marts")
            with transaction(platform.con):
                for mart in platform.marts.values():
                    compute(platform.con, mart, None)
            assert platform.tables("marts") == refreshed


@settings(max_examples=5)
@given(world=worlds(), zones=ZONES, arrival=SEEDS)
def test_every_day_whose_rows_change_is_touched(world: World, zones: tuple[str, str], arrival: int) -> None:
    rng = random.Random(arrival)
    with opened(zones) as platform:
        for piece in split(interleaved(world.messages(), rng), rng, 4):
            before = set(platform.con.execute("FROM marts.orders_with_discount").fetchall())
            platform.land(piece)
            touched = {row["day"] for row in platform.rows("meta.touched")}
            platform.refresh()
            rows = platform.con.execute("FROM marts.orders_with_discount")
            day = [column[0] for column in rows.description or ()].index("order_date")
            changed = {row[day] for row in before ^ set(rows.fetchall())}
            assert changed <= touched


@settings(max_examples=10)
@given(world=worlds(), arrival=SEEDS)
def test_the_versions_of_a_key_tile_time_without_gap_or_overlap(world: World, arrival: int) -> None:
    rng = random.Random(arrival)
    with opened(("UTC", "UTC")) as platform:
        for piece in split(interleaved(world.messages(), rng), rng, 2):
            platform.land(piece)
        for table in TABLES:
            broken = platform.con.execute(f"""
FROM (FROM history.{table} SELECT *,
  lead(valid_from) OVER versions AS next_from, lead(version_no) OVER versions AS next_no,
  lag(version_no) OVER versions AS last_no
  WINDOW versions AS (PARTITION BY id ORDER BY version_no))
WHERE valid_to IS DISTINCT FROM coalesce(next_from, TIMESTAMP '9999-12-31 00:00:00')
  OR valid_from > valid_to OR next_no <> version_no + 1
  OR (last_no IS NULL AND version_no > 1)""").fetchall()
            assert not broken
