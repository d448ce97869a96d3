"""Asset keys, and the partitions of the daily marts."""

from __future__ import annotations

import dagster as dg

from bi_assets.refresh.mart import Mart
from bi_assets.settings import Settings

PUBLISHED = dg.AssetKey(["publish", "marts_duckdb"])


def shop_table(table: str) -> dg.AssetKey:
    """Return the key of a table of the shop's own database."""
    return dg.AssetKey(["shop", table])


def topic(table: str) -> dg.AssetKey:
    """Return the key of the Kafka topic of a source table."""
    return dg.AssetKey(["kafka", table])


def change_log(table: str) -> dg.AssetKey:
    """Return the key of the change log `cdc.TABLE`."""
    return dg.AssetKey(["cdc", table])


def history(table: str) -> dg.AssetKey:
    """Return the key of `history.TABLE`, and of the view `state.TABLE` over it."""
    return dg.AssetKey(["history", table])


def mart(name: str) -> dg.AssetKey:
    """Return the key of a mart."""
    return dg.AssetKey([name])


def of_input(name: str) -> dg.AssetKey:
    """Return the key of a qualified table name such as `state.orders` or `marts.order_lines`."""
    schema, _, table = name.partition(".")
    return mart(table) if schema == "marts" else history(table)


def partitions(of: Mart, settings: Settings) -> dg.DailyPartitionsDefinition | None:
    """Return the days of a daily mart, today included, in the business time zone."""
    if not of.partition:
        return None
    return dg.DailyPartitionsDefinition(
        start_date=settings.first_date.isoformat(), timezone=settings.business_timezone, end_offset=1
    )
