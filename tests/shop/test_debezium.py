"""The bytes are those of Debezium's MySQL connector 3.2."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from shop import debezium
from shop.schema import TABLES

AT = {"source_ts_ms": 1_700_000_000_000, "file": "binlog.000001", "pos": 4}


def value(table: str, row: dict[str, Any], **more: Any) -> Any:
    at: dict[str, Any] = {**AT, "row": 0, **more}
    return json.loads(debezium.envelope(table, "c", None, row, **at)[1])


def test_envelope_has_debeziums_fields_in_debeziums_order() -> None:
    found = value("clinics", {"id": 1, "name": "Küste"}, ts_ms=5)
    assert list(found) == ["before", "after", "source", "transaction", "op", "ts_ms", "ts_us", "ts_ns"]
    assert found["source"] == {
        "version": "3.2.0.Final",
        "connector": "mysql",
        "name": "shop",
        "ts_ms": 1_700_000_000_000,
        "snapshot": "false",
        "db": "shop",
        "sequence": None,
        "ts_us": 1_700_000_000_000_000,
        "ts_ns": 1_700_000_000_000_000_000,
        "table": "clinics",
        "server_id": 1,
        "gtid": None,
        "file": "binlog.000001",
        "pos": 4,
        "row": 0,
        "thread": 11,
        "query": None,
    }
    assert (found["ts_ms"], found["ts_us"], found["ts_ns"]) == (5, 5_000, 5_000_000)
    assert found["after"] == {"id": 1, "name": "Küste"}


def test_text_is_utf8_without_spaces_between() -> None:
    key, raw = debezium.envelope("clinics", "c", None, {"id": 1, "name": "Kü"}, row=0, **AT)  # type: ignore[arg-type]
    assert key == b'{"id":1}'
    assert '"after":{"id":1,"name":"Kü"}'.encode() in raw


@pytest.mark.parametrize(
    ("table", "column", "given", "sent"),
    [
        ("orders", "amount_total", Decimal("91.6"), "91.60"),
        ("orders", "amount_total", 5, "5.00"),
        ("orders", "amount_total", None, None),
        ("orders", "date", datetime(1970, 1, 1, 0, 0, 1, 5000, tzinfo=UTC), 1005),
        ("orders", "date", datetime(1970, 1, 1, 0, 0, 1, 5000), 1005),  # noqa: DTZ001 - DATETIME has no zone
        ("orders", "transaction_id", None, None),
        ("prescriptions", "valid_until", date(1970, 1, 3), 2),
        ("supply_restrictions", "allowed", True, 1),
        ("users", "practitioner_discount", -5, -5.0),
        ("users", "practitioner_discount", Decimal("-5.5"), -5.5),
        ("products", "availability", "general", "general"),
    ],
)
def test_values_take_the_form_of_their_column(table: str, column: str, given: Any, sent: Any) -> None:
    key = dict.fromkeys(TABLES[table].key, 1)
    found = value(table, {**key, column: given})["after"][column]
    assert found == sent
    assert type(found) is type(sent)


def test_an_unknown_column_is_sent_after_the_known_ones() -> None:
    found = value("clinics", {"colour": Decimal("1.5"), "id": 1, "name": "x"})["after"]
    assert list(found.items()) == [("id", 1), ("name", "x"), ("colour", "1.5")]


def test_personal_columns_are_left_out() -> None:
    row = {column.name: f"secret {column.name}" for column in TABLES["users"].columns}
    found = value("users", {**row, "id": 1})["after"]
    assert list(found) == [
        "id",
        "practitioner_id",
        "clinic_id",
        "practitioner_discount",
        "register_date",
    ]
    assert len(TABLES["users"].personal) == 7
    assert TABLES["practitioners"].personal == ("registration_number",)


def test_snapshot_rows_have_no_server_and_no_thread() -> None:
    source = value("clinics", {"id": 1, "name": "x"}, snapshot="last")["source"]
    assert (source["snapshot"], source["server_id"], source["thread"]) == ("last", 0, None)


def test_a_delete_is_followed_by_its_tombstone() -> None:
    row = {"user_id": 1, "product_id": 2}
    first, second = debezium.messages("favourite_products", "d", row, None, row=0, **AT)  # type: ignore[arg-type]
    assert json.loads(first.value or b"")["op"] == "d"
    assert json.loads(first.value or b"")["before"] == row
    assert json.loads(first.value or b"")["after"] is None
    assert second == (first.topic, b'{"user_id":1,"product_id":2}', None, [])


def test_a_changed_key_is_a_delete_its_tombstone_and_a_create() -> None:
    old = {"code": "A", "amount_off": Decimal(5)}
    new = {"code": "B", "amount_off": Decimal(5)}
    deleted, tombstone, created = debezium.messages("vouchers", "u", old, new, row=0, **AT)  # type: ignore[arg-type]
    assert json.loads(deleted.value or b"")["op"] == "d"
    assert deleted.headers == [("__debezium.newkey", b'{"code":"B"}')]
    assert tombstone.value is None and tombstone.key == deleted.key == b'{"code":"A"}'
    assert json.loads(created.value or b"")["op"] == "c"
    assert json.loads(created.value or b"")["before"] is None
    assert created.headers == [("__debezium.oldkey", b'{"code":"A"}')]


def test_a_change_without_images_is_refused() -> None:
    with pytest.raises(ValueError, match="image"):
        debezium.envelope("clinics", "u", None, None, row=0, **AT)  # type: ignore[arg-type]


def test_heartbeat_has_debeziums_topic_and_key() -> None:
    found = debezium.heartbeat(7)
    assert found == ("__debezium-heartbeat.shop", b'{"serverName":"shop"}', b'{"ts_ms":7}', [])
