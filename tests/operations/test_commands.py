"""The operator's commands in the terminal: what they print, as tables and as JSON, and their exit codes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bi_assets.cli import main
from bi_assets.operations.erase import erase
from tests.landing.messages import order, user
from tests.operations.desk import Desk


@pytest.fixture
def trouble(desk: Desk) -> Desk:
    """Two patients, two orders, and a change of patient 1 that can't land."""
    log = desk.log
    for patient in (1, 2):
        log.change("users", "c", None, user(patient))
        log.change("orders", "c", None, order(patient, hours=3, user_id=patient), hours=3)
    log.change("users", "u", user(1), user(1, 7.5), hours=2)
    desk.sync()
    return desk


def call(desk: Desk, *words: str, typed: str = "") -> Result:
    settings = desk.settings
    environment = {
        "BI_DATA_DIR": str(settings.data_dir),
        "KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "COLUMNS": "200",
    }
    return CliRunner().invoke(main, list(words), env=environment, input=typed)


def as_json(desk: Desk, *words: str) -> Any:
    result = call(desk, *words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_quarantine(trouble: Desk) -> None:
    (listed,) = as_json(trouble, "quarantine", "list")
    assert (listed["partition"], listed["offset"], listed["payload_kept"]) == (0, 2, False)
    told = as_json(trouble, "quarantine", "show", "users/0/2")
    assert told["message"]["after"]["practitioner_discount"] == 7.5
    shown = call(trouble, "quarantine", "show", "users/0/2").output
    assert '"id": "(pseudonym)"' in shown and "practitioner_discount is not a valid double" in shown
    assert as_json(trouble, "quarantine", "replay") == {
        "read": 1, "landed": 0, "released": 0, "erased": 0, "still_quarantined": 1, "lost": {},
        "refreshed": [],
    }  # fmt: skip
    assert (
        "1 read again, 0 landed, 1 still in quarantine, 0 lost"
        in call(trouble, "quarantine", "replay").output
    )
    assert "not in quarantine" in call(trouble, "quarantine", "replay", "users/0/1").output


def test_the_list_of_what_is_in_quarantine_says_once_what_to_do(trouble: Desk) -> None:
    trouble.log.raw("orders", b'{"id":9}', b"{cut off")
    trouble.sync()
    first, second = as_json(trouble, "quarantine", "list")
    assert first["what_to_do"] == second["what_to_do"]
    shown = " ".join(call(trouble, "quarantine", "list").output.split())
    assert "what_to_do" not in shown
    assert shown.count(first["what_to_do"]) == 1
    assert "our settings" in shown


def test_status_counts_the_orders_in_doubt(trouble: Desk) -> None:
    told = json.loads(call(trouble, "status", "--json").output)
    assert told["quarantined_orders"] == 1
    assert "1 orders stay out of the averages by discount" in call(trouble, "status").output


def test_what_is_of_an_erased_patient_is_told(desk: Desk) -> None:
    desk.log.change("users", "c", None, user(1))
    desk.sync()
    assert "erased" not in call(desk, "rewind", "--to", "users/0:0").output
    erase(desk.warehouse, 1)
    assert "1 kept out, of erased" in call(desk, "rewind", "--to", "users/0:0").output


def test_rewind(trouble: Desk) -> None:
    told = as_json(trouble, "rewind", "--to", "2024-05-01T14:00")
    assert told["begins"] == {"shop.shop.orders/0": 0, "shop.shop.users/0": 2}
    assert (told["read"], told["replaced"], told["landed"]) == (3, 0, 0)
    shown = call(trouble, "rewind", "--to", "orders/0:1")
    assert "1 read again: 0 rows replaced, 0 new, 0 in quarantine" in shown.output
    wrong = call(trouble, "rewind", "--to", "last week")
    assert wrong.exit_code == 1 and "neither a time" in wrong.output


def test_verify(trouble: Desk) -> None:
    assert as_json(trouble, "verify")["ok"] is True
    assert "everything is as the change logs say" in call(trouble, "verify").output
    trouble.write("DELETE FROM marts.orders_with_discount WHERE order_id = 2")
    result = call(trouble, "verify")
    assert result.exit_code == 1
    assert "marts.orders_with_discount, order_id 2, order_date 2024-05-01: is missing." in result.output
    assert json.loads(call(trouble, "verify", "--json").output)["ok"] is False


def test_erase(trouble: Desk) -> None:
    told = as_json(trouble, "erase", "1")
    assert {"from": "cdc.users", "rows": 1} in told["removed"]
    assert told["beyond_reach"]
    assert trouble.published("SELECT order_id FROM orders_with_discount") == [(2,)]
    shown = call(trouble, "erase", "2", "--yes").output
    assert "Beyond reach" in shown and "cdc.orders" in shown
    assert trouble.query("SELECT count(*) FROM cdc.quarantine") == [(0,)]


def test_erase_asks_first(trouble: Desk) -> None:
    before = trouble.contents()
    for typed in ("", "\n", "n\n"):
        assert call(trouble, "erase", "1", typed=typed).exit_code == 1
    assert trouble.contents() == before
    assert trouble.query("SELECT count(*) FROM meta.erased") == [(0,)]
    assert call(trouble, "erase", "1", typed="y\n").exit_code == 0
    assert trouble.query("SELECT count(*) FROM cdc.users") == [(1,)]


@pytest.mark.parametrize("number", ["0", "-1", str(2**63), "1.5", "Anna"])
def test_erase_takes_only_what_can_be_a_patients_id(trouble: Desk, number: str) -> None:
    result = call(trouble, "erase", "--json", "--", number)
    assert result.exit_code == 2 and "PATIENT_ID" in result.output


def test_erase_says_where_there_was_nothing_to_erase(trouble: Desk) -> None:
    assert as_json(trouble, "erase", "1")["note"] is None
    unknown = call(trouble, "erase", "4711", "--yes").output
    assert "nothing of this patient had landed; they are kept out from now on" in unknown
    ((kept,),) = trouble.query("SELECT receipt FROM meta.erasures ORDER BY erased_at DESC LIMIT 1")
    assert "nothing of this patient had landed;" in json.loads(kept)["note"]
    assert "since they were erased" in as_json(trouble, "erase", "1")["note"]
