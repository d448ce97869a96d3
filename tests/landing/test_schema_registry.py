"""A registry that is away makes a batch wait; what it says no message can have is the message's fault."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bi_assets.errors import UserError
from bi_assets.landing.schema_registry import RegistryAwayError, SchemaRegistry, UnknownSchemaError
from bi_assets.micro_batch import linger, sync
from bi_assets.settings import Settings
from bi_assets.status import status
from bi_assets.warehouse import Warehouse
from shop.broker import EmbeddedBroker
from tests.histories import TABLES
from tests.landing.converters import Field, Registry, in_form, struct
from tests.landing.messages import Log, order, user
from tests.landing.test_kafka import query, warehouse_of
from tests.platform import Platform, produce


@pytest.fixture
def away() -> tuple[Registry, int]:
    """A registry that does not run, and the port on which it would."""
    registry = Registry()
    with registry.serve() as url:
        return registry, int(url.rpartition(":")[2])


@pytest.fixture
def waiting(away: tuple[Registry, int], tmp_path: Path) -> Iterator[Warehouse]:
    """A warehouse before a broker with a JSON and an Avro message, and no registry."""
    log = Log()
    json = log.change("users", "c", None, user())
    avro = in_form("avro", log.change("orders", "c", None, order()), away[0])
    with EmbeddedBroker() as broker:
        produce(broker, [json, avro])
        url = f"http://127.0.0.1:{away[1]}"
        yield warehouse_of(broker, tmp_path, schema_registry_url=url, linger_seconds=0.0)


def test_sync_ends_with_what_to_do_and_the_next_one_lands_it(
    waiting: Warehouse, away: tuple[Registry, int]
) -> None:
    with pytest.raises(UserError, match=r"does not answer: .*nothing is lost. Start it"):
        sync(waiting)
    assert query(waiting, "SELECT count(*) FROM cdc.quarantine") == [(0,)]
    assert query(waiting, "SELECT count(*) FROM meta.offsets") == [(0,)]
    assert any("schema registry" in problem for problem in status(waiting)["problems"])
    with away[0].serve(away[1]):
        sync(waiting)
        assert not any("schema registry" in problem for problem in status(waiting)["problems"])
    assert query(waiting, "SELECT count(*) FROM cdc.orders") == [(1,)]


def test_a_lingering_run_says_so_once_and_waits(waiting: Warehouse, away: tuple[Registry, int]) -> None:
    with ExitStack() as running:

        class WhenItIsSaid(logging.Handler):
            said: tuple[str, ...] = ()

            def emit(self, record: logging.LogRecord) -> None:
                self.said += (record.getMessage(),)
                running.enter_context(away[0].serve(away[1]))

        handler = WhenItIsSaid()
        logging.getLogger("bi_assets.micro_batch").addHandler(handler)
        running.callback(logging.getLogger("bi_assets.micro_batch").removeHandler, handler)
        outcome = linger(waiting, lambda _: False)
    assert [batch.counts["landed"] for batch in outcome.landed] == [2]
    assert len(handler.said) == 1
    assert outcome.published


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((401, {"error_code": 401}), "answers 401"),
        ((404, {"message": "no such page"}), "answers 404"),
        ((500, {"error_code": 50001}), "answers 500"),
        ((200, ["a page"]), "sent no schema"),
        ((200, {"schema": "{"}), "sent no schema"),
    ],
)
def test_an_answer_that_is_no_registrys_is_waited_out(answer: tuple[int, Any], words: str) -> None:
    registry = Registry()
    registry.answer = lambda *_: answer  # type: ignore[method-assign]
    with registry.serve() as url, pytest.raises(RegistryAwayError, match=words):
        SchemaRegistry(Settings(schema_registry_url=url)).schema(1)


@pytest.mark.parametrize(
    "answer",
    [
        (404, {"error_code": 40403}),
        (200, {"schemaType": "PROTOBUF", "schema": "syntax"}),
        (200, {"schema": "[]", "references": [{"name": "other"}]}),
    ],
)
def test_a_schema_that_will_never_be_is_the_messages_fault(answer: tuple[int, Any]) -> None:
    registry = Registry()
    registry.answer = lambda *_: answer  # type: ignore[method-assign]
    with registry.serve() as url:
        asked = SchemaRegistry(Settings(schema_registry_url=url))
        for _ in range(2):
            with pytest.raises(UnknownSchemaError, match="schema 1"):
                asked.schema(1)
    assert len(registry.asked) == 1


def test_the_user_is_told_to_the_registry(tmp_path: Path) -> None:
    registry = Registry()
    told: list[str | None] = []

    def answer(path: str, authorization: str | None) -> tuple[int, Any]:
        told.append(authorization)
        return 200, {"schema": '"long"'}

    registry.answer = answer  # type: ignore[method-assign]
    config = tmp_path / "registry.properties"
    config.write_text("basic.auth.user.info=key:secret\n")
    with registry.serve() as url:
        settings = Settings(schema_registry_url=url, schema_registry_config=config)
        assert SchemaRegistry(settings).schema(1) == "long"
    assert told == ["Basic a2V5OnNlY3JldA=="]


@pytest.mark.parametrize("line", ["sasl.username=a", "ssl.ca.location=/nowhere.pem", "nothing"])
def test_a_config_that_cannot_be_used_is_told(line: str, tmp_path: Path) -> None:
    config = tmp_path / "registry.properties"
    config.write_text(line)
    with pytest.raises(UserError, match=r"registry\.properties"):
        SchemaRegistry(Settings(schema_registry_config=config))


def test_avro_keys_and_heartbeats_are_read() -> None:
    registry, log = Registry(), Log()
    beat = log.heartbeat(5)
    heartbeat = struct("io.debezium.connector.common.Heartbeat", {"ts_ms": Field("int64")}, optional=False)
    key = struct("shop.shop.orders.Key", {"id": Field("int64", optional=False)}, optional=False)
    with registry.serve() as url:
        settings = Settings(data_dir=Path("unused"), schema_registry_url=url)
        with Platform(settings, tables=TABLES, marts_of={}) as platform:
            log.raw("orders", registry.frame(key, {"id": 77}), b"{")
            ts_ms = 1714586400000
            platform.land(
                [log.messages[-1], beat._replace(value=registry.frame(heartbeat, {"ts_ms": ts_ms}))]
            )
            assert platform.value("SELECT key_token FROM cdc.quarantine") == "77"
            assert platform.value("SELECT epoch_ms(heartbeat_at) FROM meta.progress") == ts_ms
