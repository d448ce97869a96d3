"""Malformed messages are set aside, once, with cause and remedy; nothing else is affected."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.histories import TABLES
from tests.landing.malformed import MARKER, Kind, kinds, truncations
from tests.landing.messages import Log, order, user
from tests.oracle import Message
from tests.platform import Platform

pytestmark = pytest.mark.xdist_group("malformed")  # all look at the same landing

KINDS = {kind.name: kind for kind in kinds()}
Place = tuple[str, int]
"""Topic and offset; everything is on partition 0."""


class Landed:
    """All kinds, landed in one batch among sound messages, in a database on disk."""

    def __init__(self, file: Path, found: list[Kind]) -> None:
        self.file = file
        self.log = Log()
        self.places: dict[str, Place] = {}
        self.neighbours: list[Message] = []
        for number, kind in enumerate(found, start=1):
            message = self.log.raw(kind.table, kind.key, kind.value)
            self.places[kind.name] = (message.topic, message.offset)
            if number % 5 == 0:
                self.neighbours += [
                    self.log.change("users", "c", None, user(number)),
                    self.log.change("orders", "c", None, order(number, number, user_id=number)),
                ]
        self.platform = Platform(tables=TABLES, file=file)
        self.platform.land(self.log.messages)
        self.quarantine: dict[Place, list[tuple[str, str]]] = {}
        for row in self.platform.rows("cdc.quarantine"):
            told = (row["cause"], row["what_to_do"])
            self.quarantine.setdefault((row["topic"], row["offset"]), []).append(told)
        self.landed = {
            (row["_topic"], row["_offset"]) for table in TABLES for row in self.platform.rows(f"cdc.{table}")
        }

    def fate(self, name: str) -> str:
        """Return whether a kind is in the log, in quarantine, both or neither."""
        place = self.places[name]
        times = ["landed"] * (place in self.landed) + ["quarantined"] * len(self.quarantine.get(place, ()))
        return " and ".join(times)


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Landed]:
    landed = Landed(tmp_path_factory.mktemp("malformed") / "core.duckdb", list(KINDS.values()))
    yield landed
    landed.platform.close()


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Landed]:
    landed = Landed(tmp_path_factory.mktemp("cut") / "core.duckdb", truncations())
    yield landed
    landed.platform.close()


def test_there_are_at_least_three_hundred_kinds() -> None:
    assert sum(not kind.lands for kind in KINDS.values()) >= 300
    assert len(truncations()) >= 300


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if not kind.lands])
def test_it_is_quarantined_once_with_cause_and_remedy(landed: Landed, name: str) -> None:
    assert landed.fate(name) == "quarantined"
    ((cause, what_to_do),) = landed.quarantine[landed.places[name]]
    assert cause and what_to_do


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.lands])
def test_what_only_looks_odd_lands(landed: Landed, name: str) -> None:
    assert landed.fate(name) == "landed"


def test_a_message_cut_anywhere_is_quarantined_once(cut: Landed) -> None:
    fates = {name: cut.fate(name) for name in cut.places}
    assert {name: fate for name, fate in fates.items() if fate != "quarantined"} == {}


@pytest.mark.parametrize("batch", ["landed", "cut"])
def test_its_neighbours_land(batch: str, request: pytest.FixtureRequest) -> None:
    landed: Landed = request.getfixturevalue(batch)
    assert landed.neighbours
    assert {(m.topic, m.offset) for m in landed.neighbours} <= landed.landed
    assert not {(m.topic, m.offset) for m in landed.neighbours} & set(landed.quarantine)


@pytest.mark.parametrize("batch", ["landed", "cut"])
def test_the_marts_are_those_without_it(batch: str, request: pytest.FixtureRequest) -> None:
    landed: Landed = request.getfixturevalue(batch)
    sound = [m for m in landed.log.messages if (m.topic, m.offset) in landed.landed]
    landed.platform.refresh()
    with Platform(tables=TABLES) as other:
        other.land(sound)
        other.refresh()
        assert other.value("SELECT count(*) FROM marts.orders_with_discount") > 50
        assert landed.platform.tables("marts") == other.tables("marts")


@pytest.mark.parametrize("batch", ["landed", "cut"])
def test_the_offsets_pass_it(batch: str, request: pytest.FixtureRequest) -> None:
    landed: Landed = request.getfixturevalue(batch)
    offsets = {row["topic"]: row["next_offset"] for row in landed.platform.rows("meta.offsets")}
    for message in landed.log.messages:
        assert message.offset < offsets[message.topic]


def test_alone_in_a_batch_it_ends_as_among_others(landed: Landed) -> None:
    log = Log()
    with Platform(tables=TABLES, marts_of={}) as platform:
        for name, kind in list(KINDS.items())[::10]:
            counts = platform.land([log.raw(kind.table, kind.key, kind.value)]).counts
            fate = " and ".join(["landed"] * counts["landed"] + ["quarantined"] * counts["quarantined"])
            assert fate == landed.fate(name), name


def test_no_payload_and_no_personal_datum_reaches_the_database(landed: Landed) -> None:
    rows = repr([landed.platform.tables(schema) for schema in ("cdc", "history", "meta", "marts", "state")])
    assert MARKER not in rows
    files = [landed.file, landed.file.with_suffix(".duckdb.wal")]
    assert not [file for file in files if file.exists() and MARKER.encode() in file.read_bytes()]
    landed.platform.con.execute("CHECKPOINT")
    assert MARKER.encode() not in landed.file.read_bytes()


def test_the_marker_would_be_found(landed: Landed) -> None:
    """A stored text is found by the same search, so that finding none says something."""
    landed.platform.con.execute("CHECKPOINT")
    assert b"binlog.000001" in landed.file.read_bytes()
    assert all(MARKER.encode() in KINDS[name].value for name in ("latin-1", "an emoji"))
