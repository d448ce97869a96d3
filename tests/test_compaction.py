"""The core file shrinks when it is mostly empty, and is whole whatever happens meanwhile."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest

from bi_assets.compaction import compact
from bi_assets.landing.land import Landed, land
from bi_assets.refresh.refresh import refresh
from bi_assets.settings import Settings
from bi_assets.sql import transaction
from bi_assets.warehouse import Warehouse
from tests.histories import World
from tests.lives import lives
from tests.oracle import Message
from tests.platform import Platform, contracts, marts

KILLS = 25
MESSAGES = World(1, (20,) * 20).messages()
FIRST = len(MESSAGES) - 5

Contents = dict[str, list[tuple[Any, ...]]]


class Core:
    """A core file with a history in it."""

    def __init__(self, data_dir: Path) -> None:
        self.warehouse = Warehouse(Settings(data_dir=data_dir), contracts(), marts())
        self.file = self.warehouse.settings.core_file
        self._platform = Platform(tables=["orders"], marts_of={})
        with self.warehouse.open(evolve=True):
            pass
        self.land(MESSAGES[:FIRST])

    def land(self, messages: list[Message]) -> Landed:
        """Land messages that follow on the ones before."""
        batch = self._platform.batch(messages)
        with self.warehouse.open() as con:
            with transaction(con):
                landed = land(con, batch, self.warehouse.contracts, self.warehouse.settings)
            refresh(con, self.warehouse.marts, scheduled=True)
        return landed

    def make_holes(self) -> None:
        """Write much and something behind it, which keeps its place; then delete much."""
        for statement in (
            "CREATE TABLE meta.much AS SELECT random() AS number FROM range(2_000_000)",
            "CREATE OR REPLACE TABLE meta.last AS SELECT hash(range) AS number FROM range(200_000)",
            "DROP TABLE meta.much",
        ):
            with self.warehouse.open() as con:
                con.execute(statement)

    def contents(self) -> Contents:
        """Return everything that is in it."""
        with self._read() as con:
            relations = con.execute(
                "SELECT schema_name || '.' || table_name FROM duckdb_tables() UNION ALL "
                "SELECT schema_name || '.' || view_name FROM duckdb_views() WHERE NOT internal ORDER BY ALL"
            ).fetchall()
            return {name: con.execute(f"FROM {name} ORDER BY ALL").fetchall() for (name,) in relations}

    def rows_together(self, table: str) -> int:
        """Return how many rows of a table are written together at most."""
        with self._read() as con:
            ((most,),) = con.execute(f"SELECT max(count) FROM pragma_storage_info('{table}')").fetchall()
            return int(most)

    @contextmanager
    def _read(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self.warehouse.open() as con:
            yield con


@pytest.fixture
def core(tmp_path: Path) -> Core:
    return Core(tmp_path)


def test_a_file_that_is_mostly_empty_shrinks_and_holds_the_same(core: Core) -> None:
    core.make_holes()
    contents = core.contents()
    compacted = compact(core.warehouse, worth_it=1)
    assert compacted and compacted.after == core.file.stat().st_size < compacted.before / 2
    assert core.contents() == contents


def test_batches_are_numbered_on(core: Core, tmp_path: Path) -> None:
    core.make_holes()
    assert compact(core.warehouse, worth_it=1)
    never_compacted = Core(tmp_path / "other")
    assert core.land(MESSAGES[FIRST:]).batch_id == never_compacted.land(MESSAGES[FIRST:]).batch_id > 1


def test_comments_stay(core: Core) -> None:
    with core.warehouse.open() as con:
        con.execute("COMMENT ON TABLE meta.batches IS 'every batch'")
        con.execute("COMMENT ON COLUMN meta.batches.landed IS 'how many'")
    core.make_holes()
    assert compact(core.warehouse, worth_it=1)
    with core.warehouse.open() as con:
        assert con.execute(
            "SELECT comment FROM duckdb_tables() WHERE table_name = 'batches' UNION ALL "
            "SELECT comment FROM duckdb_columns() WHERE table_name = 'batches' AND column_name = 'landed'"
        ).fetchall() == [("every batch",), ("how many",)]


def test_rows_stay_in_small_groups(core: Core) -> None:
    with core.warehouse.open() as con:
        con.execute("CREATE TABLE meta.many AS SELECT random() AS number FROM range(100_000)")
    before = core.rows_together("meta.many")
    core.make_holes()
    assert compact(core.warehouse, worth_it=1)
    assert core.rows_together("meta.many") == before < 100_000


def test_a_file_with_few_holes_is_left_as_it_is(core: Core) -> None:
    before = core.file.stat()
    assert compact(core.warehouse, worth_it=1) is None
    assert core.file.stat().st_ino == before.st_ino


def test_a_small_file_is_left_as_it_is(core: Core) -> None:
    core.make_holes()
    assert compact(core.warehouse) is None


def test_a_compaction_that_is_killed_again_and_again_leaves_a_whole_file(core: Core) -> None:
    rng = random.Random(1)
    core.make_holes()
    contents = core.contents()
    ended, longest = 0, 0.3
    with lives(core.warehouse.settings, "compact") as compactions:
        while compactions.kills < KILLS:
            if compactions.live(rng.uniform(0.0, longest)):
                ended += 1
                longest *= 0.8
                core.make_holes()
            else:
                longest *= 1.1
            assert core.contents() == contents
        assert compactions.live(60)
    assert ended, "some came to their end"
    assert [file.name for file in core.file.parent.glob("*core*")] == ["core.duckdb", "core.duckdb.lock"]
    assert core.land(MESSAGES[FIRST:]).counts["landed"]
