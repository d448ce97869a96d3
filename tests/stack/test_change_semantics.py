"""The traps of change data capture, made by a real MariaDB, Debezium and Kafka."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import duckdb
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from stack.servers import Stack
from tests.stack.published import pharmacy_bi, sync
from tests.stack.topics import read_topics

pytestmark = pytest.mark.stack

SIGNALS = "shop.signals"
NOTIFICATIONS = "shop.notifications"
_SIGNALLED_SECONDS = 60
_ORDER = "(%s, 1, 1, 1, 'T', '2024-05-01 12:00:00', 107.5, 100, 7.5, 0, 0, 1, NULL, NULL)"
_ITEM = "INSERT INTO order_items VALUES (%s, %s, 1, NULL, 1, 50, 0, 0, 0)"
_USER = "(%s, 1, 1, -5, '2024-01-01', 'a', 'b', 'c', 'd', 'e', 'f', '1990-01-01')"


class Shop:
    """The shop's SQL, and the platform that lands it."""

    def __init__(self, stack: Stack, database: Any, data_dir: Path) -> None:
        self.stack, self._database, self._data_dir = stack, database, data_dir

    def execute(self, *statements: str) -> None:
        """Run SQL statements, each a transaction of its own unless it begins one."""
        with self._database.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def land(self) -> None:
        """Land everything that the shop has done."""
        self.stack.wait_delivered()
        sync(self.stack.bootstrap_servers, self._data_dir)

    def run(self, *words: str, fails: bool = False) -> Any:
        """Run a `pharmacy-bi` command; return the JSON that it prints."""
        return json.loads(self.tell(*words, "--json", fails=fails))

    def tell(self, *words: str, fails: bool = False) -> str:
        """Run a `pharmacy-bi` command; return what it prints."""
        return pharmacy_bi(self.stack.bootstrap_servers, self._data_dir, *words, fails=fails)

    def landed(self, sql: str) -> list[tuple[Any, ...]]:
        """Query the core database."""
        with duckdb.connect(str(self._data_dir / "core.duckdb"), read_only=True) as con:
            return con.execute(sql).fetchall()


@pytest.fixture
def shop(stack: Stack, shop_database: Any, tmp_path: Path) -> Shop:
    """A shop of two patients, three orders and a product; its snapshot has landed."""
    shop = Shop(stack, shop_database, tmp_path / "data")
    shop.execute(
        "INSERT INTO users VALUES " + ", ".join(_USER % n for n in (1, 2)),
        "INSERT INTO orders VALUES " + ", ".join(_ORDER % n for n in (1, 2, 3)),
        "INSERT INTO products VALUES (1, 1, 'p', 'small', 'general', 1, 2, 3)",
        "INSERT INTO brands VALUES (1, 'one', NULL), (2, 'two', NULL), (3, 'three', NULL)",
        "INSERT INTO clinics VALUES (1, 'one'), (2, 'two'), (3, 'three')",
    )
    admin = AdminClient({"bootstrap.servers": stack.bootstrap_servers})
    topics = [NewTopic(name, 1, 1) for name in (SIGNALS, NOTIFICATIONS)]
    for made in admin.create_topics(topics).values():
        made.result()
    stack.start_connector(
        {
            "provide.transaction.metadata": "true",
            "skipped.operations": "none",
            "read.only": "true",
            "signal.enabled.channels": "kafka",
            "signal.kafka.topic": SIGNALS,
            "signal.kafka.bootstrap.servers": stack.bootstrap_servers,
            "signal.kafka.poll.timeout.ms": "100",
            "signal.poll.interval.ms": "200",
            "notification.enabled.channels": "sink",
            "notification.sink.topic.name": NOTIFICATIONS,
        }
    )
    shop.land()
    return shop


def test_what_the_real_servers_send_is_understood(shop: Shop) -> None:
    status = shop.run("status")
    assert status["ok"], status["problems"]
    assert shop.landed("SELECT count(*) FROM state.users") == [(2,)]

    # One after the other in the binlog, and so in one or two landings.
    shop.execute("UPDATE users SET practitioner_discount = -6 WHERE id = 1")
    shop.execute("UPDATE orders SET id = 90 WHERE id = 3")
    shop.execute(
        "BEGIN", f"INSERT INTO orders VALUES {_ORDER % 4}", _ITEM % (41, 4), _ITEM % (42, 4), "COMMIT"
    )
    shop.execute("INSERT INTO favourite_products VALUES (1, 1), (2, 1)", "TRUNCATE TABLE favourite_products")
    shop.execute("INSERT INTO favourite_products VALUES (2, 1)")
    shop.execute("FLUSH BINARY LOGS", "UPDATE users SET practitioner_discount = -7 WHERE id = 1")
    change_the_schema(shop)
    snapshot_incrementally(shop, "shop.brands")
    shop.land()

    the_key_change_is_one_order(shop)
    the_truncate_deleted_what_was_there(shop)
    the_rotation_kept_the_order(shop)
    the_transactions_are_whole(shop)
    the_schema_changes_are_told(shop)
    the_stream_wins_over_the_incremental_snapshot(shop)
    the_shop_itself_is_compared(shop)
    what_vanished_while_nobody_looked_is_swept(shop)


def change_the_schema(shop: Shop) -> None:
    """Add, drop, rename; retype into something else; drop what is required."""
    shop.execute(
        "ALTER TABLE products ADD COLUMN colour varchar(10) DEFAULT 'red'",
        "ALTER TABLE products DROP COLUMN size",
        "ALTER TABLE products RENAME COLUMN name TO title",
        "UPDATE products SET rrp = 9 WHERE id = 1",
        "ALTER TABLE products MODIFY stock varchar(20)",
        "UPDATE products SET stock = 'many' WHERE id = 1",
        "ALTER TABLE orders DROP COLUMN amount_total",
        "UPDATE orders SET amount_tax = 1 WHERE id = 2",
    )


def snapshot_incrementally(shop: Shop, table: str) -> None:
    """Have the connector read a table again, and change it meanwhile."""
    shop.stack.wait_delivered()
    producer = Producer({"bootstrap.servers": shop.stack.bootstrap_servers})
    signal = {"type": "execute-snapshot", "data": {"data-collections": [table], "type": "INCREMENTAL"}}
    producer.produce(SIGNALS, key="shop", value=json.dumps(signal))
    producer.flush()
    deadline = time.monotonic() + _SIGNALLED_SECONDS
    n = 0
    while not any(
        b'"snapshot":"incremental"' in (record.value or b"")
        for record in read_topics(shop.stack.bootstrap_servers, [f"shop.{table}"])
    ):
        assert time.monotonic() < deadline, "the signal is not answered"
        # The connector looks at signals when the binlog moves.
        shop.execute(f"UPDATE brands SET name = 'one {(n := n + 1)}' WHERE id = 1")
    shop.execute("UPDATE brands SET name = 'at last' WHERE id = 1")


def the_key_change_is_one_order(shop: Shop) -> None:
    orders = shop.landed("SELECT order_id, order_state FROM marts.orders_with_discount ORDER BY order_id")
    assert orders == [(1, "paid"), (2, "paid"), (4, "paid"), (90, "paid")]
    assert shop.landed("SELECT id, rekeyed_to FROM history.orders WHERE rekeyed_to IS NOT NULL") == [
        (3, '{"id":"90"}')
    ]
    assert shop.landed("SELECT rekeyed_from FROM history.orders WHERE id = 90") == [('{"id":"3"}',)]


def the_truncate_deleted_what_was_there(shop: Shop) -> None:
    assert shop.landed("SELECT user_id, product_id FROM state.favourite_products") == [(2, 1)]
    deleted = shop.landed("SELECT user_id FROM history.favourite_products WHERE is_deleted ORDER BY ALL")
    assert deleted == [(1,), (2,)]


def the_rotation_kept_the_order(shop: Shop) -> None:
    changes = shop.landed(
        "SELECT _binlog_file, _binlog_pos, practitioner_discount FROM cdc.users "
        "WHERE id = 1 AND _op = 'u' ORDER BY _version_no"
    )
    assert [float(discount) for _, _, discount in changes] == [-6, -7]
    (first, first_pos, _), (second, second_pos, _) = changes
    assert (second > first, second_pos < first_pos) == (True, True), "the binlog's positions did not go back"


def the_transactions_are_whole(shop: Shop) -> None:
    assert shop.landed("SELECT sum(next_offset) > 0 FROM meta.offsets WHERE topic = 'shop.transaction'") == [
        (True,)
    ]
    assert shop.landed("FROM meta.transactions") == []
    ((through, newest),) = shop.landed(
        "SELECT any_value(complete_through), max(last_source_ts) FROM meta.progress, meta.offsets"
    )
    assert through >= newest


def the_schema_changes_are_told(shop: Shop) -> None:
    status = shop.run("status", fails=True)
    drift = {(row["column_name"], row["kind"]) for row in status["schema_drift"]}
    assert drift >= {("colour", "unknown"), ("title", "unknown"), ("size", "missing"), ("name", "missing")}
    told = "\n".join(status["problems"])
    assert "products.colour is new at the shop" in told
    assert "products.size is no longer at the shop" in told
    assert shop.landed("SELECT rrp, name, size, stock FROM state.products") == [(9, None, None, 3)]
    causes = {(row["topic"], row["cause"]) for row in shop.run("quarantine", "list")}
    assert causes == {
        ("shop.shop.products", "stock is not a valid int"),
        (
            "shop.shop.orders",
            "amount_total is not a valid decimal(12,2) of at least 0, or the row has no such column",
        ),
    }


def the_stream_wins_over_the_incremental_snapshot(shop: Shop) -> None:
    assert shop.landed("SELECT count(*) > 0 FROM cdc.brands WHERE _snapshot = 'incremental'") == [(True,)]
    assert shop.landed("SELECT id, name FROM state.brands ORDER BY id") == [
        (1, "at last"),
        (2, "two"),
        (3, "three"),
    ]
    unchanged = "SELECT count(*) FROM history.brands WHERE id > 1"
    assert shop.landed(unchanged) == [(2,)], "a snapshot row that repeats the state made a version"


def the_shop_itself_is_compared(shop: Shop) -> None:
    """What no binlog has told is found; what changes meanwhile is no difference."""
    shop.execute(
        "SET sql_log_bin = 0",
        "UPDATE clinics SET name = 'zwei' WHERE id = 2",
        "DELETE FROM clinics WHERE id = 3",
        "INSERT INTO clinics VALUES (4, 'four')",
        "SET sql_log_bin = 1",
    )
    words = ("verify", "--shop", "--yes", "--table", "clinics", "--table", "vouchers", "--json")
    with ThreadPoolExecutor(1) as desk:
        asked = desk.submit(shop.tell, *words, fails=True)
        n = 0
        while not asked.done():
            shop.execute(f"UPDATE clinics SET name = 'one {(n := n + 1)}' WHERE id = 1")
            wait([asked], timeout=0.2)
    told = asked.result()
    load, _, result = told.partition("\n")
    assert "2 tables of the shop as a whole, 3 rows as far as they are known here: about 5 queries" in load
    found = json.loads(result)
    assert (found["ok"], found["differences"]) == (False, [])
    compared = found["shop"]
    assert compared["rows"] == [
        {"table": "clinics", "kind": "changed", "key": {"id": 2}, "columns": {"name": ["two", "zwei"]}},
        {"table": "clinics", "kind": "missing", "key": {"id": 4}, "columns": {}},
        {"table": "clinics", "kind": "vanished", "key": {"id": 3}, "columns": {}},
    ]
    assert compared["tables"]["vouchers"] == {
        "known": 0,
        "read": 0,
        "changed": 0,
        "missing": 0,
        "vanished": 0,
    }
    assert compared["not_compared"] == []
    assert "run `pharmacy-bi sweep clinics --apply`" in compared["differences"][-1]
    mended = shop.landed("SELECT id, name FROM state.clinics WHERE id > 1 ORDER BY id")
    assert mended == [(2, "zwei"), (3, "three"), (4, "four")]


def what_vanished_while_nobody_looked_is_swept(shop: Shop) -> None:
    """The connector is down and loses its place: what it does not see is only not in its new snapshot."""
    shop.stack.stop_connect()
    shop.execute("DELETE FROM brands WHERE id = 2")
    (shop.stack.folder / "connect.offsets").unlink()
    shop.stack.start_connect()
    shop.land()
    assert any(
        "brands: 1 rows are no longer in the snapshot" in p
        for p in shop.run("status", fails=True)["problems"]
    )
    assert [row["id"] for row in shop.run("sweep", "brands")["rows"]] == [2]
    assert shop.landed("SELECT id FROM state.brands ORDER BY id") == [(1,), (2,), (3,)]
    assert [row["id"] for row in shop.run("sweep", "clinics")["rows"]] == [3]
    assert shop.run("sweep", "brands", "--apply")["applied"]
    assert shop.landed("SELECT id FROM state.brands ORDER BY id") == [(1,), (3,)]
    assert not any("brands" in problem for problem in shop.run("status", fails=True)["problems"])
