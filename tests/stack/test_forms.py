"""What the real converters write, through the real registry, lands as schemaless JSON does."""

import io
import json
from base64 import b64decode
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import fastavro
import pytest

from shop.schema import TABLES
from stack import connect
from stack.servers import Stack
from tests import oracle
from tests.stack.published import assert_equals_oracle, pharmacy_bi, sync
from tests.stack.simulation import Simulation
from tests.stack.test_real_chain import TOPICS
from tests.stack.topics import Record, read_topics

pytestmark = pytest.mark.stack

PRECISE = {"decimal.handling.mode": ""}
"""The connector's own default: decimals are bytes, and only the schema tells their scale."""
WITH_SCHEMA = {**PRECISE, "value.converter.schemas.enable": "true", "key.converter.schemas.enable": "true"}
FLATTENED = {
    "transforms": "unwrap",
    "transforms.unwrap.type": "io.debezium.transforms.ExtractNewRecordState",
    "transforms.unwrap.delete.tombstone.handling.mode": "rewrite",
    "transforms.unwrap.add.fields": "op," + ",".join(
        f"source.{name}" for name in ("ts_ms", "snapshot", "server_id", "file", "pos", "row")
    ),
    # Heartbeats have no row to take out of them.
    "transforms.unwrap.predicate": "rows",
    "predicates": "rows",
    "predicates.rows.type": "org.apache.kafka.connect.transforms.predicates.TopicNameMatches",
    "predicates.rows.pattern": "shop\\.shop\\..*",
}  # fmt: skip


def test_a_connector_that_changes_its_form_tells_one_history(
    stack: Stack, shop_database: Any, tmp_path: Path
) -> None:
    """Avro with a column that comes on the way and a registry that goes; then two forms of JSON."""
    data = tmp_path / "data"
    settings = {"SCHEMA_REGISTRY_URL": stack.registry_url}
    shop = Simulation(shop_database)
    shop.open()
    stack.start_registry()
    shop.start_connector(stack, {**stack.avro, **PRECISE})
    shop.live(days=7)
    with shop_database.cursor() as cursor:
        cursor.execute("ALTER TABLE orders ADD COLUMN gift_note varchar(40) AFTER user_id")
    shop.live(days=7)
    stack.wait_delivered()

    stack.stop_registry()
    waiting = pharmacy_bi(stack.bootstrap_servers, data, "sync", fails=True, environment=settings)
    assert f"The schema registry at {stack.registry_url} does not answer" in waiting
    stack.start_registry()
    told = sync(stack.bootstrap_servers, data, **settings)
    assert "quarantined" not in told
    avro = read_topics(stack.bootstrap_servers, TOPICS.values())
    assert len({r.value[:5] for r in avro if r.value and r.topic == TOPICS["orders"]}) == 2
    assert_equals_oracle(data, for_oracle(stack, avro))

    for changes in (WITH_SCHEMA, FLATTENED):
        stack.start_connector(changes)
        shop.live(days=4)
        stack.wait_delivered()
        assert "quarantined" not in sync(stack.bootstrap_servers, data, **settings)
        records = read_topics(stack.bootstrap_servers, TOPICS.values())
        assert_equals_oracle(data, for_oracle(stack, records))
    assert {form(record.value) for record in records if record.value} == {"avro", "with schema", "flat"}


def form(value: bytes) -> str:
    """Return what form a message has."""
    if value[:1] == b"\0":
        return "avro"
    return "with schema" if value.startswith(b'{"schema":') else "flat"


def for_oracle(stack: Stack, records: list[Record]) -> list[oracle.Message]:
    """Return records as the oracle takes them: schemaless envelopes, decimals as texts; no tombstones."""
    messages = []
    for record in records:
        if record.value is not None:
            event = envelope(stack, record.value)
            image = event["after"] or event["before"]
            names = TABLES[record.topic.rpartition(".")[2]].key
            key = json.dumps({name: image[name] for name in names}).encode()
            messages.append(oracle.Message(*record[:3], key, json.dumps(event).encode()))
    return messages


def envelope(stack: Stack, value: bytes) -> dict[str, Any]:
    """Return a message's envelope, read by other means than the platform's."""
    if form(value) == "avro":
        body = io.BytesIO(value[5:])
        event: Any = fastavro.schemaless_reader(body, schema(stack, int.from_bytes(value[1:5])), None)
        return {**event, "before": texts(event["before"]), "after": texts(event["after"])}
    event = json.loads(value)
    if form(value) == "with schema":
        row = next(field for field in event["schema"]["fields"] if field["field"] == "after")
        scales = {
            f["field"]: int(f["parameters"]["scale"])
            for f in row["fields"]
            if "scale" in f.get("parameters", {})
        }
        event = event["payload"]
        return {**event, **{part: decoded(event[part], scales) for part in ("before", "after")}}
    source = {
        name.removeprefix("__source_"): found for name, found in event.items() if name.startswith("__source_")
    }
    row = {name: found for name, found in event.items() if not name.startswith("__")}
    is_gone = event["__deleted"] == "true"
    return {
        "op": event["__op"],
        "before": row if is_gone else None,
        "after": None if is_gone else row,
        "source": source,
    }


def texts(row: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a row with its decimals as texts."""
    return row and {n: str(v) if isinstance(v, Decimal) else v for n, v in row.items()}


def decoded(row: dict[str, Any] | None, scales: dict[str, int]) -> dict[str, Any] | None:
    """Return a row with the bytes of its decimals as texts."""
    return row and {
        name: str(Decimal(int.from_bytes(b64decode(value), signed=True)).scaleb(-scales[name]))
        if name in scales and value is not None else value
        for name, value in row.items()
    }  # fmt: skip


@cache
def schema(stack: Stack, number: int) -> Any:
    """Return a writer schema."""
    told = connect.request(f"{stack.registry_url}/schemas/ids/{number}")
    return fastavro.parse_schema(json.loads(told["schema"]))
