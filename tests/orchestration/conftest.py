"""A broker with the article's orders, and the definitions that point at it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from bi_assets.definitions import definitions
from bi_assets.platform import warehouse
from bi_assets.settings import Settings
from bi_assets.warehouse import Warehouse
from shop.broker import EmbeddedBroker
from tests import goldens


@dataclass
class Location:
    """A code location, the warehouse behind it, and the broker in front of it."""

    definitions: dg.Definitions
    warehouse: Warehouse
    broker: EmbeddedBroker


@pytest.fixture
def location(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Location]:
    """Return a code location whose broker holds golden 07a."""
    with EmbeddedBroker() as broker:
        for message in goldens.load("07a").messages:
            broker.produce(message.topic, message.key, message.value, partition=message.partition)
        broker.flush()
        monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", broker.bootstrap_servers)
        monkeypatch.setenv("BI_DATA_DIR", str(tmp_path))
        monkeypatch.setenv("BI_LINGER_SECONDS", "0.1")
        settings = Settings.from_environment()
        yield Location(definitions(), warehouse(settings), broker)
