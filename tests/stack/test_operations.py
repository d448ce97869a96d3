"""The operator's commands against the real servers: what Kafka has is read again, and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from stack.servers import Stack
from tests.stack.published import BUSINESS_TIMEZONE, sync
from tests.stack.simulation import Simulation

pytestmark = pytest.mark.stack

USERS = "shop.shop.users"
BEGINNING = "1970-01-01"


def test_rewind_replay_verify_and_erase(stack: Stack, shop_database: Any, tmp_path: Path) -> None:
    data = tmp_path / "data"

    def ask(*words: str) -> Any:
        done = subprocess.run(
            [Path(sys.executable).with_name("pharmacy-bi"), *words, "--json"],
            env=os.environ
            | {
                "KAFKA_BOOTSTRAP_SERVERS": stack.bootstrap_servers,
                "BI_DATA_DIR": str(data),
                "BI_TIMEZONE": BUSINESS_TIMEZONE,
            },
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)

    def query(sql: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(data / "core.duckdb"), read_only=True) as con:
            return con.execute(sql).fetchall()

    shop = Simulation(shop_database)
    shop.open()
    shop.start_connector(stack)
    shop.live(days=20)
    stack.wait_delivered()
    ((patient,),) = _rows(
        shop_database, "SELECT user_id FROM orders GROUP BY 1 ORDER BY count(*) DESC LIMIT 1"
    )
    producer = Producer({"bootstrap.servers": stack.bootstrap_servers})
    producer.produce(USERS, b"cut off", b'{"id":%d}' % patient)
    producer.flush()
    sync(stack.bootstrap_servers, data)

    in_doubt = "SELECT count(*) FROM marts.orders_with_discount WHERE discount_source = 'quarantined'"
    logs = "SELECT * FROM cdc.orders ORDER BY ALL"
    assert query("SELECT count(*), any_value(topic_id <> topic) FROM cdc.quarantine") == [(1, True)]
    (listed,) = ask("quarantine", "list")
    place = f"users/{listed['partition']}/{listed['offset']}"
    assert "not shown" in ask("quarantine", "show", place)["message"]
    assert ask("quarantine", "replay")["still_quarantined"] == 1
    assert query(in_doubt) == [(0,)]  # it came after everything that was ordered

    before = query(logs)
    done = ask("rewind", "--to", BEGINNING)
    assert done["read"] > 100 and not done["gone"]
    assert (done["replaced"], done["landed"], done["quarantined"]) == (0, 0, 1)
    assert query(logs) == before
    assert ask("verify")["ok"]

    _delete_records(stack, listed["partition"], listed["offset"] + 1)
    done = ask("rewind", "--to", BEGINNING)
    assert done["gone"][f"{USERS}/{listed['partition']}"] > 0
    assert query(logs) == before
    assert list(ask("quarantine", "replay")["lost"]) == [f"{USERS}/{listed['partition']}/{listed['offset']}"]

    removed = {row["from"]: row["rows"] for row in ask("erase", str(patient))["removed"]}
    assert removed["cdc.orders"] >= 1 and removed["cdc.order_items"] >= 1 and removed["cdc.quarantine"] == 1
    after = query(logs)
    assert len(after) == len(before) - removed["cdc.orders"]
    done = ask("rewind", "--to", BEGINNING)
    assert done["erased"] >= removed["cdc.orders"]
    assert query(logs) == after
    assert query(f"SELECT count(*) FROM marts.orders_with_discount WHERE patient_id = {patient}") == [(0,)]
    assert ask("verify")["ok"]


def _rows(database: Any, sql: str) -> list[tuple[Any, ...]]:
    with database.cursor() as cursor:
        cursor.execute(sql)
        return [tuple(row.values()) if isinstance(row, dict) else tuple(row) for row in cursor.fetchall()]


def _delete_records(stack: Stack, partition: int, before: int) -> None:
    """Have the broker drop what a partition of the patients' topic has before an offset."""
    admin = AdminClient({"bootstrap.servers": stack.bootstrap_servers})
    for future in admin.delete_records([TopicPartition(USERS, partition, before)]).values():
        future.result()
