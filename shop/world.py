"""What the shop's people can see: the part of the database that decides what they do next."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any

from shop import truths
from shop.change import Change
from shop.schema import TABLES
from shop.store import SqliteShop

Row = dict[str, Any]

_ORDER_MEMORY = timedelta(days=60)
"""Nothing happens to an order later than this."""


@dataclass
class Patient:
    """A patient, and two traits that no table holds: appetite and stamina.

    The traits follow from the seed and the id alone, so a restarted shop finds
    the same people.
    """

    id: int
    practitioner_id: int
    clinic_id: int
    discount: float | None
    registered_at: datetime
    appetite: float
    active_until: datetime

    @property
    def percent(self) -> int:
        """Whole percents off, 0 where no discount is known."""
        return 0 if self.discount is None else round(-self.discount)

    @property
    def order_value(self) -> float:
        """The average order total that this patient's discount leads to."""
        if self.discount is None:
            return truths.AVERAGE_ORDER_VALUE_UNKNOWN
        return truths.AVERAGE_ORDER_VALUE[self.percent]

    def eagerness(self, at: datetime) -> float:
        """Return how often the patient orders at a time, relative to the average one."""
        rate = truths.ORDER_RATE_UNKNOWN if self.discount is None else truths.ORDER_RATE[self.percent]
        return self.appetite * rate * (truths.DORMANT if at > self.active_until else 1.0)


class World:
    """The shop's present, kept up to date change by change.

    Orders and prescriptions are rows with their items under `items`, by id.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.practitioners: dict[int, Row] = {}
        self.products: dict[int, Row] = {}
        self.shipping: dict[int, Row] = {}
        self.vouchers: dict[str, Row] = {}
        self.restricted: set[tuple[int, int]] = set()
        self.patients: dict[int, Patient] = {}
        self.patient_ids: list[int] = []
        self.favourites: dict[int, set[int]] = defaultdict(set)
        self.orders: dict[int, Row] = {}
        self.prescriptions: dict[int, Row] = {}
        self._order_of_item: dict[int, int] = {}
        self._prescription_of_item: dict[int, int] = {}
        self._next_id: dict[str, int] = defaultdict(lambda: 1)

    @classmethod
    def load(cls, seed: int, shop: SqliteShop, clock: datetime) -> "World":
        """Return the world as a shop's tables show it; of orders only those still moving."""
        world = cls(seed)
        recent = clock - _ORDER_MEMORY
        for table in TABLES:
            where: tuple[Any, ...] = ("1",)
            if table == "orders":
                where = ("date > ?", recent)
            elif table == "order_items":
                where = ("order_id IN (SELECT id FROM orders WHERE date > ?)", recent)
            for row in shop.rows(table, *where):
                world._insert(table, row)
        for table, next_id in (shop.note("next_ids") or {}).items():
            world._next_id[table] = next_id
        return world

    def notes(self) -> dict[str, Any]:
        """Return what a restart can't read from the tables: ids of deleted rows are not reused."""
        return {"next_ids": dict(self._next_id)}

    def next_id(self, table: str) -> int:
        """Return a new id of a table."""
        found = self._next_id[table]
        self._next_id[table] = found + 1
        return found

    def forget_order(self, order_id: int) -> None:
        """Drop an order to which nothing more will happen."""
        order = self.orders.pop(order_id, None)
        for item_id in order["items"] if order else ():
            del self._order_of_item[item_id]

    def apply(self, changes: Iterable[Change]) -> None:
        """Take in changes that were committed."""
        for change in changes:
            if change.op == "insert":
                self._insert(change.table, dict(change.values))
            elif change.op == "update":
                self._update(change)
            else:
                self._delete(change)

    def _insert(self, table: str, row: Row) -> None:
        if "id" in row:
            self._next_id[table] = max(self._next_id[table], row["id"] + 1)
        if table == "practitioners":
            self.practitioners[row["id"]] = row
        elif table == "products":
            self.products[row["id"]] = row
        elif table == "shipping_methods":
            self.shipping[row["id"]] = row
        elif table == "vouchers":
            self.vouchers[row["code"]] = row
        elif table == "supply_restrictions" and not row["allowed"]:
            self.restricted.add((row["practitioner_id"], row["brand_id"]))
        elif table == "users":
            self.patients[row["id"]] = self._patient(row)
            self.patient_ids.append(row["id"])
        elif table == "favourite_products":
            self.favourites[row["user_id"]].add(row["product_id"])
        elif table == "prescriptions":
            self.prescriptions[row["id"]] = row | {"items": {}}
        elif table == "prescription_items":
            self._prescription_of_item[row["id"]] = row["prescription_id"]
            self.prescriptions[row["prescription_id"]]["items"][row["id"]] = row
        elif table == "orders":
            self.orders[row["id"]] = row | {"items": {}}
        elif table == "order_items":
            self._order_of_item[row["id"]] = row["order_id"]
            self.orders[row["order_id"]]["items"][row["id"]] = row

    def _update(self, change: Change) -> None:
        values = change.values
        if change.table == "users":
            patient = self.patients[change.key["id"]]
            patient.discount = values.get("practitioner_discount", patient.discount)
            patient.practitioner_id = values.get("practitioner_id", patient.practitioner_id)
            patient.clinic_id = values.get("clinic_id", patient.clinic_id)
        elif change.table == "vouchers":
            row = {**self.vouchers.pop(change.key["code"]), **values}
            self.vouchers[row["code"]] = row
        else:
            self._row(change.table, change.key["id"]).update(values)

    def _row(self, table: str, row_id: int) -> Row:
        if table == "order_items":
            return self.orders[self._order_of_item[row_id]]["items"][row_id]  # type: ignore[no-any-return]
        if table == "prescription_items":
            prescription = self.prescriptions[self._prescription_of_item[row_id]]
            return prescription["items"][row_id]  # type: ignore[no-any-return]
        rows: dict[int, Row] = getattr(self, table)
        return rows[row_id]

    def _delete(self, change: Change) -> None:
        if change.table == "favourite_products":
            self.favourites[change.key["user_id"]].discard(change.key["product_id"])
        elif change.table == "users":
            del self.patients[change.key["id"]]
            self.patient_ids.remove(change.key["id"])
        elif change.table == "order_items":
            order = self.orders[self._order_of_item.pop(change.key["id"])]
            del order["items"][change.key["id"]]
        elif change.table == "orders":
            del self.orders[change.key["id"]]

    def _patient(self, row: Row) -> Patient:
        rng = Random(f"{self._seed}:patient:{row['id']}")
        spread = truths.APPETITE_SPREAD
        appetite = math.exp(rng.gauss(-spread * spread / 2, spread))
        return Patient(
            row["id"],
            row["practitioner_id"],
            row["clinic_id"],
            row["practitioner_discount"],
            row["register_date"],
            min(appetite, truths.APPETITE_MOST),
            row["register_date"] + timedelta(days=rng.expovariate(1.0 / truths.ACTIVE_DAYS_MEAN)),
        )
