"""After a change by hand: the marts follow, and what is published."""

from __future__ import annotations

from bi_assets.outputs.publish import is_behind, publish
from bi_assets.refresh.refresh import refresh
from bi_assets.warehouse import Warehouse


def follow(warehouse: Warehouse) -> list[str]:
    """Compute the marts that are touched, and publish where something changed; return those computed."""
    with warehouse.open(evolve=True) as con:
        refreshed = refresh(con, warehouse.marts, scheduled=True)
        if refreshed or is_behind(con, warehouse.settings):
            publish(con, warehouse.marts, warehouse.settings)
    return [r.mart.name for r in refreshed]
