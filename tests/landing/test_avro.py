"""What pyruhvro makes of a batch is what fastavro reads message by message."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bi_assets.contracts.contract import Column, Contract
from bi_assets.landing.avro import Reader
from bi_assets.landing.avro_schema import SchemaError, look_through
from bi_assets.landing.batch import MESSAGE_SCHEMA

NAMES = ("id", "a", "b", "c", "d")
CONTRACT = Contract("t", "", ("id",), tuple(Column(name, "varchar", "business") for name in NAMES), ())
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "double": st.floats(allow_nan=False),
    "string": st.text(),
    "bytes": st.binary(),
    "fixed": st.binary(min_size=3, max_size=3),
}


@st.composite
def topics(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Draw the schema of a flattened row or an envelope, and values of it."""
    fields, values = [], {}
    for name in NAMES:
        kind = draw(st.sampled_from(sorted(VALUES)))
        values[name] = VALUES[kind]
        schema: Any = {"type": "fixed", "name": f"F{name}", "size": 3} if kind == "fixed" else kind
        if null := draw(st.sampled_from(["", "first", "last"])):
            schema = ["null", schema] if null == "first" else [schema, "null"]
            values[name] = st.none() | values[name]
        fields.append({"name": name, "type": schema})
    row = {"type": "record", "name": "Value", "namespace": "shop.t", "fields": fields}
    rows = st.fixed_dictionaries(values)
    if draw(st.booleans()):
        return row, draw(st.lists(rows, min_size=1, max_size=5))
    envelope = {
        "type": "record", "name": "Envelope", "namespace": "shop.t",
        "fields": [
            {"name": "before", "type": ["null", row]},
            {"name": "after", "type": ["null", "Value"]},
            {"name": "op", "type": "string"},
        ],
    }  # fmt: skip
    event = {"before": st.none() | rows, "after": st.none() | rows, "op": st.sampled_from("cud")}
    return envelope, draw(st.lists(st.fixed_dictionaries(event), min_size=1, max_size=5))


def message(schema: Any, value: Any) -> bytes:
    """Return a framed message."""
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(json.loads(json.dumps(schema))), value)
    return b"\0\0\0\0\1" + body.getvalue()


def table(values: list[bytes]) -> pa.Table:
    """Return messages as they come from Kafka."""
    n = len(values)
    columns = [[0] * n, list(range(n)), [0] * n, [None] * n, values]
    return pa.table(
        [pa.array(c, f.type) for c, f in zip(columns, MESSAGE_SCHEMA, strict=True)], MESSAGE_SCHEMA
    )


@given(topic=topics())
@settings(max_examples=150, deadline=None)
def test_columns_are_what_was_written(topic: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    schema, values = topic
    rows, broken = Reader(look_through(schema), CONTRACT).decode(table([message(schema, v) for v in values]))
    assert broken.num_rows == 0
    found = rows.to_pylist()
    for row, value in zip(found, values, strict=True):
        images = {"after": value} if "op" not in value else {n: value[n] for n in ("before", "after")}
        for image, written in images.items():
            assert {n: row[f"{image} {n}"] for n in NAMES} == (written or dict.fromkeys(NAMES))
            if "op" in value:
                assert row[f"has {image}"] is (written is not None)


@given(topic=topics(), data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_message_cut_or_lengthened_is_broken(
    topic: tuple[dict[str, Any], list[dict[str, Any]]], data: st.DataObject
) -> None:
    schema, values = topic
    whole = [message(schema, value) for value in values]
    place = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.integers(5, len(whole[place]) - 1))
    bad = data.draw(st.sampled_from([whole[place][:cut], whole[place] + b"\0", whole[place] + b"more"]))
    rows, broken = Reader(look_through(schema), CONTRACT).decode(
        table([*whole[:place], bad, *whole[place + 1 :]])
    )
    assert broken.column("offset").to_pylist() == [place]
    assert rows.num_rows == len(whole) - 1


@pytest.mark.parametrize(
    "schema", ["long", ["null", "long"], {"type": "array", "items": "int"}, {}, 7, "no.Such"]
)
def test_a_schema_of_no_row_is_refused(schema: Any) -> None:
    with pytest.raises(SchemaError):
        Reader(look_through(schema), CONTRACT)


def test_a_schema_that_refers_to_itself_is_refused() -> None:
    schema = {"type": "record", "name": "R", "fields": [{"name": "next", "type": ["null", "R"]}]}
    with pytest.raises(SchemaError, match="refers to itself"):
        look_through(schema)
