"""`verify` finds whatever is not as the change logs say, and names it."""

from __future__ import annotations

from pathlib import Path

import duckdb

from bi_assets.operations.rewind import rewind
from bi_assets.operations.verify import verify
from tests.histories import World
from tests.landing.messages import order, user
from tests.operations.desk import Desk
from tests.platform import marts


def sold(desk: Desk) -> Desk:
    """Two patients, one of them with a change, and three orders on two days."""
    log = desk.log
    log.change("users", "c", None, user(1))
    log.change("users", "c", None, user(2))
    log.change("users", "u", user(1), user(1, -9.0), hours=2)
    for number, hours in ((1, 1), (2, 3), (3, 30)):
        log.change("orders", "c", None, order(number, hours=hours), hours=hours)
    desk.sync()
    return desk


def test_what_landing_made_is_as_the_logs_say(desk: Desk) -> None:
    desk.produce(World(4, (20,) * 20).messages())
    desk.log.change("users", "c", None, user(9, 5.0))  # in quarantine
    desk.sync()
    found = verify(desk.warehouse)
    assert (found.differences, found.not_compared) == ([], [])
    assert found.tables == len(desk.warehouse.contracts) + 2 * len(marts())
    assert found.rows > 400


DAMAGES = {
    "UPDATE cdc.users SET _valid_to = TIMESTAMP '2025-01-01' WHERE id = 1 AND _op = 'c'": (
        "history.users, id 1, _topic shop.shop.users, _partition 0, _offset 0, _batch_id 1: "
        "_valid_to is 2025-01-01 00:00:00, recomputed 2024-05-01 14:00:00"
    ),
    "UPDATE marts.orders_with_discount SET discount = -1 WHERE order_id = 2": (
        "marts.orders_with_discount, order_id 2, order_date 2024-05-01: discount is -1.00, recomputed -9.00"
    ),
    "DELETE FROM marts.orders_with_discount WHERE order_id = 3": (
        "marts.orders_with_discount, order_id 3, order_date 2024-05-02: is missing."
    ),
    "INSERT INTO marts.avg_order_value_by_discount (discount, n_orders) VALUES (-77, 1)": (
        "marts.avg_order_value_by_discount, discount -77.00: is there, and should not be."
    ),
    "UPDATE marts.order_value_by_discount SET aov = aov * 1.001 WHERE level = '5'": (
        "marts.order_value_by_discount, level 5: aov is 100.1, recomputed 100.0"
    ),
}
"""What is done to the core file, and what is to be told of it."""


def test_each_difference_is_told_with_its_place(desk: Desk) -> None:
    sold(desk)
    for damage in DAMAGES:
        desk.write(damage)
    found = verify(desk.warehouse)
    assert not found.ok
    for sentence in DAMAGES.values():
        assert any(told.startswith(sentence) for told in found.differences), (sentence, found.differences)
    assert len(found.differences) == len(DAMAGES)


def test_the_last_digits_of_a_float_are_no_difference(desk: Desk) -> None:
    sold(desk).write("UPDATE marts.order_value_by_discount SET aov = aov * (1 + 1e-13)")
    assert verify(desk.warehouse).ok


def test_a_published_file_that_somebody_changed_is_found(desk: Desk) -> None:
    sold(desk)
    desk.settings.published_file.chmod(0o644)
    with duckdb.connect(str(desk.settings.published_file)) as con:
        con.execute("UPDATE orders_with_discount SET amount_total = 1 WHERE order_id = 1")
    (told,) = verify(desk.warehouse).differences
    assert told == (
        "orders_with_discount as published, order_id 1, order_date 2024-05-01: "
        "amount_total is 1.00, recomputed 107.50"
    )


def test_what_is_yet_to_be_computed_or_published_is_told_and_not_compared(desk: Desk) -> None:
    sold(desk)
    desk.write("UPDATE meta.marts SET version = NULL WHERE name = 'avg_order_value_by_discount'")
    desk.write("UPDATE marts.avg_order_value_by_discount SET n_orders = 0")
    found = verify(desk.warehouse)
    assert found.ok
    assert found.not_compared[0] == "avg_order_value_by_discount is yet to be computed (`pharmacy-bi sync`)."


def test_many_differences_are_counted(desk: Desk) -> None:
    for number in range(130):
        desk.log.change("orders", "c", None, order(number + 1))
    desk.sync()
    desk.write("DELETE FROM marts.orders_with_discount")
    found = verify(desk.warehouse)
    assert len(found.differences) == 101
    assert found.differences[-1] == "marts.orders_with_discount: 30 rows more differ."


def test_nothing_is_left_behind_and_the_core_file_is_not_written(desk: Desk) -> None:
    sold(desk)
    before = sorted(desk.settings.data_dir.rglob("*"))
    bytes_ = desk.settings.core_file.read_bytes()
    verify(desk.warehouse)
    assert sorted(desk.settings.data_dir.rglob("*")) == before
    assert desk.settings.core_file.read_bytes() == bytes_


def test_what_a_killed_one_left_is_removed(desk: Desk) -> None:
    left = sold(desk).settings.data_dir / ".verify-killed"
    left.mkdir()
    Path(left / "stored.duckdb").touch()
    verify(desk.warehouse)
    assert not left.exists()


def test_a_log_that_was_damaged_agrees_again_after_a_rewind(desk: Desk) -> None:
    sold(desk).write("UPDATE cdc.orders SET amount_total = 1, _valid_to = _valid_from")
    assert not verify(desk.warehouse).ok
    rewind(desk.warehouse, "1970-01-01")
    assert verify(desk.warehouse).ok
