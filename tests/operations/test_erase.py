"""A patient who is erased is nowhere any more, in no column and in no byte, and does not come back."""

from __future__ import annotations

import json
import random
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from bi_assets.definitions import definitions
from bi_assets.landing.columns import token
from bi_assets.operations.erase import erase
from bi_assets.operations.quarantine import replay
from bi_assets.operations.rewind import rewind
from bi_assets.operations.verify import verify
from shop.broker import EmbeddedBroker
from tests.crash_driver import ERASED
from tests.landing.messages import NOON, order, user
from tests.lives import lives
from tests.operations.desk import Desk

ANNA, BEN = int(ERASED), 700_000_000_000_000_002
"""Patients whose ids are markers themselves."""
KEY = "a pseudonym key"


class Life:
    """What Anna and Ben have done at the shop; every text of Anna's is a marker that nobody else has."""

    def __init__(self) -> None:
        self.markers: list[str] = []
        self.of_ben: list[str] = []

    def mark(self, patient: int) -> str:
        """Return a text to be planted in a row of this patient."""
        text = f"{'anna' if patient == ANNA else 'ben'}{secrets.token_hex(24)}"
        (self.markers if patient == ANNA else self.of_ben).append(text)
        return text

    def live(self, desk: Desk, patient: int, first: int) -> None:
        """Send all kinds of rows of a patient, with ids from `first` on."""
        log = desk.log
        log.change("users", "r", None, user(patient))
        log.change("users", "u", user(patient), user(patient, -9.0), hours=2)
        bought = order(
            first, user_id=patient, transaction_id=self.mark(patient), voucher_code=self.mark(patient)
        )
        log.change("orders", "c", None, bought, hours=1)
        log.change("orders", "u", bought, {**bought, "transaction_id": self.mark(patient)}, hours=3)
        log.change(
            "order_items", "c", None, {"id": first, "order_id": first, "product_id": first, "quantity": 1}
        )
        prescribed = {"id": first, "user_id": patient, "practitioner_id": 1, "issued_at": NOON}
        log.change("prescriptions", "c", None, prescribed)
        item: dict[str, Any] = {"id": first, "prescription_id": first, "product_id": 1, "quantity": 1}
        item["dosage_instructions"] = self.mark(patient)
        log.change("prescription_items", "c", None, item)
        corrected = {**item, "dosage_instructions": self.mark(patient)}
        log.change("prescription_items", "u", item, corrected, hours=1)
        log.change("favourite_products", "c", None, {"user_id": patient, "product_id": 1})
        # in quarantine: of the patient by key, and by what the message says
        log.change("users", "u", user(patient), user(patient, 7.0), hours=5)
        bad = order(first + 1, hours=6, user_id=patient, amount_total="-1", transaction_id=self.mark(patient))
        log.change("orders", "c", None, bad, hours=6)


with_and_without_pseudonyms = pytest.mark.parametrize("key", [None, KEY], ids=["plain ids", "pseudonyms"])


@pytest.fixture
def key() -> str | None:
    return KEY


@pytest.fixture
def desk(broker: EmbeddedBroker, tmp_path: Path, key: str | None) -> Desk:
    return Desk(broker, tmp_path / "data", pseudonym_key=key, quarantine_key="a quarantine key")


@pytest.fixture
def life(desk: Desk) -> Life:
    life = Life()
    life.live(desk, ANNA, 100)
    life.live(desk, BEN, 200)
    desk.sync()
    # a second publication, so that there is one before it
    desk.log.change("orders", "c", None, order(300, user_id=BEN, transaction_id=life.mark(BEN)))
    desk.sync()
    (desk.settings.publish_dir / "parquet").mkdir()
    with duckdb.connect(str(desk.settings.published_file), read_only=True) as con:
        con.execute(f"COPY orders_with_discount TO '{desk.settings.publish_dir}/parquet/orders.parquet'")
    return life


def stored_id(patient: int, key: str | None) -> str:
    if key is None:
        return str(patient)
    with duckdb.connect() as con:
        ((text,),) = con.execute(f"SELECT {token(repr(str(patient)), key)}").fetchall()
    return str(text)


def columns_with(folder: Path, texts: list[str]) -> dict[str, set[str]]:
    """Return, for each text, the tables in whose columns it is found: of every database in a folder."""
    found: dict[str, set[str]] = {text: set() for text in texts}
    for name, rows in _tables(folder):
        told = repr(rows)
        for text in texts:
            if text in told:
                found[text].add(name)
    return found


def _tables(folder: Path) -> Iterator[tuple[str, list[Any]]]:
    for file in folder.rglob("*.duckdb"):
        with duckdb.connect(str(file), read_only=True) as con:
            con.execute("SET TimeZone = 'UTC'")
            con.execute("CREATE TEMP MACRO business_date(utc) AS CAST(utc AS DATE)")
            for (name,) in con.execute(
                "SELECT schema_name || '.' || table_name FROM duckdb_tables() WHERE NOT temporary UNION ALL "
                "SELECT schema_name || '.' || view_name FROM duckdb_views() WHERE NOT internal"
            ).fetchall():
                yield f"{file.name}: {name}", con.execute(f"FROM {name}").fetchall()
    for db in folder.rglob("*.db"):
        with sqlite3.connect(db) as lite:
            for (name,) in lite.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                yield f"{db.name}: {name}", lite.execute(f"SELECT * FROM {name}").fetchall()


def files_with(folder: Path, text: str) -> set[str]:
    """Return the files in whose bytes a text is found."""
    return {f.name for f in folder.rglob("*") if f.is_file() and text.encode() in f.read_bytes()}


@with_and_without_pseudonyms
def test_nothing_remains_of_an_erased_patient_in_any_column_or_byte(
    desk: Desk, life: Life, key: str | None
) -> None:
    folder = desk.settings.data_dir
    id_ = stored_id(ANNA, key)
    # The search finds what is there, in columns and in bytes.
    told = columns_with(folder, [*life.markers, id_])
    in_quarantine = life.markers[-1]  # sealed: in no column, in no byte
    assert not told.pop(in_quarantine)
    assert all(told.values()), told
    assert {"core.duckdb: cdc.users", "core.duckdb: history.orders", "core.duckdb: cdc.quarantine",
            "core.duckdb: cdc.favourite_products", "core.duckdb: marts.orders_with_discount",
            "marts.duckdb: main.orders_with_discount"} <= told[id_]  # fmt: skip
    with desk.warehouse.open() as con:
        con.execute("CHECKPOINT")
    for marker in life.markers[:-1]:
        assert "core.duckdb" in files_with(folder, marker)
    if key:
        assert {"core.duckdb", "marts.duckdb", ".marts.duckdb.previous"} <= files_with(folder, id_)

    receipt = erase(desk.warehouse, ANNA)

    told = columns_with(folder, [*life.markers, id_, str(ANNA)])
    assert not any(told.values()), told
    forms = [*life.markers, str(ANNA), *([id_] if key else [])]
    assert {form: files for form in forms if (files := files_with(folder, form))} == {}
    for form in (ANNA.to_bytes(8, "little"), ANNA.to_bytes(8, "big")):
        assert not [f for f in folder.rglob("*") if f.is_file() and form in f.read_bytes()]
    removed = {row["from"]: row["rows"] for row in receipt["removed"]}
    assert removed == {
        "cdc.users": 2,
        "cdc.orders": 2,
        "cdc.order_items": 1,
        "cdc.prescriptions": 1,
        "cdc.prescription_items": 2,
        "cdc.favourite_products": 1,
        "cdc.quarantine": 2,
        "marts.orders_with_discount": 1,
        **{name: n for name, n in removed.items() if name.startswith("marts.") and "orders_with" not in name},
    }
    assert any("topics" in line for line in receipt["beyond_reach"])


def test_another_patient_keeps_everything(desk: Desk, life: Life, key: str | None) -> None:
    folder = desk.settings.data_dir
    wanted = [*life.of_ben, stored_id(BEN, key)]
    before = columns_with(folder, wanted)
    erase(desk.warehouse, ANNA)
    after = columns_with(folder, wanted)
    assert after == {
        text: {name for name in names if not name.startswith(".marts")} for text, names in before.items()
    }
    assert desk.query("SELECT count(*) FROM cdc.quarantine") == [(2,)]
    assert desk.published("SELECT order_id FROM orders_with_discount ORDER BY 1") == [(200,), (300,)]
    assert verify(desk.warehouse).ok


def test_what_is_read_again_of_an_erased_patient_does_not_land(desk: Desk, life: Life) -> None:
    erase(desk.warehouse, ANNA)
    before = desk.contents()
    done = rewind(desk.warehouse, "1970-01-01")
    assert done.erased == 11
    assert (done.landed, done.replaced) == (0, 0)
    assert desk.contents() == before
    replay(desk.warehouse)
    assert not any(columns_with(desk.settings.data_dir, life.markers).values())


@with_and_without_pseudonyms
def test_what_comes_new_of_an_erased_patient_is_counted_and_not_kept(
    desk: Desk, life: Life, key: str | None
) -> None:
    erase(desk.warehouse, ANNA)
    before = desk.contents()
    again = Life()
    again.live(desk, ANNA, 500)
    desk.sync()
    desk.log.change("order_items", "c", None, {"id": 509, "order_id": 500, "product_id": 5, "quantity": 1})
    desk.sync()
    assert desk.contents() == before
    assert not any(columns_with(desk.settings.data_dir, [*again.markers, stored_id(ANNA, key)]).values())
    assert desk.query("SELECT count(*) FROM cdc.quarantine") == [(2,)]
    assert desk.query("SELECT sum(erased) FROM meta.batches")[0][0] >= 9


def test_an_order_that_was_another_patients_once(desk: Desk, key: str | None) -> None:
    """What is theirs now goes with its history; what was theirs and is another's stays from then on."""
    log = desk.log
    for patient in (ANNA, BEN):
        log.change("users", "c", None, user(patient))
    for number, (first, then) in enumerate([(ANNA, BEN), (BEN, ANNA)], start=1):
        was, is_ = order(number, user_id=first), order(number, user_id=then)
        log.change("orders", "c", None, was, hours=1)
        log.change("orders", "u", was, is_, hours=2)
    desk.sync()
    erase(desk.warehouse, ANNA)
    assert desk.query("SELECT id, user_id, _op FROM cdc.orders") == [
        (1, int(stored_id(BEN, key)) if key is None else stored_id(BEN, key), "u")
    ]
    assert not any(columns_with(desk.settings.data_dir, [stored_id(ANNA, key)]).values())
    before = desk.contents()
    rewind(desk.warehouse, "1970-01-01")
    assert desk.contents() == before
    assert verify(desk.warehouse).ok


def test_the_receipt_is_kept_and_names_nobody(desk: Desk, life: Life, key: str | None) -> None:
    receipt = erase(desk.warehouse, ANNA)
    ((at, token_, kept),) = desk.query("SELECT * FROM meta.erasures")
    assert json.loads(kept) == json.loads(json.dumps(receipt, default=str))
    assert (at, token_) == (receipt["erased_at"], receipt["token"])
    assert str(ANNA) not in kept and stored_id(ANNA, key) not in kept


def test_patients_messages_without_a_readable_key_may_be_theirs_and_are_told(desk: Desk) -> None:
    desk.log.change("users", "c", None, user(ANNA))
    for key in (None, f"garbage {ANNA}".encode()):
        desk.log.raw("users", key, b'{"after": {"id": ')
    desk.log.raw("users", b'{"id":%d}' % BEN, b'{"after": {"id": ')
    desk.sync()
    receipt = erase(desk.warehouse, ANNA)
    assert "2 messages in quarantine can't be read, and may be of anybody" in receipt["beyond_reach"]


def test_broken_messages_about_rows_of_an_erased_patient_are_not_kept(desk: Desk, life: Life) -> None:
    erase(desk.warehouse, ANNA)
    before = desk.query("SELECT key_token FROM cdc.quarantine ORDER BY ALL")
    of_anna = [
        ("orders", b'{"id":100}'),
        ("prescriptions", b'{"id":100}'),
        ("favourite_products", b'{"user_id":%d,"product_id":1}' % ANNA),
    ]
    of_ben = [
        ("orders", b'{"id":200}'),
        ("order_items", b'{"id":100}'),
        ("favourite_products", b'{"user_id":%d,"product_id":1}' % BEN),
    ]
    for table, key in of_anna + of_ben:
        desk.log.raw(table, key, b"{cut off")
    desk.sync()
    ((erased, quarantined),) = desk.query(
        "SELECT erased, quarantined FROM meta.batches ORDER BY batch_id DESC LIMIT 1"
    )
    assert (erased, quarantined) == (len(of_anna), len(of_ben))
    assert len(desk.query("SELECT key_token FROM cdc.quarantine")) == len(before) + len(of_ben)


def test_to_erase_twice_or_somebody_unknown_is_harmless(desk: Desk, life: Life) -> None:
    erase(desk.warehouse, ANNA)
    before = desk.contents()
    assert erase(desk.warehouse, ANNA)["removed"] == []
    assert erase(desk.warehouse, 4711)["removed"] == []
    assert desk.contents() == before


def test_a_mart_that_fails_its_check_is_not_published_as_it_was(
    desk: Desk, life: Life, key: str | None
) -> None:
    """Its last good version has the patient."""
    desk.write("INSERT INTO meta.checks VALUES ('orders_with_discount', 'made_up', 'error', 1, NULL, true)")
    erase(desk.warehouse, ANNA)
    assert not columns_with(desk.settings.publish_dir, [stored_id(ANNA, key)])[stored_id(ANNA, key)]


def test_one_that_is_killed_again_and_again_is_completed_by_the_next(
    broker: EmbeddedBroker, tmp_path: Path
) -> None:
    rng = random.Random(7)
    desk = Desk(broker, tmp_path / "data")
    life = Life()
    life.live(desk, ANNA, 100)
    life.live(desk, BEN, 200)
    desk.sync()
    longest, committed = 0.5, 0
    with lives(desk.settings, "erase") as erasures:
        while committed < 3 and not erasures.live(rng.uniform(0.1, longest)):
            longest *= 1.2
            committed += desk.query("SELECT count(*) FROM meta.erased") != [(0,)]
        assert erasures.live(60)
    assert erasures.kills
    assert not any(columns_with(desk.settings.data_dir, [*life.markers, str(ANNA)]).values())
    assert not [m for m in [*life.markers, str(ANNA)] if files_with(desk.settings.data_dir, m)]
    # One that was killed at its very end was complete.
    receipts = [json.loads(receipt) for (receipt,) in desk.query("SELECT receipt FROM meta.erasures")]
    assert all(receipt["files"] for receipt in receipts)
    assert [row["rows"] for r in receipts for row in r["removed"] if row["from"] == "cdc.orders"] == [2]
    assert verify(desk.warehouse).ok


def test_nothing_remains_in_what_dagster_keeps(
    broker: EmbeddedBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(broker, tmp_path / "data", pseudonym_key=KEY)
    life = Life()
    life.live(desk, ANNA, 100)
    life.live(desk, BEN, 200)
    desk.send()
    environment = {
        "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        "BI_PSEUDONYM_KEY": KEY,
        "BI_DATA_DIR": str(desk.settings.data_dir),
        "BI_LINGER_SECONDS": "0.1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    home = desk.settings.dagster_home
    home.mkdir(parents=True)
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        job = definitions().resolve_job_def("micro_batch")
        assert job.execute_in_process(instance=instance).success
    assert any(home.rglob("*.db"))
    assert desk.query("SELECT count(*) FROM cdc.orders") == [(4,)]
    assert files_with(desk.settings.data_dir, stored_id(ANNA, KEY))
    erase(desk.warehouse, ANNA)
    for form in (*life.markers, str(ANNA), stored_id(ANNA, KEY)):
        assert not files_with(desk.settings.data_dir, form), form
