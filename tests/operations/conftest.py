"""A desk for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shop.broker import EmbeddedBroker
from tests.operations.desk import Desk


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture
def desk(broker: EmbeddedBroker, tmp_path: Path) -> Desk:
    return Desk(broker, tmp_path / "data")
