"""A running stack per test, with the shop's empty tables and a connection to its database."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql  # type: ignore[import-untyped]
import pytest

from stack.servers import Stack


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """Run MariaDB with the shop's tables, Kafka and Connect; the connector is not started."""
    with Stack(tmp_path / "stack") as running:
        running.create_shop_tables()
        yield running


@pytest.fixture
def shop_database(stack: Stack) -> Iterator[Any]:
    """Connect to the database as the shop, each statement a transaction of its own."""
    with pymysql.connect(**stack.mysql, autocommit=True) as connection:
        yield connection
