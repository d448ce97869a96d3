"""The platform as configured: settings, contracts, marts and the warehouse that holds them."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

import duckdb

from bi_assets.contracts.contract import CONTRACTS, load_contracts
from bi_assets.refresh.binding import bind
from bi_assets.refresh.mart import MARTS, load_marts
from bi_assets.settings import Settings
from bi_assets.warehouse import Warehouse

log = logging.getLogger(__name__)


@cache
def warehouse(
    settings: Settings, contracts_folder: Path = CONTRACTS, marts_folder: Path = MARTS
) -> Warehouse:
    """Return the warehouse of these settings; faulty contracts and marts are left out and named."""
    contracts, contract_faults = load_contracts(contracts_folder)
    marts, mart_faults = load_marts(marts_folder)
    with duckdb.connect() as scratch:
        Warehouse(settings, contracts).prepare(scratch)
        marts, binding_faults = bind(scratch, marts)
    faults = (*contract_faults, *mart_faults, *binding_faults)
    for fault in faults:
        log.warning("left out: %s", fault)
    return Warehouse(settings, contracts, marts, faults)
