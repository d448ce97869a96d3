"""People behave plausibly, and the same way each time."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from shop import truths
from shop.behaviour import Behaviour
from shop.change import Transaction
from shop.store import SqliteShop
from shop.world import World

START = datetime(2024, 6, 6, tzinfo=UTC)
DAYS = 150
END = START + timedelta(days=DAYS)


@cache
def life(seed: int = 7) -> list[Transaction]:
    behaviour = Behaviour(seed)
    return [*behaviour.opening(START), *behaviour.history(START, END)]


@cache
def tables() -> dict[str, dict[Any, dict[str, Any]]]:
    """The tables at the end, deleted rows included (as they were)."""
    found: dict[str, dict[Any, dict[str, Any]]] = defaultdict(dict)
    for transaction in life():
        for change in transaction.changes:
            key = tuple(change.key.values())
            if change.op != "delete":
                found[change.table][key] = {**found[change.table].get(key, {}), **change.values}
    return found


def test_the_same_seed_gives_the_same_life() -> None:
    behaviour = Behaviour(7)
    again = [*behaviour.opening(START), *behaviour.history(START, END)]
    assert again == life()
    assert life(8) != life()


def test_a_restarted_shop_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    shop = SqliteShop(tmp_path / "shop.sqlite")
    behaviour = Behaviour(7)
    lived = behaviour.opening(START)
    shop.apply(lived, behaviour.world.notes())
    for first in range(0, DAYS, 30):
        clock = START + timedelta(days=first)
        behaviour = Behaviour(7, World.load(7, shop, clock), clock)
        month = list(behaviour.history(clock, clock + timedelta(days=30)))
        shop.apply(month, behaviour.world.notes())
        lived += month
    assert lived == life()


def test_time_never_goes_back_and_has_milliseconds() -> None:
    times = [transaction.at for transaction in life()]
    assert times == sorted(times)
    assert times[0] < START <= times[-1] < END
    assert all(at.microsecond % 1000 == 0 for at in times)


def test_amounts_add_up_in_every_version_of_an_order() -> None:
    orders: dict[int, dict[str, Any]] = {}
    items: dict[int, dict[int, dict[str, Any]]] = defaultdict(dict)
    owner: dict[int, int] = {}
    vouchers = tables()["vouchers"]
    checked = 0
    for transaction in life():
        touched = set()
        for change in transaction.changes:
            number = change.key.get("id")
            if change.table == "orders" and number is not None:
                touched.add(number)
                orders[number] = {**orders.get(number, {}), **change.values}
            elif change.table == "order_items" and number is not None:
                order = owner.setdefault(number, change.values.get("order_id", 0))
                touched.add(order)
                if change.op == "delete":
                    del items[order][number]
                else:
                    items[order][number] = {**items[order].get(number, {}), **change.values}
        for number in touched:
            order_row, lines = orders[number], items[number].values()
            if not lines:
                continue  # deleted
            off = Decimal(0)
            if order_row["voucher_code"]:
                off = vouchers[order_row["voucher_code"],]["amount_off"]
            goods = sum(line["quantity"] * line["unit_price"] for line in lines)
            tax = sum(line["tax"] for line in lines)
            refunded = sum(line["refunded_amount"] for line in lines)
            assert order_row["amount_subtotal"] == goods
            assert order_row["amount_tax"] == tax
            total = goods + tax + order_row["amount_shipping"] - off
            assert order_row["amount_total"] == total > 0
            assert refunded == min(order_row["amount_refunded"], goods)
            assert 1 <= len(lines) <= 4
            checked += 1
    assert checked > 1_500


def test_every_kind_of_event_happens() -> None:
    behaviour = Behaviour(7)
    long = [*behaviour.opening(START), *behaviour.history(START, START + timedelta(days=500))]
    seen = {
        (change.table, change.op, *sorted(change.values)) if change.op == "update"
        else (change.table, change.op)
        for transaction in long
        for change in transaction.changes
    }  # fmt: skip
    assert {
        ("users", "delete"),
        ("users", "update", "practitioner_discount"),
        ("users", "update", "email"),
        ("users", "update", "clinic_id", "practitioner_id"),
        ("orders", "update", "transaction_id"),
        ("orders", "update", "cancelled_at"),
        ("orders", "update", "amount_refunded"),
        ("orders", "update", "amount_shipping", "amount_total"),
        ("orders", "update", "amount_subtotal", "amount_tax", "amount_total"),
        ("orders", "delete"),
        ("order_items", "update", "refunded_amount", "refunded_quantity"),
        ("order_items", "delete"),
        ("prescriptions", "update", "voided_at"),
        ("prescription_items", "update", "removed_at"),
        ("favourite_products", "delete"),
        ("products", "update", "stock"),
        ("products", "update", "rrp", "wholesale_price"),
        ("vouchers", "insert"),
    } <= seen


def test_practitioner_only_products_are_sold_on_prescription_only() -> None:
    products = tables()["products"]
    lines = tables()["order_items"].values()
    closed = [line for line in lines if products[line["product_id"],]["availability"] == "practitioner_only"]
    assert len(closed) > 50
    assert all(line["prescription_item_id"] is not None for line in closed)


def test_restricted_brands_are_never_sold_through_the_barred_practitioner() -> None:
    products, orders = tables()["products"], tables()["orders"]
    pairs = {
        (
            orders[line["order_id"],]["practitioner_id"],
            products[line["product_id"],]["brand_id"],
        )
        for line in tables()["order_items"].values()
    }
    assert not pairs & set(truths.SUPPLY_RESTRICTIONS)
    assert len(pairs) > 60


def test_prescriptions_are_filled_while_valid_and_within_what_they_allow() -> None:
    orders, prescriptions = tables()["orders"], tables()["prescriptions"]
    prescribed = tables()["prescription_items"]
    supplied: dict[int, int] = defaultdict(int)
    for line in tables()["order_items"].values():
        if line["prescription_item_id"] is not None:
            item = prescribed[line["prescription_item_id"],]
            prescription = prescriptions[item["prescription_id"],]
            order = orders[line["order_id"],]
            assert order["user_id"] == prescription["user_id"]
            assert prescription["issued_at"] < order["date"]
            assert order["date"].date() <= prescription["valid_until"]
            supplied[item["id"]] += line["quantity"]
    assert len(supplied) > 100
    for item_id, quantity in supplied.items():
        item = prescribed[item_id,]
        assert quantity <= item["quantity"] * (1 + item["repeats"])


def test_order_values_follow_the_discount_as_the_truths_say() -> None:
    behaviour = Behaviour(3)
    discounts: dict[int, float | None] = {}
    totals: dict[float | None, list[Decimal]] = defaultdict(list)
    end = START + timedelta(days=400)
    for transaction in [*behaviour.opening(START), *behaviour.history(START, end)]:
        for change in transaction.changes:
            if change.table == "users" and "practitioner_discount" in change.values:
                discounts[change.key["id"]] = change.values["practitioner_discount"]
            if change.table == "orders" and change.op == "insert":
                totals[discounts[change.values["user_id"]]].append(change.values["amount_total"])
    for level in truths.DISCOUNT_LEVELS:
        sold = totals[-float(level)]
        mean = float(sum(sold)) / len(sold)
        assert abs(mean / truths.AVERAGE_ORDER_VALUE[level] - 1) < 0.1, level


def test_live_always_has_something_to_do_now() -> None:
    behaviour = Behaviour(7)
    behaviour.opening(START)
    now = START
    for _ in range(300):
        now += timedelta(seconds=3)
        transaction = behaviour.live(now)
        assert transaction.at == now
        assert transaction.changes
