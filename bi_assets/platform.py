"""The platform as configured: settings, contracts, marts and the warehouse that holds them."""

from __future__ import annotations

import logging
from functools import cache

import duckdb

from bi_assets.contracts.contract import load_contracts
from bi_assets.refresh.binding import bind
from bi_assets.refresh.mart import load_marts
from bi_assets.settings import Settings
from bi_assets.warehouse import Warehouse

log = logging.getLogger(__name__)


@cache
def warehouse(settings: Settings) -> Warehouse:
    """Return the warehouse of these settings; faulty contracts and marts are left out and named."""
    contracts, contract_faults = load_contracts()
    marts, mart_faults = load_marts()
    with duckdb.connect() as scratch:
        Warehouse(settings, contracts).prepare(scratch)
        marts, binding_faults = bind(scratch, marts)
    for fault in (*contract_faults, *mart_faults, *binding_faults):
        log.warning("left out: %s", fault)
    return Warehouse(settings, contracts, marts)
