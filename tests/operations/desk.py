"""An operator's desk: a broker with messages, and a platform on disk that has landed them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb

from bi_assets.micro_batch import sync
from bi_assets.settings import Settings
from bi_assets.warehouse import Warehouse
from shop.broker import EmbeddedBroker
from tests.landing.messages import Log
from tests.oracle import Message
from tests.platform import contracts, marts


class Desk:
    """A log whose messages reach the broker when they are sent, and a warehouse."""

    def __init__(self, broker: EmbeddedBroker, folder: Path, **settings: Any) -> None:
        self.broker = broker
        self.log = Log()
        self.settings = Settings(bootstrap_servers=broker.bootstrap_servers, data_dir=folder, **settings)
        self.warehouse = Warehouse(self.settings, contracts(), marts())
        self._sent = 0

    def send(self) -> None:
        """Produce what the log has that is not sent yet."""
        self.produce(self.log.messages[self._sent :])
        self._sent = len(self.log.messages)

    def produce(self, messages: list[Message]) -> None:
        """Produce messages, each at the partition it names."""
        for message in messages:
            self.broker.produce(
                message.topic,
                message.key,
                message.value,
                partition=message.partition,
                headers=list(message.headers),
            )
        self.broker.flush()

    def sync(self) -> None:
        """Send, land, refresh, publish."""
        self.send()
        sync(self.warehouse)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the core database."""
        with self.warehouse.open() as con:
            return con.execute(sql).fetchall()

    def write(self, sql: str) -> None:
        """Change the core database behind the platform's back."""
        with self.warehouse.open() as con:
            con.execute(sql)

    def published(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the published file."""
        with duckdb.connect(str(self.settings.published_file), read_only=True) as con:
            return con.execute(sql).fetchall()

    def with_contract(self, table: str, **columns: dict[str, Any]) -> None:
        """Go on with other settings of a contract's columns, as if its file had been changed."""
        contract = self.warehouse.contracts[table]
        changed = tuple(replace(c, **columns.get(c.name, {})) for c in contract.columns)
        found = {**self.warehouse.contracts, table: replace(contract, columns=changed)}
        self.warehouse = Warehouse(self.settings, found, marts())

    def without_column(self, table: str, column: str) -> None:
        """Go on with a contract that does not have a column."""
        contract = self.warehouse.contracts[table]
        columns = tuple(c for c in contract.columns if c.name != column)
        less = replace(contract, columns=columns, excluded=(*contract.excluded, column))
        self.warehouse = Warehouse(self.settings, {**self.warehouse.contracts, table: less}, marts())

    def with_all_contracts(self) -> None:
        """Go on with the contracts of the repository."""
        self.warehouse = Warehouse(self.settings, contracts(), marts())

    def contents(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return logs, histories and marts, sorted."""
        with self.warehouse.open() as con:
            names = [f"{schema}.{table}" for table in contracts() for schema in ("cdc", "history")] + [
                f"marts.{name}" for name in marts()
            ]
            return {name: con.execute(f"FROM {name} ORDER BY ALL").fetchall() for name in names}
