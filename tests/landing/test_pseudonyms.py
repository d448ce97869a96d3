"""With a key, patients are tokens everywhere, and their ids nowhere."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest

from bi_assets.errors import UserError
from bi_assets.settings import Settings
from bi_assets.warehouse import Warehouse
from tests import oracle
from tests.landing.messages import NOON, Log, order, user
from tests.platform import Platform, contracts, marts

PATIENT, OTHER = 918_273_645_546_372, 817_263_544_536_271
KEYS = ["k", "a key of ordinary length", "long " * 40, "schlüssel-ß-😀"]


def token(patient: int, key: str) -> str:
    return hmac.new(key.encode(), str(patient).encode(), hashlib.sha256).hexdigest()


def log_of_patients() -> Log:
    log = Log()
    log.change("users", "c", None, user(PATIENT))
    log.change("users", "u", user(PATIENT), user(PATIENT, -6.0), hours=3)
    log.change("users", "c", None, user(OTHER))
    log.change("users", "d", user(OTHER), None, hours=4)
    log.change("orders", "c", None, order(1, user_id=PATIENT))
    log.change("orders", "u", order(1, user_id=PATIENT), order(1, user_id=OTHER), hours=2)
    log.change("orders", "c", None, order(2, 5, user_id=PATIENT), hours=5)
    prescription = {"id": 1, "user_id": PATIENT, "practitioner_id": 1, "issued_at": NOON}
    log.change("prescriptions", "c", None, prescription)
    log.change("favourite_products", "c", None, {"user_id": PATIENT, "product_id": 1})
    log.raw("users", b'{"id":%d}' % PATIENT, b'{"op":"c","after":{"id":%d' % PATIENT)
    log.raw("favourite_products", b'{"user_id":%d,"product_id":1}' % PATIENT, b"{")
    log.raw("orders", b'{"id":3}', b'{"op":"c","after":{"id":3,"user_id":"%d x"}}' % PATIENT)
    return log


def with_key(key: str | None, folder: Path = Path("unused"), file: Path | None = None) -> Platform:
    return Platform(Settings(data_dir=folder, pseudonym_key=key), file=file)


@pytest.mark.parametrize("key", KEYS)
def test_tokens_are_the_standard_keyed_hash(key: str) -> None:
    with with_key(key) as platform:
        platform.land(log_of_patients().messages)
        found = {
            (table, row["user_id" if table != "users" else "id"])
            for table in ("users", "orders", "prescriptions", "favourite_products")
            for row in platform.rows(f"cdc.{table}")
        }
    assert found == {
        ("users", token(PATIENT, key)),
        ("users", token(OTHER, key)),
        ("orders", token(PATIENT, key)),
        ("orders", token(OTHER, key)),
        ("prescriptions", token(PATIENT, key)),
        ("favourite_products", token(PATIENT, key)),
    }


def test_the_quarantine_names_a_patient_by_the_same_token() -> None:
    with with_key(KEYS[0]) as platform:
        platform.land(log_of_patients().messages)
        tokens = {row["table_name"]: row["key_token"] for row in platform.rows("cdc.quarantine")}
    assert tokens["users"] == token(PATIENT, KEYS[0])
    assert token(PATIENT, KEYS[0]) in tokens["favourite_products"]


def test_plain_ids_are_nowhere_in_the_database_file(tmp_path: Path) -> None:
    file = tmp_path / "core.duckdb"
    with with_key(KEYS[1], tmp_path, file) as platform:
        platform.land(log_of_patients().messages)
        platform.refresh()
        contents = file.read_bytes() + Path(f"{file}.wal").read_bytes()
        platform.con.execute("CHECKPOINT")
        contents += file.read_bytes()
    for patient in (PATIENT, OTHER):
        for form in (str(patient).encode(), patient.to_bytes(8, "little"), patient.to_bytes(8, "big")):
            assert form not in contents
        assert token(patient, KEYS[1]).encode() in contents  # the search would find it


def test_without_a_key_plain_ids_are_stored() -> None:
    with with_key(None) as platform:
        platform.land(log_of_patients().messages)
        assert {row["id"] for row in platform.rows("cdc.users")} == {PATIENT, OTHER}


def test_answers_are_the_same_with_and_without_a_key() -> None:
    # Without those that go to quarantine, which put their patient's discount in doubt.
    messages = [m for m in log_of_patients().messages if m.value and b'"source"' in m.value]
    model = oracle.marts(messages)["orders_with_discount"]
    with with_key(KEYS[0]) as platform:
        platform.land(messages)
        platform.refresh()
        rows = platform.rows("marts.orders_with_discount ORDER BY order_id")
    assert [row["patient_id"] for row in rows] == [token(row["patient_id"], KEYS[0]) for row in model]
    for found, expected in zip(rows, model, strict=True):
        assert {**found, "patient_id": None} == {**expected, "patient_id": None}


def test_another_key_is_refused(tmp_path: Path) -> None:
    def opened(key: str | None) -> None:
        settings = Settings(data_dir=tmp_path, pseudonym_key=key)
        with Warehouse(settings, contracts("users"), {}).open():
            pass

    opened("one")
    opened("one")
    for other in ("two", None):
        with pytest.raises(UserError, match="BI_PSEUDONYM_KEY has changed"):
            opened(other)


def test_the_key_itself_is_not_kept(tmp_path: Path) -> None:
    key = "a-secret-that-must-not-be-kept"
    settings = Settings(data_dir=tmp_path, pseudonym_key=key)
    with Warehouse(settings, contracts(), marts()).open() as con:
        con.execute("CHECKPOINT")
    assert key.encode() not in settings.core_file.read_bytes()
    assert key.encode().hex().encode() not in settings.core_file.read_bytes()


def test_every_column_that_names_a_patient_is_a_pseudonym() -> None:
    patients = {("users", "id")} | {
        (name, column.name)
        for name, contract in contracts().items()
        for column in contract.columns
        if column.name in ("user_id", "patient_id")
    }
    pseudonyms = {
        (name, column.name)
        for name, contract in contracts().items()
        for column in contract.columns
        if column.privacy == "pseudonym"
    }
    assert patients == pseudonyms
