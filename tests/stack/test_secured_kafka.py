"""Clusters with a login: the example files work as they are, and what is wrong is one clear sentence."""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner, Result
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType

from bi_assets.cli import main
from bi_assets.landing import kafka
from sensors import kafka_cdc
from tests.landing.messages import order, user
from tests.stack.secured import PASSWORD, USER, SecuredBroker, token_server
from tests.stack.topic_world import SECONDS, TopicWorld, one_line

pytestmark = pytest.mark.stack

EXAMPLES = Path(__file__).parents[2] / "stack" / "config"
SECRET = "client-secret-of-the-provider"
WRONG = "a-password-that-is-wrong"
PROMPT_SECONDS = 8.0


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    with SecuredBroker(tmp_path_factory.mktemp("secured") / "broker") as broker:
        yield broker


@pytest.fixture(scope="module")
def token_endpoint() -> Iterator[str]:
    with token_server(SECRET) as address:
        yield address


@pytest.fixture
def world(broker: SecuredBroker, tmp_path: Path) -> TopicWorld:
    world = TopicWorld(broker, tmp_path)
    world.send(world.log.change("users", "c", None, user(1)))
    return world


def filled_in(broker: SecuredBroker, name: str, folder: Path, **values: str) -> Path:
    """Write an example file with its capitals filled in; `values` win over what is right."""
    certificates = broker.certificates
    right = {
        "/etc/kafka/AUTHORITY.pem": str(certificates.authority),
        "/etc/kafka/CLIENT.pem": str(certificates.client),
        "/etc/kafka/CLIENT.key": str(certificates.key(certificates.client)),
        "THE_USER": USER,
        "THE_PASSWORD": PASSWORD,
        "THE_SECRET": SECRET,
    }
    text = (EXAMPLES / f"{name}.properties").read_text()
    for placeholder, value in {**right, **values}.items():
        text = text.replace(placeholder, value)
    file = folder / "kafka.properties"
    file.write_text(text)
    return file


def call(world: TopicWorld, address: str, config: Path | None, command: str) -> Result:
    environment = {
        "KAFKA_BOOTSTRAP_SERVERS": address,
        "KAFKA_CONFIG": str(config or ""),
        "BI_DATA_DIR": str(world.warehouse.settings.data_dir),
        "BI_TOPIC_PREFIX": world.warehouse.settings.topic_prefix,
    }
    return CliRunner().invoke(main, [command, "--json"], env=environment)


@pytest.mark.parametrize(
    "example", ["sasl-ssl-plain", "sasl-ssl-scram", "mtls", "oauth", "oauth-unsecured", "confluent-cloud"]
)
def test_each_example_file_lands(
    world: TopicWorld, broker: SecuredBroker, tmp_path: Path, example: str, token_endpoint: str
) -> None:
    config = filled_in(broker, example, tmp_path, **{"https://TOKEN_ENDPOINT": token_endpoint})
    address = broker.mtls if example == "mtls" else broker.sasl_ssl
    if example == "confluent-cloud":  # it names the brokers itself, and trusts public authorities
        text = config.read_text().replace("pkc-00000.REGION.PROVIDER.confluent.cloud:9092", address)
        config.write_text(f"{text}ssl.ca.location={broker.certificates.authority}\n")
        address = ""
    synced = call(world, address, config, "sync")
    assert synced.exit_code == 0, synced.output
    assert world.users() == [1]
    told = call(world, address, config, "status")
    assert json.loads(told.output)["ok"], told.output
    assert PASSWORD not in synced.output + told.output
    assert SECRET not in synced.output + told.output


@pytest.mark.parametrize(
    ("example", "wrong", "cause"),
    [
        ("sasl-ssl-plain", {"THE_PASSWORD": WRONG}, "Invalid username or password"),
        ("sasl-ssl-scram", {"THE_PASSWORD": WRONG}, "invalid credentials"),
        ("sasl-ssl-plain", {"=PLAIN": "=SCRAM-SHA-256"}, "Unsupported SASL mechanism"),
        ("sasl-ssl-plain", {"/etc/kafka/AUTHORITY.pem": "STRANGER"}, "certificate could not be verified"),
        ("sasl-ssl-plain", {"/etc/kafka/AUTHORITY.pem": "/nowhere.pem"}, "ssl.ca.location"),
        ("mtls", {"/etc/kafka/CLIENT.pem": "STRANGER", "/etc/kafka/CLIENT.key": "STRANGERS_KEY"},
         "bad certificate"),
        ("oauth", {"THE_SECRET": WRONG}, "invalid_client"),
        ("oauth", {"https://TOKEN_ENDPOINT": "http://127.0.0.1:1/token"}, "Could not connect"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_login_is_one_sentence_within_seconds(
    world: TopicWorld,
    broker: SecuredBroker,
    tmp_path: Path,
    token_endpoint: str,
    example: str,
    wrong: dict[str, str],
    cause: str,
) -> None:
    stranger = broker.certificates.stranger
    values = {
        "STRANGERS_KEY": str(broker.certificates.key(stranger)),
        "STRANGER": str(stranger),
        "https://TOKEN_ENDPOINT": token_endpoint,
    }
    config = filled_in(broker, example, tmp_path, **{**wrong, **values, **wrong})
    address = broker.mtls if example == "mtls" else broker.sasl_ssl
    started = time.monotonic()
    synced = call(world, address, config, "sync")
    assert time.monotonic() - started < PROMPT_SECONDS
    assert synced.exit_code == 1
    sentence = synced.output.strip()
    assert sentence.startswith("Error: ")
    assert "\n" not in sentence
    assert f"KAFKA_CONFIG={config}" in sentence
    assert cause in sentence
    told = json.loads(call(world, address, config, "status").output)
    one_line(told["problems"], cause, f"KAFKA_CONFIG={config}")
    for secret in (WRONG, PASSWORD, SECRET):
        assert secret not in synced.output + json.dumps(told)


def test_a_client_without_certificate_is_told(
    world: TopicWorld, broker: SecuredBroker, tmp_path: Path
) -> None:
    config = filled_in(broker, "mtls", tmp_path)
    lines = config.read_text().splitlines()
    own = ("ssl.certificate", "ssl.key")
    config.write_text("\n".join(line for line in lines if not line.startswith(own)))
    synced = call(world, broker.mtls, config, "sync")
    assert "bad certificate" in synced.output and f"KAFKA_CONFIG={config}" in synced.output


def test_a_cluster_that_wants_tls_is_told_where_no_login_is_given(
    world: TopicWorld, broker: SecuredBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "_ANSWER_SECONDS", 1.0)
    synced = call(world, broker.sasl_ssl, None, "sync")
    assert "wants TLS" in synced.output and "KAFKA_CONFIG" in synced.output


def test_tls_to_a_plain_listener_is_told(world: TopicWorld, broker: SecuredBroker, tmp_path: Path) -> None:
    config = filled_in(broker, "sasl-ssl-plain", tmp_path)
    synced = call(world, broker.bootstrap_servers, config, "sync")
    assert "PLAINTEXT broker listener" in synced.output and f"KAFKA_CONFIG={config}" in synced.output


def test_a_topic_that_the_login_may_not_read_is_told_and_the_others_land(
    world: TopicWorld, broker: SecuredBroker, tmp_path: Path
) -> None:
    world.send(world.log.change("orders", "c", None, order(1)))
    sees = AclBinding(
        ResourceType.TOPIC, world.topic("users"), ResourcePatternType.LITERAL, f"User:{USER}", "*",
        AclOperation.DESCRIBE, AclPermissionType.ALLOW,
    )  # fmt: skip
    for future in world.admin.create_acls([sees]).values():
        future.result(SECONDS)
    config = filled_in(broker, "sasl-ssl-scram", tmp_path)
    synced = call(world, broker.sasl_ssl, config, "sync")
    assert synced.exit_code == 1
    assert "does not let this login read" in synced.output and world.topic("users") in synced.output
    assert world.rows("SELECT id FROM cdc.orders") == [1]
    told = json.loads(call(world, broker.sasl_ssl, config, "status").output)
    one_line(told["problems"], world.topic("users"), "give its user Read")


def test_the_sensor_skips_with_a_sentence_and_logs_it_once(
    broker: SecuredBroker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(kafka_cdc, "_WAIT_SECONDS", 1.0)
    config = filled_in(broker, "sasl-ssl-plain", tmp_path, THE_PASSWORD=WRONG)
    world = TopicWorld(broker, tmp_path, bootstrap_servers=broker.sasl_ssl, kafka_config=config)
    sensor = kafka_cdc.kafka_cdc(world.warehouse)
    with dg.DagsterInstance.ephemeral() as instance, caplog.at_level(logging.WARNING):

        def evaluate() -> Any:
            return sensor(dg.build_sensor_context(instance=instance))

        skipped = [evaluate() for _ in range(3)]
        for skip in skipped:
            assert isinstance(skip, dg.SkipReason)
            assert f"KAFKA_CONFIG={config}" in (skip.skip_message or "")
        assert len([r for r in caplog.records if "KAFKA_CONFIG" in r.message]) == 1
        assert WRONG not in caplog.text + str(skipped)
        filled_in(broker, "sasl-ssl-plain", tmp_path)
        world.send(world.log.change("users", "c", None, user(1)))
        monkeypatch.setattr(kafka_cdc, "_WAIT_SECONDS", 12.0)
        assert isinstance(evaluate(), dg.RunRequest)
