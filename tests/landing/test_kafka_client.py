"""The Kafka client's settings: what KAFKA_CONFIG may say, and what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from bi_assets.errors import UserError
from bi_assets.landing.kafka_client import REFUSED, KafkaClient
from bi_assets.settings import Settings


def client(folder: Path, text: str, **settings: str) -> KafkaClient:
    file = folder / "kafka.properties"
    file.write_text(text)
    made = KafkaClient(Settings(kafka_config=file, **settings))  # type: ignore[arg-type]
    made.consumer()
    made.admin()
    return made


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_break_a_promise_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as refused:
        client(tmp_path, f"client.id=mine\n{name}=anything\n")
    assert f"KAFKA_CONFIG={tmp_path / 'kafka.properties'} may not set {name}" in str(refused.value)
    assert REFUSED[name] in str(refused.value)


def test_other_settings_are_the_users_to_make(tmp_path: Path) -> None:
    client(tmp_path, "client.id=mine\nfetch.max.bytes=1000000\nsocket.keepalive.enable=true\n")


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("no.such.setting=1", 'No such configuration property: "no.such.setting"'),
        ("security.protocol=TLS", "security.protocol"),
        ("sasl.jaas.config=org.apache.kafka required password=hidden;", "Java JAAS"),
        ("ssl.truststore.location=/etc/trust.jks", "Java TrustStores"),
        ("security.protocol=SSL\nssl.ca.location=/nowhere.pem", "ssl.ca.location"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(tmp_path: Path, line: str, cause: str) -> None:
    with pytest.raises(UserError) as unusable:
        client(tmp_path, line)
    assert str(unusable.value).startswith(f"KAFKA_CONFIG={tmp_path / 'kafka.properties'} can't be used: ")
    assert cause in str(unusable.value)
    assert "hidden" not in str(unusable.value)


def test_a_line_that_is_no_setting_is_told_without_what_it_says(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 2: expected name=value") as faulty:
        client(tmp_path, "sasl.mechanism=PLAIN\nsasl.password hidden\n")
    assert "hidden" not in str(faulty.value)


def test_a_secret_that_the_client_repeats_is_struck_out(tmp_path: Path) -> None:
    with pytest.raises(UserError) as unusable:
        client(tmp_path, "security.protocol=SSL\nssl.ca.pem=hidden\nsasl.mechanism=hidden-too\n")
    assert "hidden" not in str(unusable.value)


def test_the_file_may_name_the_brokers(tmp_path: Path) -> None:
    assert client(tmp_path, "bootstrap.servers=broker:1\n").address == "broker:1"


def test_two_different_answers_to_where_the_brokers_are_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"KAFKA_BOOTSTRAP_SERVERS is other:2, and .*=broker:1: take"):
        client(tmp_path, "bootstrap.servers=broker:1\n", bootstrap_servers="other:2")
