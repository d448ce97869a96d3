"""Warehouses of a benchmark's own, filled without Kafka, in the way that a micro-batch run does."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from benchmarks.events import Batches, Events
from bi_assets.landing.land import land
from bi_assets.outputs.publish import Published, publish
from bi_assets.platform import warehouse
from bi_assets.refresh.refresh import refresh
from bi_assets.settings import Settings
from bi_assets.sql import transaction
from bi_assets.warehouse import Warehouse

_CHUNK = 250_000


class Filled:
    """A warehouse on disk that holds a whole history, with refreshed marts."""

    def __init__(self, folder: Path, events: Events) -> None:
        self.events = events
        self.warehouse: Warehouse = warehouse(Settings(data_dir=folder))
        self._batches = Batches()
        with self.warehouse.open(evolve=True):
            pass
        for chunk in events.chunks(_CHUNK):
            self.land(chunk)
        self.refresh()

    def batch(self, events: pa.Table) -> None:
        """Land a batch and refresh what it touches."""
        self.land(events)
        self.refresh()

    def land(self, events: pa.Table) -> None:
        """Land a batch, with its history."""
        batch = self._batches.batch(events)
        with self.warehouse.open() as con, transaction(con):
            land(con, batch, self.warehouse.contracts, self.warehouse.settings)

    def refresh(self) -> None:
        """Refresh the marts of what has been touched."""
        with self.warehouse.open() as con:
            refresh(con, self.warehouse.marts, scheduled=False)

    def publish(self) -> Published:
        """Publish the marts."""
        with self.warehouse.open() as con:
            return publish(con, self.warehouse.marts, self.warehouse.settings)

    @property
    def core_bytes(self) -> int:
        """Size of the core file."""
        return self.warehouse.settings.core_file.stat().st_size
