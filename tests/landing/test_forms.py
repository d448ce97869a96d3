"""Every serialisation form tells the same history; what is not of its form is set aside."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from bi_assets.settings import Settings
from tests.histories import TABLES, World, interleaved, split
from tests.landing.converters import FORMS, Registry, in_form
from tests.landing.messages import Log, order, user
from tests.platform import Platform

SCHEMAS = ("cdc", "history", "marts")
Served = tuple[Registry, Settings]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    registry = Registry()
    with registry.serve() as url:
        yield registry, Settings(data_dir=Path("unused"), schema_registry_url=url)


@pytest.mark.parametrize("form", [*FORMS[1:], "mixed"])
def test_it_lands_as_schemaless_json_does(form: str, served: Served) -> None:
    """Rows have other columns from message to message: so have their schemas."""
    registry, settings = served
    rng = random.Random(form)
    messages = interleaved(World(seed=11, sizes=(16,) * 8).messages(), rng)
    others = [in_form(rng.choice(FORMS) if form == "mixed" else form, m, registry) for m in messages]
    with Platform(tables=TABLES) as expected, Platform(settings, tables=TABLES) as found:
        start = 0
        for batch in split(messages, rng, 3):
            end = start + len(batch)
            assert found.land(others[start:end]).counts == expected.land(batch).counts
            start = end
        for platform in (expected, found):
            platform.refresh()
        for schema in SCHEMAS:
            assert found.tables(schema) == expected.tables(schema)
        assert found.rows("meta.drift ORDER BY ALL") == expected.rows("meta.drift ORDER BY ALL")
        assert found.value("SELECT count(*) FROM cdc.orders") > 40


@pytest.mark.parametrize("form", FORMS[1:])
def test_a_broken_message_is_set_aside_and_its_neighbours_land(form: str, served: Served) -> None:
    registry, settings = served
    log = Log()
    for number in range(200):
        log.change("orders", "c", None, order(number))
    messages = [in_form(form, m, registry) for m in log.messages]
    whole = messages[50].value
    assert whole
    broken = {50: whole[:-1], 51: whole[:20], 52: whole[:5], 120: whole + b"x", 199: whole[:5] + b"\xff" * 40}
    if form == "avro":
        broken[53] = b"\0\0"
        broken[54] = b"\0\x7f\0\0\0" + whole[5:]
        # A text that is not UTF-8, which nothing in its length gives away.
        broken[55] = whole.replace(b"binlog.000001", b"binl\xffg.000001")
    messages = [m._replace(value=broken.get(i, m.value)) for i, m in enumerate(messages)]
    with Platform(settings, tables=TABLES, marts_of={}) as platform:
        counts = platform.land(messages).counts
        assert counts["quarantined"] == len(broken)
        assert counts["landed"] == 200 - len(broken)
        assert {row["offset"] for row in platform.rows("cdc.quarantine")} == set(broken)
        if form == "avro":
            causes = {row["offset"]: row["cause"] for row in platform.rows("cdc.quarantine")}
            assert causes[53] == "too short for Avro: there is no schema id"
            assert causes[54].startswith("the schema registry knows no schema 2130706432")
            assert causes[50].startswith("Avro that is not of its schema")


def test_avro_without_a_registry_is_set_aside_with_the_setting_that_is_missing(served: Served) -> None:
    log = Log()
    message = in_form("avro", log.change("orders", "c", None, order()), served[0])
    with Platform(tables=TABLES, marts_of={}) as platform:
        platform.land([message])
        assert platform.value("SELECT cause FROM cdc.quarantine").endswith("set SCHEMA_REGISTRY_URL")


def test_a_schema_is_asked_for_once(served: Served) -> None:
    registry = Registry()
    log = Log()
    with registry.serve() as url:
        settings = Settings(data_dir=Path("unused"), schema_registry_url=url)
        with Platform(settings, tables=TABLES, marts_of={}) as platform:
            for number in range(3):
                platform.land([in_form("avro", log.change("users", "c", None, user(number)), registry)])
    assert registry.asked == ["/schemas/ids/1"]
