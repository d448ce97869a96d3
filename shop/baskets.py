"""What goes into an order, and what it costs.

The rules of an order's amounts: a line costs quantity x unit_price, the unit price
being the retail price after the patient's discount; amount_subtotal is the sum of
the lines; each line has its tax, amount_tax is their sum; amount_total = subtotal +
tax + shipping - the voucher's amount off.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from random import Random
from typing import Any

from shop import truths
from shop.world import Patient, World

CENT = Decimal("0.01")
_MOST_OF_ONE = 24
_TRIES = 4


@dataclass(frozen=True)
class Line:
    """One order item to be: product, quantity, price after discount, where it comes from."""

    product_id: int
    quantity: int
    unit_price: Decimal
    prescription_item_id: int | None = None

    @property
    def goods(self) -> Decimal:
        """What the line costs before tax."""
        return self.unit_price * self.quantity

    @property
    def tax(self) -> Decimal:
        """The line's tax."""
        return tax_of(self.goods)


def tax_of(goods: Decimal) -> Decimal:
    """Return the tax on a line of goods, rounded to cents."""
    return (goods * truths.TAX_RATE).quantize(CENT, ROUND_HALF_UP)


def price(product: dict[str, Any], percent: int) -> Decimal:
    """Return a product's price after a discount of whole percents."""
    rrp: Decimal = product["rrp"]
    return (rrp * (100 - percent) / 100).quantize(CENT, ROUND_HALF_UP)


class Shelves:
    """Which products a practitioner's patients choose from, favoured brands more often."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._choices: dict[tuple[int, bool], list[int]] = {}

    def choices(self, practitioner_id: int, *, prescribed: bool) -> list[int]:
        """Return product ids, repeated by their weight; without a prescription the general ones."""
        found = self._choices.get((practitioner_id, prescribed))
        if found is None:
            found = self._weigh(practitioner_id, prescribed)
            self._choices[practitioner_id, prescribed] = found
        return found

    def _weigh(self, practitioner_id: int, prescribed: bool) -> list[int]:
        practice = self._world.practitioners[practitioner_id]["practice_type"]
        favoured = truths.FAVOURED_BRANDS[practice]
        found = []
        for product in self._world.products.values():
            brand, general = product["brand_id"], product["availability"] == "general"
            if (practitioner_id, brand) in self._world.restricted or not (general or prescribed):
                continue
            weight = truths.FAVOUR if brand in favoured else 1
            # Prescriptions are mostly written for what cannot be had without one.
            found += [product["id"]] * (weight * (3 if prescribed and not general else 1))
        return found


def fill_basket(
    rng: Random,
    world: World,
    shelves: Shelves,
    patient: Patient,
    goods: float,
    prescribed: Sequence[Line],
) -> list[Line]:
    """Return an order's lines: the prescribed ones, and others up to a value of goods."""
    lines = list(prescribed)
    left = goods - float(sum(line.goods for line in lines))
    room = len(truths.ITEMS_WEIGHTS) - len(lines)
    count = rng.choices((1, 2, 3, 4), truths.ITEMS_WEIGHTS)[0]
    count = min(count, room) if not lines else min(max(1, count - len(lines)), room)
    taken = {line.product_id for line in lines}
    choices = shelves.choices(patient.practitioner_id, prescribed=False)
    for open_lines in range(count, 0, -1):
        budget = left if open_lines == 1 else left / open_lines * rng.uniform(0.6, 1.4)
        line = _best(rng, world, choices, patient.percent, budget, taken)
        if line is None or (lines and float(line.goods) > 2 * max(budget, 0.0)):
            break
        lines.append(line)
        taken.add(line.product_id)
        left -= float(line.goods)
    return lines


def _best(
    rng: Random, world: World, choices: list[int], percent: int, budget: float, taken: set[int]
) -> Line | None:
    """Return the line nearest to a budget of a few random products."""
    best, best_gap = None, float("inf")
    for _ in range(_TRIES):
        product = world.products[rng.choice(choices)]
        unit = price(product, percent)
        quantity = min(max(1, round(budget / float(unit))), _MOST_OF_ONE)
        gap = abs(float(unit) * quantity - budget)
        if gap < best_gap and product["id"] not in taken and product["stock"] >= quantity:
            best, best_gap = Line(product["id"], quantity, unit), gap
    return best
