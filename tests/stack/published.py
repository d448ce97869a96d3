"""The platform as its users run it, and its answers beside the oracle's."""

import math
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

import duckdb

from tests import oracle

SYNC_SECONDS = 120
BUSINESS_TIMEZONE = "Australia/Sydney"
"""Not the shop's (UTC), so that dates are not right by chance."""

GRAINS = {
    "orders_with_discount": ("order_id",),
    "order_value_by_discount_day": ("order_date", "discount"),
    "avg_order_value_by_discount": ("discount",),
    "avg_order_value_by_discount_per_year": ("discount", "order_year"),
    "order_value_by_discount": ("level",),
}
"""What one row of each mart is about."""


def sync(bootstrap_servers: str, data_dir: Path, **environment: str) -> str:
    """Run `pharmacy-bi sync`, landing everything that is in Kafka; return what it printed.

    Raises AssertionError with its output if it fails.
    """
    return pharmacy_bi(bootstrap_servers, data_dir, "sync", environment=environment)


def pharmacy_bi(
    bootstrap_servers: str,
    data_dir: Path,
    *words: str,
    fails: bool = False,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Run a command and return what it printed; it `fails` with exit code 1, or not.

    Raises AssertionError with its output if it does otherwise.
    """
    done = subprocess.run(
        [Path(sys.executable).with_name("pharmacy-bi"), *words],
        env=os.environ
        | {
            "KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers,
            "BI_DATA_DIR": str(data_dir),
            "BI_TIMEZONE": BUSINESS_TIMEZONE,
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SYNC_SECONDS,
        check=False,
    )
    assert done.returncode == fails, done.stdout
    return done.stdout


def assert_equals_oracle(data_dir: Path, messages: list[oracle.Message]) -> None:
    """Compare every published mart of the oracle, row by row and column by column.

    Numbers are equal to nine digits: the oracle adds floats in another order.
    """
    wanted = oracle.marts(messages, timezone=BUSINESS_TIMEZONE)
    assert set(wanted) == set(GRAINS)
    with duckdb.connect(data_dir / "publish" / "marts.duckdb", read_only=True) as published:
        for mart, rows in wanted.items():
            assert rows, f"{mart}: the oracle has no rows, so that nothing is compared"
            relation = published.table(mart)
            found = [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]
            _assert_same_rows(mart, _by_grain(mart, found), _by_grain(mart, rows))


def _by_grain(mart: str, rows: list[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    keyed = {tuple(_plain(row[name]) for name in GRAINS[mart]): row for row in rows}
    assert len(keyed) == len(rows), f"{mart}: two rows of one {GRAINS[mart]}"
    return keyed


def _assert_same_rows(
    mart: str,
    found: Mapping[tuple[Any, ...], dict[str, Any]],
    wanted: Mapping[tuple[Any, ...], dict[str, Any]],
) -> None:
    assert found.keys() == wanted.keys(), mart
    differences = [
        f"{mart} {grain}: {name} is {found[grain][name]!r}, the oracle says {value!r}"
        for grain, row in wanted.items()
        for name, value in row.items()
        if not _same(_plain(found[grain][name]), _plain(value))
    ]
    assert not differences, "\n".join(differences[:20])


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)
    return bool(one == other)


def _plain(value: Any) -> Any:
    """Make values comparable whatever type a table keeps them in: numbers float, times UTC."""
    if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).replace(tzinfo=None)
    return value
