"""The connector configurations and the compose file agree with the shop's tables and each other."""

import json
import re
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from shop.schema import DATABASE, TABLES
from stack import fetch
from stack.connect import CONNECTORS
from stack.kafka import PARTITIONS

STACK = fetch.POM.parent
NAMED_BY_SERVER = {"connector.class"}


def config(name: str) -> dict[str, str]:
    """Return a connector configuration with its placeholders."""
    read: dict[str, str] = json.loads((CONNECTORS / f"{name}.json").read_text())
    return read


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((STACK / "compose.yaml").read_text())
    return read


@pytest.mark.parametrize("name", ["mariadb", "mysql"])
def test_all_tables_are_captured_without_their_personal_columns(name: str) -> None:
    tables = {f"{DATABASE}.{table}" for table in TABLES}
    personal = {f"{DATABASE}.{table.name}.{column}" for table in TABLES.values() for column in table.personal}
    assert set(config(name)["table.include.list"].split(",")) == tables
    assert set(config(name)["column.exclude.list"].split(",")) == personal


def test_configurations_differ_by_the_server_only() -> None:
    mariadb, mysql = config("mariadb"), config("mysql")
    assert {name for name in mariadb | mysql if mariadb.get(name) != mysql.get(name)} == (NAMED_BY_SERVER)


def test_the_connector_writes_nothing_to_the_shop() -> None:
    for name in ("mariadb", "mysql"):
        assert "heartbeat.action.query" not in config(name)
        assert "signal.data.collection" not in config(name)


def test_compose_opens_loopback_ports_only(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:3306:3306", "127.0.0.1:9092:9092", "127.0.0.1:8083:8083"]


def test_compose_refers_to_what_exists(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (STACK / source).is_file()
            else:
                assert source in compose["volumes"]


def test_compose_runs_what_the_tests_run(compose: dict[str, Any]) -> None:
    services, pom = compose["services"], fetch.POM.read_text()
    version = re.search(r"<kafka\.version>(.+)</kafka\.version>", pom)
    assert version is not None
    assert services["kafka"]["image"] == services["connect"]["image"] == f"apache/kafka:{version[1]}"
    assert services["kafka"]["environment"]["KAFKA_NUM_PARTITIONS"] == PARTITIONS
    assert "dependency:unpack@debezium" in services["debezium"]["command"]
    assert "<id>debezium</id>" in pom


def test_compose_connect_finds_kafka_and_the_connector(compose: dict[str, Any]) -> None:
    lines = (STACK / "connect-distributed.properties").read_text().splitlines()
    worker = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    kafka = compose["services"]["kafka"]["environment"]
    assert f"INTERNAL://{worker['bootstrap.servers']}" in kafka["KAFKA_ADVERTISED_LISTENERS"]
    assert worker["listeners"].endswith(":8083")
    # Maven unpacks into ${stack.home}/plugins; the volume is mounted alike in both services.
    assert "-Dstack.home=/plugins " in compose["services"]["debezium"]["command"]
    assert worker["plugin.path"] == "/plugins/plugins"
