"""The simulated shop's people, acting by SQL on the real MariaDB."""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from random import Random
from types import MappingProxyType
from typing import Any

from shop.behaviour import Behaviour
from shop.change import Change, Transaction
from shop.schema import TABLES
from shop.store import MysqlShop
from stack.servers import Stack

OPENING = datetime(2024, 3, 11, tzinfo=UTC)
_SEED = 7


class Simulation:
    """A shop from its opening on; each transaction happens in the binlog at its own, past time."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._shop = MysqlShop(connection)
        self._people = Behaviour(_SEED)
        self._luck = Random(_SEED)
        self._clock = OPENING
        self._customers: set[int] = set()
        self.seconds: set[int] = set()
        """Epoch seconds at which transactions happened since the opening."""
        self.kinds: Counter[tuple[str, str]] = Counter()
        """How many rows were changed since the opening, by table and operation."""

    def open(self) -> None:
        """Fill the tables with the catalogue, the first patients and a month of trade."""
        for transaction in self._people.opening(OPENING):
            self._shop.apply(transaction)

    def start_connector(self, stack: Stack, changes: Mapping[str, str] = MappingProxyType({})) -> None:
        """Start the connector with the shop's clock, so that its snapshot is older than what follows.

        Debezium asks the server for the time of a snapshot.
        """
        with self._connection.cursor() as cursor:
            clock = f"SET timestamp = {OPENING.timestamp()}"
            cursor.execute("SET GLOBAL init_connect = %s", (clock,))
            stack.start_connector(changes)
            stack.wait_delivered()
            cursor.execute("SET GLOBAL init_connect = ''")

    def live(self, days: int) -> None:
        """Let the shop trade for days."""
        end = self._clock + timedelta(days=days)
        for transaction in self._people.history(self._clock, end):
            self._do(transaction)
            for patient, later in self._whose_discount_changes(transaction):
                discount = -float(4 + self._luck.randrange(12))
                change = Change("users", "update", {"id": patient}, {"practitioner_discount": discount})
                self._do(Transaction(transaction.at + later, [change]))
        self._clock = end

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Return a table as it is now, without personal columns, by key; times as UTC wall times."""
        names = [column.name for column in TABLES[table].public]
        order = ", ".join(TABLES[table].key)
        with self._connection.cursor() as cursor:
            cursor.execute(f"SELECT {', '.join(names)} FROM {table} ORDER BY {order}")
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _whose_discount_changes(self, done: Transaction) -> Iterator[tuple[int, timedelta]]:
        """Yield patients, and how long after a transaction their practitioners think again.

        More of them than in the simulation, so that weeks have as much history as years: some in the
        very second of the patient's order.
        """
        for change in done.changes:
            if (change.table, change.op) == ("orders", "insert"):
                self._customers.add(change.values["user_id"])
                if self._luck.random() < 0.1:
                    yield change.values["user_id"], timedelta(0)
                if self._luck.random() < 0.3:
                    yield self._luck.choice(sorted(self._customers)), timedelta(seconds=1)
            elif (change.table, change.op) == ("users", "delete"):
                self._customers.discard(change.key["id"])

    def _do(self, transaction: Transaction) -> None:
        self._shop.apply(transaction)
        self.seconds.add(int(transaction.at.timestamp()))
        self.kinds.update((change.table, change.op) for change in transaction.changes)
