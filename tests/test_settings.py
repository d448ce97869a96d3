"""Settings: where they come from, and what happens to those that can't be used."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from bi_assets.errors import UserError
from bi_assets.settings import Settings, read_properties


def test_without_anything_the_defaults_hold() -> None:
    settings = Settings.from_environment({})
    assert settings == Settings()
    assert settings.topic("orders") == "shop.shop.orders"
    assert settings.heartbeat_topic == "__debezium-heartbeat.shop"


def test_the_environment_beats_the_env_file_and_that_the_demos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("# comment\nBI_DATA_DIR=here\nexport BI_TIMEZONE='Europe/Berlin'\n")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "demo.env").write_text(
        "BI_TIMEZONE=Asia/Tokyo\nBI_PSEUDONYM_KEY=made\nKAFKA_BOOTSTRAP_SERVERS=demo:1\n"
    )
    monkeypatch.chdir(tmp_path)
    for name in ("BI_DATA_DIR", "BI_TIMEZONE", "BI_PSEUDONYM_KEY", "KAFKA_BOOTSTRAP_SERVERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BI_FIRST_DATE", "2020-01-01")
    settings = Settings.from_environment()
    assert settings.first_date == date(2020, 1, 1)
    assert settings.business_timezone == "Europe/Berlin"
    assert settings.pseudonym_key == "made"
    assert settings.bootstrap_servers == "demo:1"


def test_an_own_broker_is_kept_apart_from_the_simulated_shops_data(tmp_path: Path) -> None:
    (tmp_path / "demo.env").write_text("KAFKA_BOOTSTRAP_SERVERS=demo:1\n")
    with pytest.raises(UserError, match="holds the data of the simulated shop"):
        Settings.from_environment({"BI_DATA_DIR": str(tmp_path), "KAFKA_BOOTSTRAP_SERVERS": "mine:2"})


def test_values_are_typed() -> None:
    settings = Settings.from_environment({"BI_FIRST_DATE": "2020-02-29", "BI_LINGER_SECONDS": "0.5"})
    assert settings.first_date == date(2020, 2, 29)
    assert settings.linger_seconds == 0.5


def test_a_value_that_cannot_be_used_is_named() -> None:
    with pytest.raises(UserError, match="BI_LINGER_SECONDS='long' can't be used"):
        Settings.from_environment({"BI_LINGER_SECONDS": "long"})


def test_a_properties_file_is_read_as_librdkafka_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "kafka.properties"
    file.write_text("# secured\nsecurity.protocol = SASL_SSL\nsasl.password=a=b\n\n")
    assert read_properties(file) == {"security.protocol": "SASL_SSL", "sasl.password": "a=b"}


def test_a_line_that_is_no_property_is_named(tmp_path: Path) -> None:
    file = tmp_path / "kafka.properties"
    file.write_text("security.protocol=SSL\nnonsense\n")
    with pytest.raises(UserError, match="line 2: expected name=value"):
        read_properties(file)
