"""What could not land is told, tried again, and puts in doubt only what depends on it."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bi_assets.errors import UserError
from bi_assets.landing.debezium_json import decode_sql
from bi_assets.operations.quarantine import replay, show
from shop.broker import EmbeddedBroker
from tests.landing.messages import order, user
from tests.operations.desk import Desk

SECRET = "0123456789-very-secret"
_SOURCES = "SELECT order_id, discount_source, discount FROM marts.orders_with_discount ORDER BY order_id"


def surcharge(desk: Desk, **columns: Any) -> None:
    """A change of patient 1 that breaks the contract as it stands, between two orders of theirs.

    The connector that sent it does not leave out any `columns`.
    """
    log = desk.log
    log.change("users", "c", None, user(1))
    log.change("orders", "c", None, order(1, hours=1), hours=1)
    key, value = log.bytes_of("users", "u", user(1), user(1, 7.5), hours=2)
    envelope = json.loads(value)
    envelope["after"] |= columns
    log.raw("users", key, json.dumps(envelope).encode())
    log.change("orders", "c", None, order(2, hours=3), hours=3)
    log.change("users", "c", None, user(2))
    log.change("orders", "c", None, order(3, hours=3, user_id=2), hours=3)


def allow_surcharges(desk: Desk) -> None:
    desk.with_contract("users", practitioner_discount={"maximum": Decimal(100)})


def test_orders_after_a_change_in_quarantine_are_in_doubt(desk: Desk) -> None:
    surcharge(desk)
    desk.sync()
    assert desk.query(_SOURCES) == [
        (1, "asof", Decimal("-5.00")),
        (2, "quarantined", None),
        (3, "asof", Decimal("-5.00")),
    ]
    assert desk.query("SELECT sum(n_orders) FROM marts.order_value_by_discount") == [(2,)]
    assert desk.query("SELECT n_orders FROM marts.avg_order_value_by_discount") == [(2,)]


def test_with_pseudonyms_the_patient_is_known_by_token(broker: EmbeddedBroker, tmp_path: Path) -> None:
    desk = Desk(broker, tmp_path, pseudonym_key="key")
    surcharge(desk)
    desk.sync()
    assert [source for _, source, _ in desk.query(_SOURCES)] == ["asof", "quarantined", "asof"]


def test_orders_that_had_landed_before_follow(desk: Desk) -> None:
    """The days of orders before a late message are computed again, the others are not."""
    log = desk.log
    log.change("users", "c", None, user(1))
    for number in range(1, 4):
        log.change("orders", "c", None, order(number, hours=24 * number), hours=1)
    desk.sync()
    log.change("users", "u", user(1), user(1, 7.5), hours=30)
    desk.send()
    desk.sync()
    assert [source for _, source, _ in desk.query(_SOURCES)] == ["asof", "quarantined", "quarantined"]


def test_a_replay_lands_what_the_contract_now_allows_and_restores_the_orders(desk: Desk) -> None:
    surcharge(desk)
    desk.sync()
    allow_surcharges(desk)
    done = replay(desk.warehouse)
    assert (done.read, done.landed, done.released, done.still_quarantined, done.lost) == (1, 1, 1, 0, {})
    assert desk.query("SELECT count(*) FROM cdc.quarantine") == [(0,)]
    # The check of the mart holds the surcharge back; the order is no longer in doubt.
    assert desk.query(_SOURCES)[1] == (2, "asof", Decimal("7.50"))


def test_a_replay_ends_where_landing_it_in_time_would_have(
    desk: Desk, broker: EmbeddedBroker, tmp_path: Path
) -> None:
    surcharge(desk)
    desk.log.change("users", "u", user(1, 7.5), user(1, -9.0), hours=4)
    desk.log.change("users", "u", user(1, -9.0), user(1, 3.0), hours=5, server_id=2)
    desk.log.change("users", "u", user(1, 3.0), user(1, -3.0), hours=6, server_id=2)
    desk.sync()
    allow_surcharges(desk)
    assert replay(desk.warehouse).landed == 2
    other = Desk(broker, tmp_path / "other")
    allow_surcharges(other)
    other.sync()
    place = "SELECT * EXCLUDE (_landed_at) FROM cdc.users ORDER BY _partition, _offset"
    assert desk.query(place) == other.query(place)
    assert desk.query(_SOURCES) == other.query(_SOURCES)


def test_to_replay_twice_is_harmless(desk: Desk) -> None:
    surcharge(desk)
    desk.sync()
    assert replay(desk.warehouse).still_quarantined == 1
    ((since,),) = desk.query("SELECT quarantined_at FROM cdc.quarantine")
    allow_surcharges(desk)
    replay(desk.warehouse)
    before = desk.contents()
    again = replay(desk.warehouse)
    assert (again.read, again.landed, again.refreshed) == (0, 0, [])
    assert desk.contents() == before
    assert since


def test_what_still_cannot_land_stays_as_it_was(desk: Desk) -> None:
    surcharge(desk)
    desk.sync()
    entry = "SELECT * FROM cdc.quarantine"
    before, marts = desk.query(entry), desk.contents()
    done = replay(desk.warehouse)
    assert (done.landed, done.still_quarantined, done.refreshed) == (0, 1, [])
    assert desk.query(entry) == before
    assert desk.contents() == marts


def test_only_the_places_named_are_replayed(desk: Desk) -> None:
    surcharge(desk)
    desk.log.change("users", "u", user(2), user(2, 4.0), hours=4)
    desk.sync()
    allow_surcharges(desk)
    (first, second) = desk.query('SELECT "offset" FROM cdc.quarantine ORDER BY ALL')
    assert replay(desk.warehouse, [f"users/0/{second[0]}"]).landed == 1
    assert desk.query('SELECT "offset" FROM cdc.quarantine') == [first]
    with pytest.raises(UserError, match="is not in quarantine"):
        replay(desk.warehouse, [f"users/0/{second[0]}"])
    with pytest.raises(UserError, match="is no place in Kafka"):
        replay(desk.warehouse, ["users"])


def test_what_lies_far_apart_is_found(desk: Desk) -> None:
    for number in range(1, 4):
        desk.log.change("users", "c", None, user(number, 1.0))
        for _ in range(1500):
            desk.log.raw("users", b"{}", None)  # tombstones
    desk.sync()
    allow_surcharges(desk)
    done = replay(desk.warehouse)
    assert (done.landed, done.lost) == (3, {})


def test_a_replayed_change_of_a_key_keeps_its_link(desk: Desk) -> None:
    desk.log.change("users", "c", None, user(1))
    desk.log.rekey("users", user(1), user(2, 7.5), hours=1)
    desk.sync()
    allow_surcharges(desk)
    assert replay(desk.warehouse).landed == 1
    links = desk.query("SELECT id, rekeyed_from, rekeyed_to FROM history.users ORDER BY id, version_no")
    assert links == [(1, None, None), (1, None, '{"id":"2"}'), (2, '{"id":"1"}', None)]


def test_a_message_that_kafka_lost_is_told_as_lost(desk: Desk) -> None:
    surcharge(desk)
    desk.sync()
    crowd_out(desk)
    allow_surcharges(desk)
    done = replay(desk.warehouse)
    assert (done.landed, list(done.lost)) == (0, ["shop.shop.users/0/1"])
    assert "no longer has it" in done.lost["shop.shop.users/0/1"]
    assert desk.query("SELECT count(*) FROM cdc.quarantine") == [(1,)]


def crowd_out(desk: Desk) -> None:
    """Make the broker, which keeps about 5 MB of a partition, drop what it has of the patients."""
    for number in range(100, 140):
        desk.log.change("users", "c", None, user(number, note="x" * 400_000))
    desk.sync()


def test_a_topic_made_anew_is_not_taken_for_the_old_one(desk: Desk) -> None:
    surcharge(desk)
    desk.sync()
    with EmbeddedBroker() as other:
        moved = Desk(other, desk.settings.data_dir)
        moved.log.change("users", "c", None, user(7))
        moved.log.change("users", "c", None, user(8))
        moved.send()
        allow_surcharges(moved)
        assert list(replay(moved.warehouse).lost) == ["shop.shop.users/0/1"]


def test_without_a_key_no_payload_is_kept(desk: Desk) -> None:
    surcharge(desk)
    desk.sync()
    assert desk.query("SELECT payload FROM cdc.quarantine") == [(None,)]


def test_with_a_key_the_payload_is_kept_encrypted_and_outlives_kafka(
    broker: EmbeddedBroker, tmp_path: Path
) -> None:
    desk = Desk(broker, tmp_path, quarantine_key=SECRET)
    surcharge(desk, first_name="MARKER-OF-A-NAME")
    assert any(b"MARKER-OF-A-NAME" in (m.value or b"") for m in desk.log.messages)
    desk.sync()
    ((payload,),) = desk.query("SELECT payload FROM cdc.quarantine")
    assert len(payload) > 200
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert b"MARKER-OF-A-NAME" not in file.read_bytes(), file
    crowd_out(desk)
    other = Desk(broker, tmp_path, quarantine_key="another key")
    allow_surcharges(other)
    (why,) = replay(other.warehouse).lost.values()
    assert "under another BI_QUARANTINE_KEY" in why
    allow_surcharges(desk)
    assert replay(desk.warehouse).landed == 1


def test_a_payload_belongs_to_its_place(broker: EmbeddedBroker, tmp_path: Path) -> None:
    desk = Desk(broker, tmp_path, quarantine_key=SECRET)
    surcharge(desk)
    desk.sync()
    desk.write('UPDATE cdc.quarantine SET "offset" = "offset" + 1000')
    assert replay(desk.warehouse).lost


def test_show_tells_what_the_message_says_with_personal_data_masked(desk: Desk) -> None:
    surcharge(desk, first_name="Ada", shoe_size="37")
    desk.sync()
    told = show(desk.warehouse, "users/0/1")
    assert told["cause"].startswith("practitioner_discount is not a valid double")
    assert told["what_to_do"] and told["lost"] is None
    assert told["message"]["op"] == "u"
    assert told["message"]["after"] == {
        "id": "(pseudonym)",
        "practitioner_id": 1,
        "practitioner_discount": 7.5,
        "first_name": "(excluded)",
        "shoe_size": "(not in the contract)",
    }
    assert told["message"]["source"]["file"] == "binlog.000001"
    assert "Ada" not in json.dumps(told, default=str)


def test_show_of_what_is_no_json_shows_none_of_it(desk: Desk) -> None:
    desk.log.raw("users", b'{"id":1}', b"Ada Lovelace")
    desk.sync()
    assert "12 bytes" in show(desk.warehouse, "shop.shop.users/0/0")["message"]
    with pytest.raises(UserError, match="is not in quarantine"):
        show(desk.warehouse, "users/0/5")


def test_a_message_that_the_decoder_fails_on_holds_up_no_replay(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No such message is known: the fault is put into the decoder."""
    surcharge(desk)
    desk.log.change("users", "c", None, user(3, note="choke"))
    fault = "CASE WHEN contains(text, 'choke') THEN error('!') ELSE op END AS _op"
    monkeypatch.setattr(
        "bi_assets.landing.land.decode_sql", lambda *given: decode_sql(*given).replace("op AS _op", fault)
    )
    desk.sync()
    allow_surcharges(desk)
    done = replay(desk.warehouse)
    assert (done.read, done.landed, done.still_quarantined) == (2, 1, 1)
    monkeypatch.undo()
    assert replay(desk.warehouse).landed == 1
    assert desk.query("SELECT id FROM state.users ORDER BY id") == [(1,), (2,), (3,)]
