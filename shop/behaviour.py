"""What people do in the shop: deterministic by seed, as transactions in order of time."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from heapq import heappop, heappush
from random import Random
from typing import Any

from shop import people, truths
from shop.baskets import CENT, Line, Shelves, fill_basket, price
from shop.change import Change, Transaction
from shop.plans import Step, order_steps, prescription_steps, starts_unpaid
from shop.schema import TABLES
from shop.world import Patient, Row, World

OPENING_DAYS = 30
"""The opening holds this many days of trade: what the connector's snapshot finds."""

_DAY = timedelta(days=1)
_MOST_EAGER = truths.APPETITE_MOST * max(truths.ORDER_RATE.values())
_ZERO = Decimal("0.00")


class Behaviour:
    """The people of one shop.

    Each method that returns transactions has already taken them into `world`: a
    caller that can't commit them must start again from `World.load`. `clock` says
    up to when the world is known; what was planned before it has happened.
    """

    def __init__(self, seed: int, world: World | None = None, clock: datetime | None = None) -> None:
        self.world = world or World(seed)
        self._seed = seed
        self._rng = Random(seed)
        self._shelves = Shelves(self.world)
        self._agenda: list[Step] = []
        if clock is not None:
            self._remember(clock)

    def opening(self, at: datetime) -> list[Transaction]:
        """Return the catalogue, the first patients and a month of trade, all before `at`.

        `at` is aware and at midnight UTC.
        """
        first_day = at - OPENING_DAYS * _DAY
        self._rng = Random(f"{self._seed}:opening")
        founding = [*self._catalogue(first_day), *self._first_patients(first_day)]
        self.world.apply(founding)
        month = self.history(first_day, at)
        return [Transaction(first_day, founding), *month]

    def history(self, start: datetime, end: datetime) -> Iterator[Transaction]:
        """Yield what happens from `start`, at midnight UTC, until just before `end`."""
        day = start.date()
        while _midnight(day) < end:
            yield from self.day(day, end)
            day += _DAY

    def day(self, day: date, end: datetime) -> list[Transaction]:
        """Return what happens on one day (UTC), as far as it lies before `end`.

        The same world, seed, day and end give the same transactions.
        """
        self._rng = Random(f"{self._seed}:{day}")
        until = min(end, _midnight(day + _DAY))
        arrivals = self._arrivals(day)
        happened = []
        while True:
            if self._agenda and (not arrivals or self._agenda[0] <= arrivals[0]):
                step = self._agenda[0]
                if step.at >= until:
                    break
                heappop(self._agenda)
            elif arrivals and arrivals[0].at < until:
                step = heappop(arrivals)
            else:
                break
            transaction = self._take(step.at, step)
            if transaction is not None:
                happened.append(transaction)
        return happened

    def live(self, now: datetime) -> Transaction:
        """Return the next thing that somebody does, right now."""
        self._rng = Random(f"{self._seed}:live:{now.isoformat()}")
        now = now.replace(microsecond=now.microsecond // 1000 * 1000)
        # Half of the moments are left to new things, so that what was due during
        # a long stop doesn't crowd them out.
        while self._agenda and self._agenda[0].at <= now and self._rng.random() < 0.5:
            due = self._take(now, heappop(self._agenda))
            if due is not None:
                return due
        kinds, weights = tuple(truths.LIVE_WEIGHTS), tuple(truths.LIVE_WEIGHTS.values())
        while True:
            action = self._rng.choices(kinds, weights)[0]
            transaction = self._take(now, Step(now, action, 0))
            if transaction is not None:
                return transaction

    # --- From a step to its transaction ---------------------------------------------------

    def _take(self, at: datetime, step: Step) -> Transaction | None:
        """Do what a step says; None if the world has made it pointless."""
        changes: list[Change] = getattr(self, f"_{step.action}")(at, step)
        if not changes:
            return None
        self.world.apply(changes)
        for change in changes:
            if change.op == "insert" and change.table == "orders":
                steps = order_steps(self._seed, change.key["id"], at)
                if not steps:
                    self.world.forget_order(change.key["id"])
                self._plan(steps)
            elif change.op == "insert" and change.table == "prescriptions":
                prescription = self.world.prescriptions[change.key["id"]]
                self._plan(prescription_steps(self._seed, prescription))
        if step.action in _LAST_OF_AN_ORDER:
            self.world.forget_order(step.id)
        return Transaction(at, changes)

    def _plan(self, steps: Sequence[Step]) -> None:
        for step in steps:
            heappush(self._agenda, step)

    def _remember(self, clock: datetime) -> None:
        """Plan again what was still to come at `clock`."""
        for order in list(self.world.orders.values()):
            steps = order_steps(self._seed, order["id"], order["date"])
            pending = [step for step in steps if step.at >= clock]
            self._plan(pending)
            if not pending:
                self.world.forget_order(order["id"])
        for prescription in self.world.prescriptions.values():
            steps = prescription_steps(self._seed, prescription)
            self._plan([step for step in steps if step.at >= clock])

    def _arrivals(self, day: date) -> list[Step]:
        """Return a day's new doings by time (a heap), before anybody's refusal."""
        rng = self._rng
        patients = len(self.world.patient_ids)
        season = season_of(day)
        per_patient = {
            "order_of": truths.ORDERS_OVER_THE_COUNTER * _MOST_EAGER * season,
            "prescribe_perhaps": truths.PRESCRIPTIONS * (7 / 5 if day.weekday() < 5 else 0.0),
            "change_discount": truths.DISCOUNT_CHANGES,
            "change_practitioner": truths.PRACTITIONER_CHANGES,
            "change_personal": truths.PERSONAL_CHANGES,
            "close_account": truths.ACCOUNT_CLOSURES,
            "add_favourite": truths.FAVOURITES_ADDED,
            "remove_favourite": truths.FAVOURITES_REMOVED,
        }
        expected = {action: rate * patients / 365 for action, rate in per_patient.items()}
        expected["register"] = truths.REGISTRATIONS_PER_DAY * season
        expected["change_price"] = truths.PRICE_CHANGES_PER_DAY
        expected["change_catalogue"] = truths.CATALOGUE_CHANGES_PER_DAY
        midnight = _midnight(day)
        steps = [Step(midnight + timedelta(hours=5, minutes=30), "restock", 0)]
        if day.day == 1 and day.month in (1, 4, 7, 10):
            steps.append(Step(midnight + timedelta(minutes=5), "issue_vouchers", 0))
        for action, mean in expected.items():
            who: list[tuple[int, ...]] = [()] * _poisson(rng, mean)
            if action == "order_of":
                # As many ask as if everybody were most eager; only the eager ones come.
                asked = (self._anybody() for _ in who)
                who = [(patient.id,) for patient in asked if self._is_eager(patient, midnight)]
            for part in who:
                hour = rng.choices(range(24), truths.HOUR_WEIGHTS)[0]
                past_hour = timedelta(milliseconds=rng.randrange(3_600_000))
                steps.append(Step(midnight + timedelta(hours=hour) + past_hour, action, 0, part))
        return sorted(steps)

    # --- The founding ---------------------------------------------------------------------

    def _catalogue(self, at: datetime) -> Iterator[Change]:
        for number, name in enumerate(truths.CLINICS, 1):
            yield _insert("clinics", id=number, name=name)
        for number in range(1, truths.PRACTITIONERS_AT_OPENING + 1):
            yield self._practitioner(number, at - number * 40 * _DAY)
        for number, brand in enumerate(truths.BRANDS, 1):
            yield _insert("brands", id=number, name=brand.name, supply_restriction=brand.supply_restriction)
        for number, (practitioner, brand_id) in enumerate(truths.SUPPLY_RESTRICTIONS, 1):
            yield _insert(
                "supply_restrictions",
                id=number,
                practitioner_id=practitioner,
                brand_id=brand_id,
                allowed=0,
            )
        yield from self._products()
        for number, (name, cost, weight, value) in enumerate(truths.SHIPPING_METHODS, 1):
            yield _insert(
                "shipping_methods",
                id=number,
                name=name,
                cost=cost,
                max_weight_g=weight,
                max_order_value=value,
            )
        yield from _vouchers(at)

    def _practitioner(self, number: int, at: datetime) -> Change:
        person = truths.PRACTITIONERS[number - 1]
        return _insert(
            "practitioners",
            id=number,
            clinic_id=person.clinic,
            practice_type=person.practice_type,
            modalities=person.modalities,
            certifications=person.certifications,
            registration_number=f"REG-{self._rng.randrange(10**8):08d}",
            registered_at=at,
        )

    def _products(self) -> Iterator[Change]:
        rng, number = self._rng, 0
        for brand_id, brand in enumerate(truths.BRANDS, 1):
            for place in range(truths.PRODUCTS_PER_BRAND):
                number += 1
                rrp = Decimal(round(rng.uniform(9, 33) * brand.price_level)) - Decimal("0.05")
                general = place >= brand.practitioner_only
                yield _insert(
                    "products",
                    id=number,
                    brand_id=brand_id,
                    name=f"{brand.name} {truths.SUBSTANCES[place]}",
                    size=rng.choice(truths.SIZES)[0],
                    availability="general" if general else "practitioner_only",
                    wholesale_price=_cents(rrp * rng.randint(50, 66) / 100),
                    rrp=rrp,
                    stock=truths.RESTOCK_TO,
                )

    def _first_patients(self, at: datetime) -> Iterator[Change]:
        for number in range(1, truths.PATIENTS_AT_OPENING + 1):
            since = timedelta(milliseconds=self._rng.randrange(600 * 86_400_000))
            practitioner = self._rng.randint(1, truths.PRACTITIONERS_AT_OPENING)
            yield self._new_patient(number, practitioner, at - since)

    def _new_patient(self, number: int, practitioner: int, at: datetime) -> Change:
        return _insert(
            "users",
            id=number,
            practitioner_id=practitioner,
            clinic_id=truths.PRACTITIONERS[practitioner - 1].clinic,
            practitioner_discount=self._discount(practitioner),
            register_date=at,
            **people.personal(self._rng, number),
        )

    def _discount(self, practitioner: int) -> float | None:
        """Return what a practitioner gives a new patient, as the shop stores it (negative)."""
        luck = self._rng.random()
        if luck < truths.UNKNOWN_DISCOUNT_SHARE:
            return None
        if luck < truths.UNKNOWN_DISCOUNT_SHARE + truths.NO_DISCOUNT_SHARE:
            return 0.0
        usual = truths.PRACTITIONERS[practitioner - 1].usual_discount
        weights = [1 / (1 + abs(level - usual)) for level in truths.DISCOUNT_LEVELS]
        return -float(self._rng.choices(truths.DISCOUNT_LEVELS, weights)[0])

    # --- Patients -------------------------------------------------------------------------

    def _register(self, at: datetime, _: Step) -> list[Change]:
        practitioner = self._rng.choice(list(self.world.practitioners))
        return [self._new_patient(self.world.next_id("users"), practitioner, at)]

    def _change_discount(self, _: datetime, __: Step) -> list[Change]:
        patient = self._anybody()
        new = self._discount(patient.practitioner_id)
        if patient.discount and self._rng.random() < 0.8:
            steps = self._rng.choice((-3, -2, -1, 1, 1, 2, 2, 3, 5))
            new = -float(min(max(patient.percent + steps, 4), 15))
        if new == patient.discount:
            return []
        return [_update("users", {"id": patient.id}, practitioner_discount=new)]

    def _change_practitioner(self, _: datetime, __: Step) -> list[Change]:
        patient = self._anybody()
        practitioner = self._rng.choice(list(self.world.practitioners))
        clinic = truths.PRACTITIONERS[practitioner - 1].clinic
        if practitioner == patient.practitioner_id:
            # Same practitioner, seen elsewhere.
            clinic = self._rng.randint(1, len(truths.CLINICS))
        new = {"practitioner_id": practitioner, "clinic_id": clinic}
        old = {"practitioner_id": patient.practitioner_id, "clinic_id": patient.clinic_id}
        values = {name: value for name, value in new.items() if value != old[name]}
        return [_update("users", {"id": patient.id}, **values)] if values else []

    def _change_personal(self, _: datetime, __: Step) -> list[Change]:
        patient = self._anybody()
        values: Row = self._rng.choice(
            (
                {"email": people.email(self._rng, patient.id)},
                people.address(self._rng),
                {"phone": people.phone(self._rng)},
            )
        )
        return [_update("users", {"id": patient.id}, **values)]

    def _close_account(self, _: datetime, __: Step) -> list[Change]:
        patient = self._anybody()
        wished = sorted(self.world.favourites[patient.id])
        favourites = [
            _delete("favourite_products", user_id=patient.id, product_id=product) for product in wished
        ]
        return [*favourites, _delete("users", id=patient.id)]

    def _add_favourite(self, _: datetime, __: Step) -> list[Change]:
        patient = self._anybody()
        product = self._rng.choice(list(self.world.products))
        if product in self.world.favourites[patient.id]:
            return []
        return [_insert("favourite_products", user_id=patient.id, product_id=product)]

    def _remove_favourite(self, _: datetime, __: Step) -> list[Change]:
        patient = self._anybody()
        wished = sorted(self.world.favourites[patient.id])
        if not wished:
            return []
        product = self._rng.choice(wished)
        return [_delete("favourite_products", user_id=patient.id, product_id=product)]

    def _anybody(self) -> Patient:
        return self.world.patients[self._rng.choice(self.world.patient_ids)]

    # --- Prescriptions --------------------------------------------------------------------

    def _prescribe_perhaps(self, at: datetime, step: Step) -> list[Change]:
        patient = self._anybody()
        return [] if at > patient.active_until else self._prescribe_to(at, patient)

    def _prescribe(self, at: datetime, _: Step) -> list[Change]:
        return self._prescribe_to(at, self._anybody())

    def _prescribe_to(self, at: datetime, patient: Patient) -> list[Change]:
        rng = self._rng
        number = self.world.next_id("prescriptions")
        prescription = _insert(
            "prescriptions",
            id=number,
            user_id=patient.id,
            practitioner_id=patient.practitioner_id,
            issued_at=at,
            valid_until=at.date() + timedelta(days=rng.choice(truths.VALID_DAYS)),
            voided_at=None,
        )
        shelf = self._shelves.choices(patient.practitioner_id, prescribed=True)
        count = rng.choices((1, 2, 3, 4), truths.ITEMS_WEIGHTS)[0]
        items = [
            _insert(
                "prescription_items",
                id=self.world.next_id("prescription_items"),
                prescription_id=number,
                product_id=product,
                quantity=rng.choices((1, 2, 3), (75, 20, 5))[0],
                repeats=rng.choices(range(6), truths.REPEATS_WEIGHTS)[0],
                dosage_instructions=self._dosage(self.world.products[product]["size"]),
                removed_at=None,
            )
            for product in sorted({rng.choice(shelf) for _ in range(count)})
        ]
        return [prescription, *items]

    def _dosage(self, size: str) -> str:
        unit = next(unit for name, unit, _ in truths.SIZES if name == size)
        amount = self._rng.choice(truths.DOSES[unit])
        plural = "s" if amount > 1 and unit != "ml" else ""
        return f"Take {amount} {unit}{plural} daily"

    def _void(self, at: datetime, step: Step) -> list[Change]:
        return [_update("prescriptions", {"id": step.id}, voided_at=at)]

    def _remove_item(self, at: datetime, step: Step) -> list[Change]:
        prescription = self.world.prescriptions[step.id]
        if prescription["voided_at"] is not None:
            return []
        return [_update("prescription_items", {"id": step.part[0]}, removed_at=at)]

    def _fill(self, at: datetime, step: Step) -> list[Change]:
        prescription = self.world.prescriptions[step.id]
        patient = self.world.patients.get(prescription["user_id"])
        over = prescription["voided_at"] is not None or at.date() > prescription["valid_until"]
        if patient is None or over:
            return []
        lines = []
        for item_id in step.part:
            item = prescription["items"][item_id]
            product = self.world.products[item["product_id"]]
            barred = (patient.practitioner_id, product["brand_id"]) in self.world.restricted
            if item["removed_at"] is None and not barred:
                quantity = item["quantity"]
                if quantity > 1 and self._rng.random() < 0.1:
                    quantity -= 1
                unit_price = price(product, patient.percent)
                lines.append(Line(product["id"], quantity, unit_price, item_id))
        return self._sell(at, patient, lines) if lines else []

    # --- Orders ---------------------------------------------------------------------------

    def _order_of(self, at: datetime, step: Step) -> list[Change]:
        patient = self.world.patients.get(step.part[0])
        return self._sell(at, patient, []) if patient else []

    def _order(self, at: datetime, _: Step) -> list[Change]:
        patient = self._anybody()
        while not self._is_eager(patient, at):
            patient = self._anybody()
        return self._sell(at, patient, [])

    def _is_eager(self, patient: Patient, at: datetime) -> bool:
        return self._rng.random() * _MOST_EAGER < patient.eagerness(at)

    def _sell(self, at: datetime, patient: Patient, prescribed: list[Line]) -> list[Change]:
        rng, world = self._rng, self.world
        method = rng.choices(list(world.shipping), truths.SHIPPING_WEIGHTS)[0]
        voucher = self._voucher(at, method)
        shipping = world.shipping[method]["cost"]
        off = voucher["amount_off"] if voucher else _ZERO
        spread = truths.ORDER_VALUE_SPREAD
        aim = patient.order_value * math.exp(rng.gauss(-spread * spread / 2, spread))
        goods = (aim - float(shipping - off)) / (1 + float(truths.TAX_RATE))
        lines = fill_basket(rng, world, self._shelves, patient, goods, prescribed)
        if not lines:
            return []
        number = world.next_id("orders")
        subtotal = sum((line.goods for line in lines), _ZERO)
        tax = sum((line.tax for line in lines), _ZERO)
        paid = None if starts_unpaid(self._seed, number) else self._payment()
        order = _insert(
            "orders",
            id=number,
            user_id=patient.id,
            practitioner_id=patient.practitioner_id,
            clinic_id=patient.clinic_id,
            transaction_id=paid,
            date=at,
            amount_total=subtotal + tax + shipping - off,
            amount_subtotal=subtotal,
            amount_tax=tax,
            amount_shipping=shipping,
            amount_refunded=_ZERO,
            shipping_method_id=method,
            voucher_code=voucher["code"] if voucher else None,
            cancelled_at=None,
        )
        items = [
            _insert(
                "order_items",
                id=world.next_id("order_items"),
                order_id=number,
                product_id=line.product_id,
                prescription_item_id=line.prescription_item_id,
                quantity=line.quantity,
                unit_price=line.unit_price,
                tax=line.tax,
                refunded_quantity=0,
                refunded_amount=_ZERO,
            )
            for line in lines
        ]
        sold = Counter[int]()
        for line in lines:
            sold[line.product_id] -= line.quantity
        return [order, *items, *self._move_stock(sold)]

    def _voucher(self, at: datetime, method: int) -> Row | None:
        """Return a voucher that this order may use, mostly None."""
        if method == truths.PICK_UP or self._rng.random() >= truths.VOUCHER_SHARE:
            return None
        usable = [
            voucher
            for voucher in self.world.vouchers.values()
            if voucher["expires_at"] > at and voucher["shipping_method_id"] in (None, method)
        ]
        return self._rng.choice(sorted(usable, key=lambda v: v["code"])) if usable else None

    def _payment(self) -> str:
        return f"txn_{self._rng.getrandbits(48):012x}"

    def _move_stock(self, moved: Mapping[int, int]) -> list[Change]:
        """Add to the stock of products; what isn't there is delivered late, not counted below 0."""
        changes = []
        for product, quantity in sorted(moved.items()):
            old = self.world.products[product]["stock"]
            new = max(0, old + quantity)
            if new != old:
                changes.append(_update("products", {"id": product}, stock=new))
        return changes

    def _pay(self, _: datetime, step: Step) -> list[Change]:
        return [_update("orders", {"id": step.id}, transaction_id=self._payment())]

    def _cancel(self, at: datetime, step: Step) -> list[Change]:
        returned = Counter[int]()
        for item in self.world.orders[step.id]["items"].values():
            returned[item["product_id"]] += item["quantity"]
        cancelled = _update("orders", {"id": step.id}, cancelled_at=at)
        return [cancelled, *self._move_stock(returned)]

    def _correct_shipping(self, _: datetime, step: Step) -> list[Change]:
        order = self.world.orders[step.id]
        if not order["amount_shipping"] or order["voucher_code"]:
            return []
        total = order["amount_total"] - order["amount_shipping"]
        return [_update("orders", {"id": step.id}, amount_shipping=_ZERO, amount_total=total)]

    def _take_off_item(self, _: datetime, step: Step) -> list[Change]:
        order = self.world.orders[step.id]
        if len(order["items"]) < 2:
            return []
        item = order["items"][max(order["items"])]
        goods = item["unit_price"] * item["quantity"]
        return [
            _delete("order_items", id=item["id"]),
            _update(
                "orders",
                {"id": step.id},
                amount_total=order["amount_total"] - goods - item["tax"],
                amount_subtotal=order["amount_subtotal"] - goods,
                amount_tax=order["amount_tax"] - item["tax"],
            ),
            *self._move_stock({item["product_id"]: item["quantity"]}),
        ]

    def _refund_partly(self, _: datetime, step: Step) -> list[Change]:
        """Pay one item's goods back, of several pieces only some; tax and shipping stay paid."""
        order = self.world.orders[step.id]
        item = order["items"][self._rng.choice(sorted(order["items"]))]
        quantity = self._rng.randint(1, item["quantity"])
        goods = item["unit_price"] * quantity
        return [
            _refund_item(item, quantity),
            _update("orders", {"id": step.id}, amount_refunded=goods),
        ]

    def _refund_fully(self, _: datetime, step: Step) -> list[Change]:
        """Pay all goods and their tax back; shipping stays paid."""
        order = self.world.orders[step.id]
        items = [_refund_item(item, item["quantity"]) for item in order["items"].values()]
        refunded = order["amount_subtotal"] + order["amount_tax"]
        return [*items, _update("orders", {"id": step.id}, amount_refunded=refunded)]

    def _delete_order(self, _: datetime, step: Step) -> list[Change]:
        items = [_delete("order_items", id=item) for item in self.world.orders[step.id]["items"]]
        return [*items, _delete("orders", id=step.id)]

    # --- The catalogue --------------------------------------------------------------------

    def _restock(self, _: datetime, __: Step) -> list[Change]:
        short = {
            number: truths.RESTOCK_TO - product["stock"]
            for number, product in self.world.products.items()
            if product["stock"] < truths.RESTOCK_BELOW
        }
        return self._move_stock(short)

    def _change_price(self, _: datetime, __: Step) -> list[Change]:
        product = self.world.products[self._rng.choice(list(self.world.products))]
        factor = Decimal(self._rng.choice((97, 102, 103, 104, 105))) / 100
        wholesale = _cents(product["wholesale_price"] * factor)
        values = {"wholesale_price": wholesale}
        if self._rng.random() < 0.6:
            values["rrp"] = _cents(product["rrp"] * factor)
        return [_update("products", {"id": product["id"]}, **values)]

    def _issue_vouchers(self, at: datetime, _: Step) -> list[Change]:
        return [v for v in _vouchers(at) if v.key["code"] not in self.world.vouchers]

    def _change_catalogue(self, at: datetime, _: Step) -> list[Change]:
        """Let a missing practitioner join; else one learns, or a voucher is renamed."""
        known = len(self.world.practitioners)
        if known < len(truths.PRACTITIONERS):
            return [self._practitioner(known + 1, at)]
        if self._rng.random() < 0.5:
            over = sorted(v["code"] for v in self.world.vouchers.values() if v["expires_at"] < at)
            renamed = [code for code in over if not code.endswith("-OLD")]
            return [_update("vouchers", {"code": code}, code=f"{code}-OLD") for code in renamed[:1]]
        row = self.world.practitioners[self._rng.randint(1, known)]
        certified = f"{row['certifications']},CPD{at:%y}"
        if row["certifications"].endswith(f"CPD{at:%y}"):
            return []
        return [_update("practitioners", {"id": row["id"]}, certifications=certified)]


_LAST_OF_AN_ORDER = {
    "pay",
    "cancel",
    "correct_shipping",
    "take_off_item",
    "refund_partly",
    "refund_fully",
    "delete_order",
}


def season_of(day: date) -> float:
    """Return how much a day sells relative to the average one: week and year."""
    angle = 2 * math.pi * (day.timetuple().tm_yday - truths.YEARLY_PEAK_DAY) / 365.25
    return truths.WEEKDAY[day.weekday()] * (1 + truths.YEARLY_SWING * math.cos(angle))


def _vouchers(at: datetime) -> Iterator[Change]:
    """Yield the vouchers of a quarter."""
    quarter = (at.month + 2) // 3
    ends = at.replace(year=at.year + quarter // 4, month=quarter % 4 * 3 + 1, day=1, hour=0)
    for code, method, off in truths.VOUCHERS:
        yield _insert(
            "vouchers",
            code=f"{code}-{at:%y}Q{quarter}",
            shipping_method_id=method,
            amount_off=off,
            expires_at=ends.replace(minute=0),
        )


def _refund_item(item: Row, quantity: int) -> Change:
    return _update(
        "order_items",
        {"id": item["id"]},
        refunded_quantity=quantity,
        refunded_amount=item["unit_price"] * quantity,
    )


def _insert(table: str, **values: Any) -> Change:
    return Change(table, "insert", {name: values[name] for name in TABLES[table].key}, values)


def _update(table: str, key: Row, **values: Any) -> Change:
    return Change(table, "update", key, values)


def _delete(table: str, **key: Any) -> Change:
    return Change(table, "delete", key, {})


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _cents(amount: Decimal) -> Decimal:
    return amount.quantize(CENT, ROUND_HALF_UP)


def _poisson(rng: Random, mean: float) -> int:
    """Return a Poisson number: how many exponential gaps fit into `mean`."""
    count, passed = 0, rng.expovariate(1.0)
    while passed < mean:
        count, passed = count + 1, passed + rng.expovariate(1.0)
    return count
