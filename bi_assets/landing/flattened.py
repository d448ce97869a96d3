"""The flattened form (Debezium's ExtractNewRecordState): the row alone, a degraded way to tell of changes.

There is no state before a change, and of its time, place and kind only what the connector's `add.fields`
puts beside the row: what is missing, Kafka's order and timestamp stand in for. A tombstone that
follows such messages is a delete, since the default leaves no other sign of one.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import duckdb
import pyarrow as pa

from bi_assets.contracts.contract import Contract
from bi_assets.landing.parts import Part, Told
from bi_assets.landing.rows import SOURCE, Layout
from bi_assets.landing.wire import Wire, name_of, of_avro
from bi_assets.sql import literal, quote

SOURCE_FIELDS = {f"__source_{name}": name for name in SOURCE}
"""What `add.fields` calls the parts of `source`: `source.ts_ms` becomes `__source_ts_ms`."""
PREFIX = "__"
SCHEMA = [
    """CREATE TABLE IF NOT EXISTS meta.flattened (
        topic VARCHAR, first_seen TIMESTAMP, last_seen TIMESTAMP, has_event_time BOOLEAN)""",
]
_FIELDS = {**SOURCE_FIELDS, "__op": "op", "__deleted": "deleted"}
_JSON = "TRY_CAST(text AS JSON)"


def op_sql(op: str | None, deleted: str | None) -> str:
    """Return SQL for what was done, from what `add.fields` and the rewriting of deletes tell."""
    told = op or "CAST(NULL AS VARCHAR)"
    # Without an op, an insert looks like an update.
    kind = f"coalesce({told}, 'u')"
    return f"CASE WHEN CAST({deleted} AS VARCHAR) = 'true' THEN 'd' ELSE {kind} END" if deleted else kind


def tell_apart(con: duckdb.DuckDBPyConnection, contract: Contract, messages: pa.Table) -> Told:
    """Return the part of these messages, JSON without a schema; `text` is their value."""
    con.register("part", messages)
    try:
        fields = con.execute(f"""
SELECT name, count(*) FROM (SELECT UNNEST(list_distinct(json_keys({_JSON}))) AS name FROM part)
GROUP BY name""").fetchall()
    finally:
        con.unregister("part")
    counts = {name: count for name, count in fields if not name.startswith(PREFIX)}
    timed = dict(fields).get("__source_ts_ms") == messages.num_rows
    relation = _relation(contract, op_sql(_name("op"), _name("deleted")))
    return Told([Part(messages, relation, _layout(contract), counts, timed)])


def deletes(contract: Contract, tombstones: pa.Table, key_of: Callable[[bytes], dict[str, object]]) -> Told:
    """Return the part of these tombstones as deletes of the keys that they name.

    `key_of` reads a key, and raises `ValueError` where it can't.
    """
    told = Told()
    rows, texts = [], []
    for i, key in enumerate(tombstones.column("key").to_pylist()):
        try:
            texts.append(json.dumps(key_of(key or b"")))
            rows.append(i)
        except ValueError:
            told.refuse(tombstones.slice(i, 1), "a delete whose key can't be read")
    table = tombstones.take(pa.array(rows, pa.int64())).append_column("text", pa.array(texts, pa.string()))
    told.parts.append(Part(table, _relation(contract, "'d'"), _layout(contract)))
    return told


def _name(name: str) -> str:
    return name_of("source", name)


def _layout(contract: Contract) -> Layout:
    return Layout(
        wires={column.name: Wire("json") for column in contract.columns},
        source=SOURCE,
        read=of_avro,
        is_flat=True,
        exists=lambda name: f"coalesce(json_exists({_JSON}, {literal('$.' + name)}), false)",
    )


def _relation(contract: Contract, op: str) -> str:
    row = dict.fromkeys((*contract.names, *_FIELDS), "VARCHAR")
    columns = [f"e.{quote(name)} AS {name_of('after', name)}" for name in contract.names]
    columns += [f"e.{quote(told)} AS {_name(name)}" for told, name in _FIELDS.items()]
    return f"""
SELECT *, {op} AS op, e IS NOT NULL AS has_image, false AS has_before
FROM (SELECT partition, "offset", timestamp_ms, text, e, {", ".join(columns)}
      FROM (SELECT *, try(from_json(text, {literal(json.dumps(row))})) AS e FROM part))"""


def note(con: duckdb.DuckDBPyConnection, topic: str, *, has_event_time: bool) -> None:
    """Remember that a topic comes flattened: `status` warns of it, and its tombstones are deletes."""
    con.execute(
        "MERGE INTO meta.flattened f USING (SELECT $topic AS t, $timed AS timed) s ON f.topic = s.t "
        "WHEN MATCHED THEN UPDATE SET last_seen = getvariable('landed_at'), has_event_time = s.timed "
        "WHEN NOT MATCHED THEN INSERT VALUES "
        "  (s.t, getvariable('landed_at'), getvariable('landed_at'), s.timed)",
        {"topic": topic, "timed": has_event_time},
    )


def is_flattened(con: duckdb.DuckDBPyConnection, topic: str) -> bool:
    """Tell whether a topic has ever come flattened."""
    return bool(con.execute("SELECT 1 FROM meta.flattened WHERE topic = ?", [topic]).fetchall())


def drop_repeated_deletes(con: duckdb.DuckDBPyConnection, contract: Contract, places: pa.Table) -> int:
    """Take the deletes at these places out of `decoded` where the row was deleted already.

    It is so where the connector sends both the deleted row and a tombstone. Only what came before the
    tombstone in its partition tells: where it is read again, the log knows what came later, too.
    Returns how many.
    """
    key = ", ".join(map(quote, contract.key))
    place = "_topic, _partition, _batch_id, _offset"
    con.register("deletes", places)
    try:
        dropped = con.execute(f"""
DELETE FROM decoded d WHERE (_partition, _offset) IN (SELECT (partition, "offset") FROM deletes)
  AND _cause IS NULL AND 'd' = (
    SELECT arg_max(_op, (is_here, _batch_id, _offset)) FROM (
      SELECT {key}, _op, _topic, _partition, 0 AS _batch_id, _offset, true AS is_here
      FROM decoded WHERE _cause IS NULL
      UNION ALL
      SELECT {key}, _op, {place}, false FROM cdc.{quote(contract.table)}
    ) e WHERE {" AND ".join(f"e.{k} = d.{k}" for k in map(quote, contract.key))}
      AND e._topic = d._topic AND e._partition = d._partition AND e._offset < d._offset)
RETURNING 1""").fetchall()
    finally:
        con.unregister("deletes")
    return len(dropped)
