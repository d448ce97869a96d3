"""The shop's database keeps rows and binlog together."""

from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from shop.change import Change, Transaction
from shop.store import SqliteShop

AT = datetime(2024, 2, 29, 12, 30, 15, 123_000, tzinfo=UTC)


def clinics(*numbers: int, name: str = "x") -> list[Change]:
    return [Change("clinics", "insert", {"id": n}, {"id": n, "name": name}) for n in numbers]


def test_values_come_back_as_they_were(tmp_path: Path) -> None:
    row: dict[str, Any] = {
        "id": 1,
        "user_id": 2,
        "practitioner_id": 3,
        "issued_at": AT,
        "valid_until": date(2024, 5, 29),
        "voided_at": None,
    }
    product = {
        "id": 1,
        "brand_id": 1,
        "name": "ü",
        "size": "",
        "availability": "general",
        "wholesale_price": Decimal("0.10"),
        "rrp": Decimal("1234567890.10"),
        "stock": 0,
    }
    shop = SqliteShop(tmp_path / "shop.sqlite")
    changes = [
        Change("prescriptions", "insert", {"id": 1}, row),
        Change("products", "insert", {"id": 1}, product),
    ]
    shop.apply([Transaction(AT, changes)], {})
    assert list(shop.rows("prescriptions")) == [row]
    assert list(shop.rows("prescriptions", "issued_at >= ?", AT)) == [row]
    assert str(next(shop.rows("products"))["rrp"]) == "1234567890.10"
    first, second = shop.binlog(None, 10)
    assert (first.op, first.before, first.after) == ("c", None, row)
    assert second.after == {**product, "wholesale_price": "0.10", "rrp": "1234567890.10"}
    assert first.ts == int(AT.timestamp())


def test_rows_of_one_statement_share_a_position(tmp_path: Path) -> None:
    shop = SqliteShop(tmp_path / "shop.sqlite")
    update = Change("clinics", "update", {"id": 1}, {"name": "y"})
    shop.apply([Transaction(AT, [*clinics(1, 2), update, update, *clinics(3)])], {})
    positions = [row.position for row in shop.binlog(None, 10)]
    assert [position.row for position in positions] == [0, 1, 0, 0, 0]
    assert len({position.pos for position in positions}) == 4
    assert positions == sorted(positions)


def test_a_full_binlog_file_is_followed_by_the_next_from_position_4(tmp_path: Path) -> None:
    shop = SqliteShop(tmp_path / "shop.sqlite", binlog_file_bytes=1_000)
    for number in range(20):
        shop.apply([Transaction(AT, clinics(number))], {})
    rows = shop.binlog(None, 100)
    files = [row.position.file for row in rows]
    assert [row.position for row in rows] == sorted(row.position for row in rows)
    assert files[0] == "binlog.000001" and files[-1] > "binlog.000003"
    assert any(b.position.pos < a.position.pos for a, b in pairwise(rows))


def test_opening_it_again_starts_a_new_file_and_forgets_nothing(tmp_path: Path) -> None:
    shop = SqliteShop(tmp_path / "shop.sqlite")
    shop.apply([Transaction(AT, clinics(1))], {"mood": ["good"]})
    shop.close()
    again = SqliteShop(tmp_path / "shop.sqlite")
    again.apply([Transaction(AT, clinics(2))], {})
    assert [row.position.file for row in again.binlog(None, 9)] == [
        "binlog.000001",
        "binlog.000002",
    ]
    assert again.note("mood") == ["good"]
    assert again.changes == 2


def test_a_failing_transaction_leaves_nothing_behind(tmp_path: Path) -> None:
    shop = SqliteShop(tmp_path / "shop.sqlite")
    shop.apply([Transaction(AT, clinics(1))], {})
    before = shop.position
    bad = Change("clinics", "update", {"id": 9}, {"name": "y"})
    with pytest.raises(LookupError, match="clinics"):
        shop.apply([Transaction(AT, clinics(2)), Transaction(AT, [bad])], {"mood": 1})
    assert [row["id"] for row in shop.rows("clinics")] == [1]
    assert (len(shop.binlog(None, 9)), shop.position, shop.note("mood")) == (1, before, None)


def test_purging_keeps_what_is_behind_the_position(tmp_path: Path) -> None:
    shop = SqliteShop(tmp_path / "shop.sqlite")
    shop.apply([Transaction(AT, clinics(1, 2, 3))], {})
    first, second, third = shop.binlog(None, 9)
    shop.purge(second.position, {"landed": second.position})
    assert shop.binlog(None, 9) == shop.binlog(second.position, 9) == [third]
    assert shop.note("landed") == list(second.position)
    assert first.position < second.position
