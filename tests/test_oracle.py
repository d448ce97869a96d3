"""The oracle itself: the goldens, and the rules of order and identity by hand-made cases."""

import csv
import json
import random
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shop.debezium import envelope, heartbeat, topic
from tests import goldens, oracle
from tests.oracle import Message

T0 = datetime(2024, 5, 1, 12, tzinfo=UTC)
Row = dict[str, Any]


def at(seconds: float) -> datetime:
    """Return the UTC wall time some seconds after T0, as the oracle tells times."""
    return (T0 + timedelta(seconds=seconds)).replace(tzinfo=None)


class Log:
    """One partition per table, written by hand: each call is the next offset."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def raw(self, table: str, key: bytes | None, value: bytes | None) -> None:
        """Append bytes."""
        offset = sum(m.topic == topic(table) for m in self.messages)
        self.messages.append(Message(topic(table), 0, offset, key, value))

    def change(
        self,
        table: str,
        op: str,
        before: Row | None,
        after: Row | None,
        *,
        seconds: int = 0,
        pos: int = 4,
        file: str = "binlog.000001",
        row: int = 0,
        server_id: int = 1,
    ) -> None:
        """Append a change at T0 + seconds."""
        key, value = envelope(
            table,
            op,
            before,
            after,
            source_ts_ms=(int(T0.timestamp()) + seconds) * 1000,
            file=file,
            pos=pos,
            row=row,
            snapshot="true" if op == "r" else "false",
            server_id=server_id,
        )
        self.raw(table, key, value)

    def user(self, op: str, old: object, new: object, **where: Any) -> None:
        """Append a change of patient 1's discount; `...` is no image."""
        before = None if old is ... else {"id": 1, "practitioner_discount": old}
        after = None if new is ... else {"id": 1, "practitioner_discount": new}
        self.change("users", op, before, after, **where)

    def discounts(self) -> list[Decimal | None]:
        """Return the discounts of patient 1's versions."""
        versions = oracle.history(self.messages, "users").get((1,), [])
        return [version.values["practitioner_discount"] for version in versions]

    def order(self, seconds: float = 0, **columns: Any) -> Row:
        """Append an order of patient 1 at T0 + seconds; return its row of the mart."""
        row = {"id": 1, "user_id": 1, "amount_total": 10, "date": T0 + timedelta(seconds=seconds)}
        self.change("orders", "c", None, {**row, **columns}, seconds=int(seconds))
        return self.orders()[0]

    def orders(self, **zones: str) -> list[Row]:
        """Return the rows of orders_with_discount."""
        return oracle.marts(self.messages, **zones)["orders_with_discount"]  # type: ignore[arg-type]


@pytest.fixture
def log() -> Log:
    return Log()


# --- Goldens ---------------------------------------------------------------------------


def by(rows: list[Row], *columns: str) -> dict[tuple[Any, ...], Row]:
    """Index rows by their grain, which must be unique."""
    index = {tuple(row[column] for column in columns): row for row in rows}
    assert len(index) == len(rows)
    return index


def assert_equal(actual: list[Row], expected: list[Row], *grain: str) -> None:
    """Compare the columns that `expected` has; floats by 1e-6, everything else exactly."""
    got, wanted = by(actual, *grain), by(expected, *grain)
    assert got.keys() == wanted.keys()
    for key, row in wanted.items():
        for column, value in row.items():
            cell = got[key][column]
            if isinstance(cell, float):
                assert cell == pytest.approx(float(value), abs=1e-6), (key, column)
            else:
                assert cell == value, (key, column)


def test_golden_00_effective_orders() -> None:
    golden = goldens.load("00")
    orders = oracle.marts(golden.messages)["orders_with_discount"]
    assert_equal(orders, golden.expected["expected"], "order_id")
    groups = defaultdict(list)
    for order in orders:
        if order["order_state"] == "paid" and order["discount_source"] == "asof":
            groups[order["discount_pct"]].append(order["amount_total"])
    aov = [
        {"discount_pct": pct, "n_orders": len(amounts), "aov": sum(amounts) / len(amounts)}
        for pct, amounts in groups.items()
    ]
    assert_equal(aov, golden.expected["expected_aov_by_discount"], "discount_pct")
    # naive.json: today's discount, re-join on correction, keep-first, deleted kept, arrival order
    means = {row["discount_pct"]: row["aov"] for row in aov}
    one, three = orders[0], orders[2]
    assert means[Decimal(10)].quantize(Decimal("0.01")) != Decimal("83.33")
    assert one["discount_pct"] != 10
    assert one["amount_total"] != 100
    assert means[Decimal(8)] != Decimal("539.50")
    assert three["discount_pct"] != 8


def test_golden_00_match_quality() -> None:
    orders = oracle.marts(goldens.load("00").messages)["orders_with_discount"]
    assert {order["order_id"]: order["match_quality"] for order in orders} == {
        1: "not_exact",  # the snapshot's version
        2: "same_second",  # ordered at the moment of the change
        3: "exact",
        4: "not_exact",
        5: "not_exact",
        6: "not_exact",  # backfilled
        7: "exact",
        8: None,
        9: "exact",
    }


def test_golden_07a_published_table() -> None:
    golden = goldens.load("07a")
    rows = oracle.marts(golden.messages)["avg_order_value_by_discount"]
    assert_equal(rows, golden.expected["expected"], "discount")
    assert sum(row["n_orders"] for row in rows) == 24
    values = {int(-row["discount"]): row["avg_order_value"] for row in rows}
    steps = [
        {"from_pct": pct, "to_pct": pct + 1, "step": values[pct + 1] - values[pct]} for pct in range(4, 15)
    ]
    ups = sorted((s["step"] for s in steps if s["step"] > 0), reverse=True)
    for step in steps:
        step["rank_of_increase"] = ups.index(step["step"]) + 1 if step["step"] > 0 else None
    assert_equal(steps, golden.expected["expected_steps"], "from_pct", "to_pct")
    naive = {5: "126.23", 8: "148.88", 9: "148.98", 15: "134.30", 6: "101.03", 4: "101.64"}
    for pct, wrong in naive.items():
        assert values[pct] != Decimal(wrong)


def test_golden_07b_years_of_the_business_zone() -> None:
    golden = goldens.load("07b")
    zone = golden.params["business_tz"]
    rows = oracle.marts(golden.messages, timezone=zone)["avg_order_value_by_discount_per_year"]
    assert_equal(rows, golden.expected["expected"], "discount", "order_year")
    averages = {(row["discount"], row["order_year"]): row["avg_order_value"] for row in rows}
    assert averages[Decimal(-5), 2018] != 105
    assert averages[Decimal(-5), 2019] != Decimal("140.33")
    assert averages[Decimal(-6), 2020] != Decimal("213.67")
    utc = oracle.marts(golden.messages)["avg_order_value_by_discount_per_year"]
    assert (Decimal(-5), 2020) not in by(utc, "discount", "order_year")


def test_golden_07c_statistics() -> None:
    golden = goldens.load("07c")
    marts = oracle.marts(golden.messages)
    rows = marts["order_value_by_discount"]
    assert_equal(rows, golden.expected["expected"], "discount_pct")
    five, six, seven = rows
    assert [round(five["aov"], 2), round(six["aov"], 2)] == [130, 210]
    assert five["aov"] not in (302, 140)
    assert round(six["aov"], 2) not in (140, 303.33)
    assert seven["sd"] is None
    with (next(goldens.GOLDEN.glob("07c_*")) / "orders.csv").open(newline="") as lines:
        given_states = {int(row["order_id"]): row for row in csv.DictReader(lines)}
    for order in marts["orders_with_discount"]:
        line = given_states[order["order_id"]]
        assert order["order_state"] == line["order_state"]
        assert order["discount_source"] == line["discount_source"]
        assert order["discount_pct"] == Decimal(line["discount_pct"])
        assert order["net_goods"] == Decimal(line["net_subtotal"])


def test_golden_12_rounding() -> None:
    differs_from_half_even = 0
    for row in goldens.load("12").expected["expected"]:
        rounded = oracle.ksql_round(float(row["x"]))
        assert rounded == row["ksql_round_2"]
        half_even = row["x"].quantize(Decimal("0.01"), ROUND_HALF_EVEN)
        assert half_even == row["half_even_decimal_2"]
        differs_from_half_even += rounded != half_even
    assert differs_from_half_even


# --- Duplicates and interleavings ------------------------------------------------------


def interleaved(messages: list[Message], rng: random.Random) -> Iterator[Message]:
    """Shuffle messages, keep each partition's order, deliver some of them twice."""
    waiting: dict[tuple[str, int], list[Message]] = defaultdict(list)
    for message in messages:
        waiting[message.topic, message.partition].append(message)
    while waiting:
        partition = rng.choice(list(waiting))
        message = waiting[partition].pop(0)
        yield from [message] * rng.choice([1, 1, 2])
        if not waiting[partition]:
            del waiting[partition]


@pytest.mark.parametrize("name", ["00", "07a", "07b", "07c"])
@given(seed=st.integers(min_value=0, max_value=2**32))
def test_interleaving_and_redelivery_change_nothing(name: str, seed: int) -> None:
    messages = goldens.load(name).messages
    again = list(interleaved(messages, random.Random(seed)))
    assert oracle.marts(again) == oracle.marts(messages)


def test_a_resent_change_makes_no_second_version(log: Log) -> None:
    log.user("c", ..., -5, pos=100)
    log.user("u", -5, -6, pos=200, seconds=10)
    log.user("c", ..., -5, pos=100)
    log.user("u", -5, -6, pos=200, seconds=10)
    assert log.discounts() == [-5, -6]


def test_a_row_of_other_content_at_the_same_position_stays(log: Log) -> None:
    log.user("c", ..., -5, pos=100)
    log.user("u", -5, -6, pos=100)
    log.user("u", -6, -7, pos=100)
    assert log.discounts() == [-5, -6, -7]


# --- Order of versions -----------------------------------------------------------------


def test_late_arrival_is_put_back_by_position(log: Log) -> None:
    log.user("c", ..., -5, pos=100)
    log.user("u", -6, -7, pos=300, seconds=20)
    log.user("u", -5, -6, pos=200, seconds=10)
    assert log.discounts() == [-5, -6, -7]


def test_rows_of_one_event_go_by_row(log: Log) -> None:
    log.user("u", -5, -6, pos=100, row=1)
    log.user("c", ..., -5, pos=100, row=0)
    assert log.discounts() == [-5, -6]


def test_a_rotated_binlog_starts_at_a_low_position_and_compares_by_number(log: Log) -> None:
    log.user("u", -5, -6, pos=4, file="binlog.1000000", seconds=10)
    log.user("c", ..., -5, pos=900, file="binlog.999999")
    assert log.discounts() == [-5, -6]


@pytest.mark.parametrize("change", [{"server_id": 2}, {"file": "replica.000001"}])
def test_positions_of_another_server_or_base_name_do_not_compare(log: Log, change: dict[str, Any]) -> None:
    log.user("c", ..., -5, pos=900)
    log.user("u", -6, -7, pos=200, seconds=20, **change)
    log.user("u", -5, -6, pos=100, seconds=10, **change)
    assert log.discounts() == [-5, -6, -7]


def test_a_snapshot_agrees_with_one_server_only(log: Log) -> None:
    log.user("r", ..., -5, pos=500)
    log.user("u", -5, -6, pos=900, seconds=10)
    log.user("u", -6, -7, pos=600, seconds=20, server_id=2)
    assert log.discounts() == [-5, -6, -7]


def test_valid_from_never_goes_back_when_the_clock_does(log: Log) -> None:
    log.user("c", ..., -5, pos=100, seconds=60)
    log.user("u", -5, -6, pos=200, seconds=30)
    versions = oracle.history(log.messages, "users")[(1,)]
    assert [(v.valid_from, v.valid_to) for v in versions] == [(at(60), at(60)), (at(60), None)]
    assert log.order(60)["discount"] == -6  # the version of no length loses


def test_a_stream_row_beats_a_snapshot_row_at_the_same_position(log: Log) -> None:
    log.user("c", ..., -6, pos=500)
    log.user("r", ..., -5, pos=500)
    assert log.discounts() == [-5, -6]


def test_a_snapshot_row_equal_to_the_state_makes_no_version(log: Log) -> None:
    log.user("c", ..., -5, pos=100)
    log.user("r", ..., -5.0, pos=500, seconds=50)
    assert log.discounts() == [-5]


def test_a_snapshot_row_that_differs_makes_one_that_is_not_exact(log: Log) -> None:
    log.user("c", ..., -5, pos=100)
    log.user("r", ..., -6, pos=500, seconds=50)
    log.user("r", ..., -6, pos=500, seconds=50)
    versions = oracle.history(log.messages, "users")[(1,)]
    assert [version.is_exact for version in versions] == [True, False]


def test_a_stream_update_without_visible_change_makes_a_version(log: Log) -> None:
    log.user("c", ..., -5, pos=100)
    log.user("u", -5, -5, pos=200, seconds=10)
    assert log.discounts() == [-5, -5]


def test_a_patient_can_come_back(log: Log) -> None:
    log.user("c", ..., -5, pos=100)
    log.user("d", -5, ..., pos=200, seconds=10)
    log.user("r", ..., -5, pos=300, seconds=20)
    versions = oracle.history(log.messages, "users")[(1,)]
    assert [(v.number, v.is_deleted) for v in versions] == [(1, False), (2, True), (3, False)]


def test_keys_of_two_columns_and_of_text(log: Log) -> None:
    log.change("favourite_products", "c", None, {"user_id": 1, "product_id": 2})
    log.change("vouchers", "c", None, {"code": "SPRING", "amount_off": Decimal("5.00")})
    assert list(oracle.history(log.messages, "favourite_products")) == [(1, 2)]
    assert list(oracle.history(log.messages, "vouchers")) == [("SPRING",)]


# --- What does not land ----------------------------------------------------------------


USER_KEY, USER = envelope(
    "users",
    "c",
    None,
    {"id": 1, "practitioner_discount": -9},
    source_ts_ms=0,
    file="binlog.000001",
    pos=4,
    row=0,
)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (USER_KEY, b"not JSON"),
        (USER_KEY, b"\xff\xfe"),
        (USER_KEY, b"[]"),
        (USER_KEY, USER.replace(b'"op":"c"', b'"x":"c"')),
        (USER_KEY, USER.replace(b'"op":"c"', b'"op":"t"')),
        (USER_KEY, USER.replace(b'"after":{', b'"later":{')),
        (USER_KEY, USER.replace(b'"practitioner_discount"', b'"discount"')),
        (USER_KEY, USER.replace(b"-9.0", b'"much"')),
        (USER_KEY, USER.replace(b"-9.0", b"true")),
        (USER_KEY, USER.replace(b"-9.0", b"NaN")),
        (USER_KEY, USER.replace(b"-9.0", b"9.0")),
        (USER_KEY, USER.replace(b'"ts_ms":0', b'"ts_ms":"soon"')),
        (USER_KEY, USER.replace(b'"source":{', b'"origin":{')),
        (USER_KEY, USER.replace(b'"id":1', b'"id":"one"')),
        (None, USER),
        (b"{}", USER),
        (b'{"id":"one"}', USER),
        (USER_KEY, None),
    ],
)
def test_malformed_messages_and_tombstones_are_skipped(
    log: Log, key: bytes | None, value: bytes | None
) -> None:
    assert value != USER or key != USER_KEY
    log.user("c", ..., -5, pos=100)
    log.raw("users", key, value)
    log.user("u", -5, -6, pos=200, seconds=10)
    assert log.discounts() == [-5, -6]


def truncate(pos: int) -> bytes:
    """Return a truncate of the table of patients."""
    told = json.loads(USER) | {"op": "t", "before": None, "after": None}
    told["source"] |= {"pos": pos, "ts_ms": int(T0.timestamp() + 30) * 1000}
    return json.dumps(told).encode()


def test_a_truncate_deletes_what_was_before_it_in_the_binlog_and_only_once(log: Log) -> None:
    log.raw("users", None, truncate(pos=300))
    log.user("c", ..., -5, pos=100)
    log.user("u", -5, -6, pos=200, seconds=10)
    log.user("c", ..., -7, pos=400, seconds=40)
    log.raw("users", None, truncate(pos=300))
    assert log.discounts() == [-5, -6, -6, -7]
    deleted = oracle.history(log.messages, "users")[1,][2]
    assert (deleted.is_deleted, deleted.valid_from, deleted.valid_to) == (True, at(30), at(40))


def test_a_truncate_deletes_nothing_that_was_deleted(log: Log) -> None:
    log.user("c", ..., -5, pos=100)
    log.user("d", -5, ..., pos=200, seconds=10)
    log.raw("users", None, truncate(pos=300))
    assert log.discounts() == [-5, -5]


def test_an_order_whose_key_changed_is_counted_under_its_new_key(log: Log) -> None:
    one, two, three = ({"id": n, "user_id": 1, "amount_total": 10, "date": T0} for n in (1, 2, 3))
    log.change("orders", "c", None, one, pos=5)
    log.change("orders", "c", None, two, pos=6)
    log.change("orders", "d", one, None, pos=10)
    log.messages[-1] = log.messages[-1]._replace(headers=(("__debezium.newkey", b'{"id":3}'),))
    log.change("orders", "c", None, three, pos=10)
    rows = oracle.marts(log.messages)["orders_with_discount"]
    assert [row["order_id"] for row in rows] == [2, 3]


@pytest.mark.parametrize(("ahead", "valid_from"), [(299, 299), (301, 0)])
def test_a_change_from_the_future_was_made_when_it_was_sent(log: Log, ahead: int, valid_from: int) -> None:
    log.user("c", ..., -5, seconds=ahead)
    log.messages[-1] = log.messages[-1]._replace(timestamp_ms=int(T0.timestamp()) * 1000)
    (version,) = oracle.history(log.messages, "users")[1,]
    assert version.valid_from == at(valid_from)


def test_heartbeats_are_no_rows(log: Log) -> None:
    beat = heartbeat(1)
    log.user("c", ..., -5)
    log.messages.append(Message(beat.topic, 0, 0, beat.key, beat.value))
    assert log.discounts() == [-5]


@pytest.mark.parametrize("missing", [None, datetime(1970, 1, 1, tzinfo=UTC)])
def test_an_order_without_a_date_does_not_land(log: Log, missing: datetime | None) -> None:
    row = {"id": 1, "user_id": 1, "amount_total": 10, "date": missing}
    log.change("orders", "c", None, row)
    assert log.orders() == []


# --- The discount of an order ----------------------------------------------------------


def matched(order: Row) -> tuple[Any, ...]:
    """Return what an order's discount is and how it was found."""
    return order["discount"], order["discount_source"], order["match_quality"]


def test_before_a_first_create_its_discount_is_backfilled(log: Log) -> None:
    log.user("c", ..., -5, seconds=10)
    assert matched(log.order(0)) == (-5, "backfill_first_known", "not_exact")


def test_before_a_first_update_its_before_image_holds(log: Log) -> None:
    log.user("u", -4, -5, seconds=10)
    assert matched(log.order(0)) == (-4, "backfill_first_known", "not_exact")
    versions = oracle.history(log.messages, "users")[(1,)]
    assert [v.number for v in versions] == [0, 1]
    assert versions[0].valid_from == oracle.BEGINNING


def test_a_first_update_may_lack_its_before_image(log: Log) -> None:
    log.user("u", ..., -5, seconds=10)
    assert matched(log.order(0)) == (-5, "backfill_first_known", "not_exact")


def test_a_backfilled_null_is_still_backfilled(log: Log) -> None:
    log.user("u", None, -5, seconds=10)
    assert matched(log.order(0)) == (None, "backfill_first_known", "not_exact")


def test_before_a_first_delete_the_deleted_discount_is_backfilled(log: Log) -> None:
    log.user("d", -5, ..., seconds=10)
    assert matched(log.order(0)) == (-5, "backfill_first_known", "not_exact")


def test_after_the_delete_the_patient_is_missing(log: Log) -> None:
    log.user("c", ..., -5, pos=100)
    log.user("d", -5, ..., pos=200, seconds=10)
    assert matched(log.order(10)) == (None, "missing_patient", None)


def test_a_known_null_is_asof_null(log: Log) -> None:
    log.user("c", ..., None)
    assert matched(log.order(60)) == (None, "asof_null", "exact")


def test_no_discount_is_zero_without_a_sign(log: Log) -> None:
    log.user("c", ..., -0.0)
    order = log.order(60)
    assert (str(order["discount"]), str(order["discount_pct"])) == ("0.00", "0.00")


@pytest.mark.parametrize(("seconds", "quality"), [(0, "same_second"), (0.999, "same_second"), (1, "exact")])
def test_same_second_by_truncation(log: Log, seconds: float, quality: str) -> None:
    log.user("c", ..., -5)
    assert matched(log.order(seconds)) == (-5, "asof", quality)


def test_not_exact_goes_before_same_second(log: Log) -> None:
    log.user("r", ..., -5)
    assert matched(log.order(0)) == (-5, "asof", "not_exact")


# --- The state of an order -------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "state", "net_goods"),
    [
        ({}, "paid", None),
        ({"transaction_id": None}, "unpaid", None),
        ({"transaction_id": "T1", "amount_subtotal": 8}, "paid", 8),
        ({"cancelled_at": T0, "transaction_id": None}, "cancelled", None),
        ({"cancelled_at": T0, "amount_subtotal": 8, "amount_refunded": 3}, "part_refunded", 5),
        ({"amount_subtotal": 8, "amount_refunded": 10}, "refunded", 0),
        ({"amount_subtotal": 8, "amount_refunded": None}, "paid", 8),
        ({"amount_subtotal": None, "amount_refunded": 9}, "part_refunded", None),
        ({"amount_subtotal": None, "amount_refunded": 10}, "refunded", None),
    ],
)
def test_state_and_net_goods(log: Log, columns: Row, state: str, net_goods: int | None) -> None:
    order = log.order(**columns)
    assert (order["order_state"], order["net_goods"]) == (state, net_goods)


def test_items_tell_the_refund_where_there_are_any(log: Log) -> None:
    for item_id, refunded in ((1, Decimal("1.50")), (2, None), (3, Decimal(2)), (4, Decimal(4))):
        item = {"id": item_id, "order_id": 1, "refunded_amount": refunded}
        log.change("order_items", "c", None, item, pos=item_id * 100)
    log.change("order_items", "d", item, None, pos=900)
    order = log.order(amount_subtotal=8, amount_refunded=8)
    assert (order["order_state"], order["net_goods"]) == ("part_refunded", Decimal("4.50"))


def test_a_deleted_order_keeps_its_values_and_leaves_the_averages(log: Log) -> None:
    log.user("c", ..., -5)
    row = {"id": 1, "user_id": 1, "amount_total": 10, "date": T0}
    log.change("orders", "u", row, {**row, "amount_total": 12}, pos=100, seconds=5)
    log.change("orders", "d", {**row, "amount_total": 12}, None, pos=200, seconds=9)
    marts = oracle.marts(log.messages)
    (order,) = marts["orders_with_discount"]
    assert (order["order_state"], order["amount_total"]) == ("deleted", 12)
    assert order["n_order_versions"] == 2
    assert order["last_event_at"] == at(9)
    assert marts["avg_order_value_by_discount"] == []
    assert marts["order_value_by_discount"] == []


# --- Days and averages -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("wall", "utc"),
    [
        ((2024, 10, 27, 2, 30), (2024, 10, 27, 0, 30)),  # repeated: the first, still summer
        ((2024, 3, 31, 2, 30), (2024, 3, 31, 1, 30)),  # missing: 03:30 of summer
        ((2024, 1, 1, 0, 30), (2023, 12, 31, 23, 30)),
    ],
)
def test_wall_times_of_the_source_zone(log: Log, wall: tuple[int, ...], utc: tuple[int, ...]) -> None:
    log.order(date=datetime(*wall, tzinfo=UTC))  # type: ignore[misc,arg-type]
    (order,) = log.orders(source_timezone="Europe/Berlin")
    assert order["ordered_at"] == datetime(*utc)  # type: ignore[arg-type] # noqa: DTZ001
    assert order["order_date"] == date(*utc[:3])


def test_a_group_without_amounts_has_no_average(log: Log) -> None:
    log.user("c", ..., -5)
    log.order(60, amount_total=None)
    marts = oracle.marts(log.messages)
    (total,) = marts["avg_order_value_by_discount"]
    assert (total["avg_order_value"], total["n_orders"]) == (None, 0)
    assert total["rowtime_ms"] == (int(T0.timestamp()) + 60) * 1000
    (day,) = marts["order_value_by_discount_day"]
    assert (day["n_orders"], day["n_amounts"], day["sum_amount"]) == (1, 0, None)
    assert day["sum_net_goods"] is None


def test_a_level_is_publishable_from_30_orders_of_11_patients(log: Log) -> None:
    discounts: dict[int, float | None] = dict.fromkeys(range(11), -5.5) | {11: None, 12: -10}
    for user_id, discount in discounts.items():
        user = {"id": user_id, "practitioner_discount": discount}
        log.change("users", "c", None, user, pos=user_id * 100)
    buyers = [n % 11 for n in range(30)] + [12] * 31 + [11]
    for order_id, user_id in enumerate(buyers):
        order: Row = {"id": order_id, "user_id": user_id, "amount_total": 10, "amount_subtotal": 9}
        log.change("orders", "c", None, {**order, "date": T0}, pos=order_id * 100)
    rows = oracle.marts(log.messages)["order_value_by_discount"]
    shown = [(r["level"], r["n_orders"], r["n_patients"], r["quality_flag"]) for r in rows]
    assert shown == [("5.5", 30, 11, "ok"), ("10", 31, 1, "low_n"), ("unknown", 1, 1, "low_n")]
    assert [row["publishable"] for row in rows] == [True, False, False]
    one_less = [m for m in log.messages if m.topic != topic("orders") or m.offset > 0]
    assert not oracle.marts(one_less)["order_value_by_discount"][0]["publishable"]
