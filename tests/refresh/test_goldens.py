"""The goldens through landing, history and refresh: exact values, and never the naive ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from bi_assets.micro_batch import sync
from bi_assets.settings import Settings
from bi_assets.warehouse import Warehouse
from shop.broker import EmbeddedBroker
from tests import goldens
from tests.goldens import Golden
from tests.platform import Platform, Row, assert_as_the_oracle, assert_rows, contracts, marts

PARITY = "avg_order_value_by_discount"


def landed(golden: Golden) -> Platform:
    """Land a golden in one batch and compute every mart."""
    zone = golden.params.get("business_tz", "UTC")
    platform = Platform(Settings(data_dir=Path("unused"), business_timezone=zone))
    platform.land(golden.messages)
    assert not platform.rows("cdc.quarantine")
    for refreshed in platform.refresh():
        assert not [c.check.name for c in refreshed.checks if c.check.severity == "error" and c.breaches]
    assert_as_the_oracle(platform, golden.messages, timezone=zone)
    return platform


@pytest.fixture(scope="module")
def orders_00() -> Iterator[list[Row]]:
    with landed(goldens.load("00")) as platform:
        yield platform.rows("marts.orders_with_discount ORDER BY order_id")


@pytest.fixture(scope="module")
def averages_07a() -> Iterator[dict[Decimal, Decimal]]:
    with landed(goldens.load("07a")) as platform:
        rows = platform.rows(f"marts.{PARITY}")
        assert_rows(rows, goldens.load("07a").expected["expected"], ["discount"])
        yield {row["discount"]: row["avg_order_value"] for row in rows}


@pytest.fixture(scope="module")
def levels_07c() -> Iterator[dict[str, Row]]:
    with landed(goldens.load("07c")) as platform:
        yield {row["level"]: row for row in platform.rows("marts.order_value_by_discount")}


def naive(name: str) -> dict[str, str]:
    """Return the wrong answers that a golden's `naive.json` names."""
    (folder,) = goldens.GOLDEN.glob(f"{name}_*")
    found: dict[str, str] = json.loads((folder / "naive.json").read_text())
    return found


def test_golden_00_gives_the_orders_as_they_are_and_the_discounts_as_they_were(orders_00: list[Row]) -> None:
    assert_rows(orders_00, goldens.load("00").expected["expected"], ["order_id"])


def test_golden_00_averages_of_paid_orders_with_a_known_discount(orders_00: list[Row]) -> None:
    groups: dict[Decimal, list[Decimal]] = {}
    for order in orders_00:
        if order["order_state"] == "paid" and order["discount_source"] == "asof":
            groups.setdefault(order["discount_pct"], []).append(order["amount_total"])
    found = [
        {"discount_pct": pct, "n_orders": len(amounts), "aov": sum(amounts) / len(amounts)}
        for pct, amounts in groups.items()
    ]
    assert_rows(found, goldens.load("00").expected["expected_aov_by_discount"], ["discount_pct"])


def test_golden_00_naive_values_do_not_come_out(orders_00: list[Row]) -> None:
    wrong = naive("00")
    orders = {order["order_id"]: order for order in orders_00}
    ten = [o["amount_total"] for o in orders_00 if o["order_state"] == "paid" and o["discount_pct"] == 10]
    assert f"{sum(ten) / len(ten):.2f}" not in wrong["current_discount_join_aov_discount_10"]
    assert orders[1]["discount_pct"] != Decimal(wrong["ksqldb_reprocessing_join_order_1_discount"].split()[0])
    assert orders[1]["amount_total"] != Decimal(wrong["first_version_only_order_1_amount"])
    assert orders[7]["order_state"] == "deleted"  # kept, it made an average of 539.50
    assert orders[3]["discount_pct"] == 10, wrong["arrival_order_instead_of_seq_for_users_order_3"]


def test_golden_07a_gives_the_twelve_published_averages(averages_07a: dict[Decimal, Decimal]) -> None:
    assert len(averages_07a) == 12


def test_golden_07a_ranks_the_steps_between_discounts(averages_07a: dict[Decimal, Decimal]) -> None:
    steps: list[Row] = [
        {"from_pct": pct, "to_pct": pct + 1,
         "step": averages_07a[Decimal(-pct - 1)] - averages_07a[Decimal(-pct)]}
        for pct in range(4, 15)
    ]  # fmt: skip
    ups = sorted((s["step"] for s in steps if s["step"] > 0), reverse=True)
    for step in steps:
        step["rank_of_increase"] = ups.index(step["step"]) + 1 if step["step"] > 0 else None
    assert_rows(steps, goldens.load("07a").expected["expected_steps"], ["from_pct", "to_pct"])


def test_golden_07a_naive_values_do_not_come_out(averages_07a: dict[Decimal, Decimal]) -> None:
    for name, wrong in naive("07a").items():
        discount = name.rpartition("_")[2]
        if discount.startswith("-"):
            value = wrong.split(" (")[0].rpartition(" ")[2]
            assert averages_07a[Decimal(discount)] != Decimal(value), name


def test_golden_07b_years_are_those_of_business_dates() -> None:
    golden = goldens.load("07b")
    with landed(golden) as platform:
        rows = platform.rows("marts.avg_order_value_by_discount_per_year")
    assert_rows(rows, golden.expected["expected"], ["discount", "order_year"])
    found = {(row["discount"], row["order_year"]): row["avg_order_value"] for row in rows}
    # naive.json: years in UTC, and week years
    assert found[Decimal(-5), 2018] != Decimal("105.00")
    assert found[Decimal(-5), 2019] != Decimal("140.33")
    assert (Decimal(-5), 2020) in found
    assert found[Decimal(-6), 2020] != Decimal("213.67")


def test_golden_07c_statistics_of_the_standard_mart(levels_07c: dict[str, Row]) -> None:
    assert_rows(list(levels_07c.values()), goldens.load("07c").expected["expected"], ["discount_pct"])


def test_golden_07c_naive_values_do_not_come_out(levels_07c: dict[str, Row]) -> None:
    for name, wrong in naive("07c").items():
        if name.startswith("sd_"):
            assert levels_07c["7"]["sd"] is None
        else:
            assert f"{levels_07c[name[-1]]['aov']:.2f}" != wrong, name


def test_golden_12_rounds_as_ksqldb_does() -> None:
    """The parity marts' own expression, found in their file, on the golden's numbers."""
    rounding = "floor(CAST(CAST({x} AS VARCHAR) AS DECIMAL(38, 17)) * 100 + 0.5) / 100"
    for mart in (PARITY, f"{PARITY}_per_year"):
        sql = " ".join(str(marts()[mart].sql).split())
        average = "CAST(sum(sum_amount) AS DOUBLE) / nullif(sum(n_amounts), 0)"
        assert f"CAST({rounding.format(x=average)} AS DECIMAL(18, 2))" in sql
    con = duckdb.connect()
    for row in goldens.load("12").expected["expected"]:
        found = con.execute(
            f"SELECT CAST({rounding.format(x='$x::DOUBLE')} AS DECIMAL(18, 2))", {"x": float(row["x"])}
        ).fetchall()
        assert found == [(row["ksql_round_2"],)], row["x"]


def test_golden_07a_from_the_broker_to_the_published_file(tmp_path: Path) -> None:
    golden = goldens.load("07a")
    with EmbeddedBroker() as broker:
        for message in golden.messages:
            broker.produce(message.topic, message.key, message.value, partition=message.partition)
        broker.flush()
        settings = Settings(bootstrap_servers=broker.bootstrap_servers, data_dir=tmp_path)
        outcome = sync(Warehouse(settings, contracts(), marts()))
    assert outcome.messages == len(golden.messages)
    with duckdb.connect(str(settings.published_file), read_only=True) as con:
        cursor = con.execute(f"FROM {PARITY}")
        names = [column[0] for column in cursor.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    assert len(rows) == 12
    assert_rows(rows, golden.expected["expected"], ["discount"])
