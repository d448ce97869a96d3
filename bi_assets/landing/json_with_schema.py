"""JSON with an embedded schema, as `schemas.enable=true` sends it: {"schema": ..., "payload": ...}.

Messages of one schema are one part; a schema is looked through once for all of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from bi_assets.contracts.contract import Contract
from bi_assets.landing.flattened import PREFIX, SOURCE_FIELDS, op_sql
from bi_assets.landing.parts import Part, Told
from bi_assets.landing.rows import SOURCE, Layout
from bi_assets.landing.wire import DECIMAL, TEXTS, Wire, name_of, of_json
from bi_assets.sql import literal, quote

_KINDS = {
    **dict.fromkeys(("int8", "int16", "int32", "int64"), "integer"),
    **dict.fromkeys(("float", "double", "float32", "float64"), "float"),
    "boolean": "boolean",
    "string": "text",
    "bytes": "bytes",
}
_FLAT = {**SOURCE_FIELDS, "__op": "op", "__deleted": "deleted"}


def tell_apart(con: duckdb.DuckDBPyConnection, contract: Contract, messages: pa.Table) -> Told:
    """Return the parts of these messages (with `text`, their value), one for each schema."""
    con.register("part", messages)
    try:
        split: pa.Table = con.sql("""
SELECT * EXCLUDE (text, value, parsed), parsed.schema AS schema, parsed.payload AS text
FROM (SELECT *, try(from_json(text, '{"schema":"VARCHAR","payload":"VARCHAR"}')) AS parsed FROM part)
""").to_arrow_table()
    finally:
        con.unregister("part")
    told = Told()
    schemas = split.column("schema")
    for schema in pc.unique(schemas).to_pylist():
        if schema is None:
            told.refuse(split.filter(pc.is_null(schemas)), "not JSON, or without the schema it begins with")
            continue
        group = split.filter(pc.equal(schemas, schema))
        try:
            told.parts.append(_part(contract, group, json.loads(schema)))
        except (ValueError, KeyError, TypeError, AttributeError):
            told.refuse(group, "JSON with an embedded schema that is neither an envelope's nor a row's")
    return told


def _part(contract: Contract, messages: pa.Table, schema: Any) -> Part:
    """Errors: `ValueError` and its like where the schema is none that a table has."""
    top = _fields(schema)
    images = [name for name in ("before", "after") if name in top]
    is_flat = "op" not in top or not images
    row = top if is_flat else _fields(top[images[-1]])
    if not row:
        raise ValueError("no fields")
    wires = {name: _wire(row[name]) for name in contract.names if name in row}
    if is_flat:
        source = [told for name, told in SOURCE_FIELDS.items() if name in row]
        relation = _flat(wires, {name: told for name, told in _FLAT.items() if name in row})
    else:
        source = [name for name in SOURCE if name in _fields(top.get("source", {"fields": []}))]
        relation = _enveloped(wires, source)
    fields = [name for name in row if not (is_flat and name.startswith(PREFIX))]
    layout = Layout(wires, source, of_json, is_flat)
    return Part(messages, relation, layout, dict.fromkeys(fields, messages.num_rows), "ts_ms" in source)


def _fields(schema: Any) -> dict[str, Any]:
    return {field["field"]: field for field in schema.get("fields", ())}


def _wire(schema: Mapping[str, Any]) -> Wire:
    name = str(schema.get("name") or "")
    kind = _KINDS.get(schema["type"], "other")
    scale = int(schema["parameters"]["scale"]) if name == DECIMAL else None
    return Wire(kind, "" if name in TEXTS else name or (schema["type"] if kind == "other" else ""), scale)


def _texts(wires: Mapping[str, Wire]) -> dict[str, str]:
    return {name: "JSON" if wire.kind == "bytes" else "VARCHAR" for name, wire in wires.items()}


def _enveloped(wires: Mapping[str, Wire], source: list[str]) -> str:
    row = _texts(wires)
    shape = {
        "op": "VARCHAR",
        "ts_ms": "VARCHAR",
        "before": row,
        "after": row,
        "source": dict.fromkeys(source, "VARCHAR"),
    }
    if not source:
        del shape["source"]
    columns = [
        f"e.{image}.{quote(name)} AS {name_of(image, name)}"
        for image in ("before", "after")
        for name in wires
    ]
    for name in source:
        told = f"e.source.{quote(name)}"
        if name == "ts_ms":
            # Some versions leave a snapshot row's time at 0; the envelope's is right there.
            told = f"CASE WHEN e.op = 'r' AND coalesce({told}, '0') = '0' THEN e.ts_ms ELSE {told} END"
        columns.append(f"{told} AS {name_of('source', name)}")
    return f"""
SELECT partition, "offset", timestamp_ms, e.op AS op, {", ".join(columns)},
  CASE WHEN e.op = 'd' THEN e.before IS NOT NULL ELSE e.after IS NOT NULL END AS has_image,
  e.before IS NOT NULL AS has_before
FROM (SELECT *, try(from_json(text, {literal(json.dumps(shape))})) AS e FROM part)"""


def _flat(wires: Mapping[str, Wire], told: Mapping[str, str]) -> str:
    shape = {**_texts(wires), **dict.fromkeys(told, "VARCHAR")}
    columns = [f"e.{quote(name)} AS {name_of('after', name)}" for name in wires]
    columns += [f"e.{quote(name)} AS {name_of('source', told[name])}" for name in told]
    op = op_sql(*(f"e.{quote(name)}" if name in told else None for name in ("__op", "__deleted")))
    return f"""
SELECT partition, "offset", timestamp_ms, {op} AS op, {", ".join(columns)},
  e IS NOT NULL AS has_image, false AS has_before
FROM (SELECT *, try(from_json(text, {literal(json.dumps(shape))})) AS e FROM part)"""
