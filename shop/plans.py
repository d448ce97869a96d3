"""What will become of an order or a prescription, decided when it is made.

A plan follows from the seed and the row alone: a restarted shop plans the same
again and no table has to hold the future.
"""

from datetime import datetime, timedelta
from random import Random
from typing import Any, NamedTuple

from shop import truths


class Step(NamedTuple):
    """Something to do at a time; sorts by time. `part` is what of `id` it concerns."""

    at: datetime
    action: str
    id: int
    part: tuple[int, ...] = ()


def starts_unpaid(seed: int, order_id: int) -> bool:
    """Tell whether an order is made before it is paid."""
    return Random(f"{seed}:order:{order_id}").random() < truths.UNPAID_FIRST


def order_steps(seed: int, order_id: int, at: datetime) -> list[Step]:
    """Return what happens to an order after it was made, within 30 days."""
    rng = Random(f"{seed}:order:{order_id}")
    unpaid = rng.random() < truths.UNPAID_FIRST
    luck = rng.random()
    if unpaid:
        if luck < truths.PAID_LATER:
            return [Step(_later(rng, at, 2 / 1440, 40 / 1440), "pay", order_id)]
        if rng.random() < truths.CANCELLED_IF_NEVER_PAID:
            return [Step(_later(rng, at, 1, 3), "cancel", order_id)]
        return []
    for share, action, first, last in (
        (truths.CANCELLED_THOUGH_PAID, "cancel", 0.02, 0.5),
        (truths.SHIPPING_CORRECTED, "correct_shipping", 0.04, 1),
        (truths.ITEM_TAKEN_OFF, "take_off_item", 0.04, 1),
        (truths.PARTLY_REFUNDED, "refund_partly", 2, 25),
        (truths.FULLY_REFUNDED, "refund_fully", 2, 25),
        (truths.DELETED, "delete_order", 1, 10),
    ):
        if luck < share:
            return [Step(_later(rng, at, first, last), action, order_id)]
        luck -= share
    return []


def prescription_steps(seed: int, prescription: dict[str, Any]) -> list[Step]:
    """Return when a prescription's items (their ids in `part`) are bought, voided or removed."""
    rng = Random(f"{seed}:prescription:{prescription['id']}")
    at, number = prescription["issued_at"], prescription["id"]
    items: list[int] = sorted(prescription["items"])
    steps = []
    if rng.random() < truths.VOIDED:
        steps.append(Step(_later(rng, at, 0.01, 20), "void", number))
    if rng.random() < truths.ITEM_REMOVED:
        steps.append(Step(_later(rng, at, 0.01, 15), "remove_item", number, (rng.choice(items),)))
    if rng.random() < truths.NEVER_FILLED:
        return steps
    same_day = rng.random() < truths.FILLED_SAME_DAY
    delay = rng.uniform(0.01, 0.3) if same_day else rng.expovariate(1 / truths.FILL_DELAY_DAYS_MEAN)
    first = _later(rng, at, delay, delay)
    style = rng.random()
    if len(items) == 1 or style < truths.FILLED_AT_ONCE:
        groups = [(first, items)]
    else:
        rng.shuffle(items)
        cut = rng.randrange(1, len(items))
        groups = [(first, items[:cut])]
        if style < truths.FILLED_AT_ONCE + truths.FILLED_OVER_TIME:
            groups.append((_later(rng, first, 4, 45), items[cut:]))
    for when, group in groups:
        steps.append(Step(when, "fill", number, tuple(group)))
        again, repeat = group, 0
        while rng.random() < truths.REFILLED_AGAIN:
            repeat += 1
            again = [i for i in again if prescription["items"][i]["repeats"] >= repeat]
            if not again:
                break
            when = _later(rng, when, 24, 40)
            steps.append(Step(when, "fill", number, tuple(again)))
    return steps


def _later(rng: Random, at: datetime, first_day: float, last_day: float) -> datetime:
    milliseconds = round(rng.uniform(first_day, last_day) * 86_400_000)
    return at + timedelta(milliseconds=milliseconds)
