"""The terminal: what each command tells, and how it fails."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner, Result

from bi_assets.cli import main
from shop.broker import EmbeddedBroker
from tests import goldens
from tests.landing.messages import Log, order
from tests.platform import produce

NO_BROKER = "127.0.0.1:1"


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as broker:
        for message in goldens.load("07a").messages:
            broker.produce(message.topic, message.key, message.value, partition=message.partition)
        broker.flush()
        yield broker


@pytest.fixture
def environment(tmp_path: Path, broker: EmbeddedBroker) -> dict[str, str]:
    return {
        "BI_DATA_DIR": str(tmp_path),
        "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        "COLUMNS": "200",
    }


def call(environment: dict[str, str], *words: str) -> Result:
    return CliRunner().invoke(main, list(words), env=environment)


def test_sync_prints_the_articles_twelve_averages(environment: dict[str, str]) -> None:
    result = call(environment, "sync")
    assert result.exit_code == 0, result.output
    for row in goldens.load("07a").expected["expected"]:
        assert str(row["avg_order_value"]) in result.output


def test_sync_tells_its_counts_as_json(environment: dict[str, str]) -> None:
    told = json.loads(call(environment, "sync", "--json").output)
    assert told["messages"] == told["landed"] == len(goldens.load("07a").messages)
    assert told["refreshed"]["avg_order_value_by_discount"] == {"rows": 12, "days": None}
    assert Path(told["published"]).exists()


def test_status_is_well_after_a_sync(environment: dict[str, str]) -> None:
    call(environment, "sync")
    result = call(environment, "status", "--json")
    told = json.loads(result.output)
    assert result.exit_code == 0
    assert told["ok"] and not told["problems"]
    (orders,) = [table for table in told["tables"] if table["table"] == "orders"]
    assert (orders["changes"], orders["rows"], orders["lag"], orders["quarantined"]) == (26, 26, 0, 0)
    assert "all is well" in call(environment, "status").output


def test_status_tells_how_often_it_publishes_where_that_takes_long(environment: dict[str, str]) -> None:
    call(environment, "sync")
    with duckdb.connect(f"{environment['BI_DATA_DIR']}/core.duckdb") as con:
        con.execute("UPDATE meta.publications SET seconds = 2.0")
    assert "there is one every 10.0 s at most" in call(environment, "status").output


def test_status_tells_the_lag_before_a_sync(environment: dict[str, str]) -> None:
    result = call(environment, "status", "--json")
    told = json.loads(result.output)
    messages = len(goldens.load("07a").messages)
    assert sum(table["lag"] or 0 for table in told["tables"]) == messages
    assert result.exit_code == 1
    assert f"{messages} messages are in Kafka and none has landed" in told["problems"][0]


def test_status_is_not_well_where_messages_wait_and_nothing_lands(
    environment: dict[str, str], broker: EmbeddedBroker
) -> None:
    call(environment, "sync")
    broker.produce("shop.shop.orders", b'{"id":99}', b"not json")
    broker.flush()
    assert call(environment, "status").exit_code == 0  # it may be on its way
    with duckdb.connect(f"{environment['BI_DATA_DIR']}/core.duckdb") as con:
        con.execute("UPDATE meta.batches SET landed_at = landed_at - INTERVAL 2 HOUR")
    result = call(environment, "status")
    assert result.exit_code == 1
    assert "1 messages wait in Kafka" in result.output


def test_status_fails_with_a_message_in_quarantine(
    environment: dict[str, str], broker: EmbeddedBroker
) -> None:
    broker.produce("shop.shop.orders", b'{"id":99}', b"not json")
    broker.flush()
    call(environment, "sync")
    result = call(environment, "status")
    assert result.exit_code == 1
    assert "1 messages are in quarantine" in result.output
    (listed,) = json.loads(call(environment, "quarantine", "list", "--json").output)
    assert (listed["topic"], listed["key"], listed["cause"]) == ("shop.shop.orders", "99", "not JSON")
    assert listed["what_to_do"]


def test_status_without_a_broker_says_so_and_still_shows_the_marts(environment: dict[str, str]) -> None:
    call(environment, "sync")
    result = call({**environment, "KAFKA_BOOTSTRAP_SERVERS": NO_BROKER}, "status", "--json")
    told = json.loads(result.output)
    assert result.exit_code == 1
    assert any("No Kafka broker answers" in problem for problem in told["problems"])
    assert {mart["mart"]: mart["rows"] for mart in told["marts"]}["orders_with_discount"] == 26


def test_status_tells_how_much_room_everything_takes(environment: dict[str, str], tmp_path: Path) -> None:
    call(environment, "sync")
    (tmp_path / "dagster").mkdir()
    (tmp_path / "dagster" / "events.db").write_bytes(bytes(1_000_000))
    told = json.loads(call(environment, "status", "--json").output)["bytes"]
    assert told["core"] == (tmp_path / "core.duckdb").stat().st_size
    assert told["published"] == (tmp_path / "publish" / "marts.duckdb").stat().st_size
    assert told["dagster"] == 1_000_000
    assert "dagster 1.0 MB" in call(environment, "status").output


def test_sweep_says_where_there_is_nothing_to_sweep(environment: dict[str, str]) -> None:
    call(environment, "sync")
    assert "Every row of users that is known" in call(environment, "sweep", "users").output
    result = call(environment, "sweep", "users", "--apply")
    assert (result.exit_code, "There is nothing to sweep in users" in result.output) == (1, True)
    result = call(environment, "sweep", "customers")
    assert (result.exit_code, "There is no table 'customers'; there are" in result.output) == (1, True)


def test_status_tells_of_a_dead_connector(environment: dict[str, str], broker: EmbeddedBroker) -> None:
    broker.produce("__debezium-heartbeat.shop", b"{}", b'{"ts_ms":1714564800000}', timestamp_ms=1714564800000)
    broker.flush()
    assert "No sign of life" not in call(environment, "status").output, "nothing has landed yet"
    call(environment, "sync")
    with duckdb.connect(f"{environment['BI_DATA_DIR']}/core.duckdb") as con:
        con.execute("UPDATE meta.progress SET sent_at = NULL")  # the shop's changes were sent just now
    result = call(environment, "status", "--json")
    assert result.exit_code == 1
    (problem,) = json.loads(result.output)["problems"]
    assert problem.startswith("No sign of life from the connector since 2024-05-01 12:00:00 (UTC)")


def test_explain_shows_the_events_and_the_version_in_force(environment: dict[str, str]) -> None:
    call(environment, "sync")
    told = json.loads(call(environment, "explain", "1", "--json").output)
    assert told["row"]["discount"] == "-4.00"
    assert [event["_op"] for event in told["order_events"]] == ["c"]
    assert [version["in_force"] for version in told["patient_versions"]].count(True) == 1
    assert "-4.00" in call(environment, "explain", "1").output


def test_explain_shows_what_a_rekeyed_order_was_under_its_old_keys(
    environment: dict[str, str], broker: EmbeddedBroker
) -> None:
    log = Log()
    log.change("orders", "c", None, order(901))
    for old, new in ((901, 902), (902, 903), (903, 901)):
        log.rekey("orders", order(old), order(new))
    produce(broker, log.messages)
    call(environment, "sync")
    told = json.loads(call(environment, "explain", "901", "--json").output)
    assert told["row"]["order_id"] == 901
    assert {event["id"] for event in told["order_events"]} == {901, 902, 903}
    assert len(told["order_versions"]) == 7


def test_explain_of_an_unknown_order_says_so(environment: dict[str, str]) -> None:
    call(environment, "sync")
    result = call(environment, "explain", "4711")
    assert result.exit_code == 1
    assert "No order 4711 has landed" in result.output


def test_sync_without_a_broker_is_one_sentence(environment: dict[str, str]) -> None:
    result = call({**environment, "KAFKA_BOOTSTRAP_SERVERS": NO_BROKER}, "sync")
    assert result.exit_code == 1
    assert result.output.startswith("Error: No Kafka broker answers at 127.0.0.1:1 (Connection refused).")
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("variable", "value"),
    [("BI_TIMEZONE", "Mars/Base"), ("BI_FIRST_DATE", "yesterday"), ("BI_LINGER_SECONDS", "long")],
)
def test_a_setting_that_cannot_be_used_is_named(
    environment: dict[str, str], variable: str, value: str
) -> None:
    result = call({**environment, variable: value}, "status")
    assert result.exit_code == 1
    assert f"{variable}={value!r}" in result.output


@pytest.mark.parametrize("command", ["up", "demo"])
def test_a_taken_port_is_one_sentence(environment: dict[str, str], command: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = call(environment, command, "--port", port)
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: Port {port} is taken by another program")


@pytest.mark.parametrize("variable", ["BI_TIMEZONE", "BI_SOURCE_TIMEZONE", "BI_PSEUDONYM_KEY"])
def test_what_belongs_to_the_data_cannot_be_changed_afterwards(
    environment: dict[str, str], variable: str
) -> None:
    call(environment, "sync")
    result = call({**environment, variable: "Europe/Berlin"}, "sync")
    assert result.exit_code == 1
    assert f"{variable} has changed" in result.output


def test_a_data_dir_that_cannot_be_written_is_one_sentence(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    result = call({**environment, "BI_DATA_DIR": str(tmp_path / "file" / "data")}, "sync")
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert "Error:" in result.output
