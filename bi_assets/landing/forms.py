"""The forms that messages come in, told apart: envelope or row alone; JSON, JSON with a schema, or Avro.

A connector may have been set up anew, so each message is looked at by itself, and a batch may hold
several forms. What all but a few look like, schemaless envelopes, is known by their first bytes;
everything else has its own module, which adds to `decoded` what it makes of its messages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from bi_assets.contracts.contract import Contract
from bi_assets.landing import avro, drift, flattened, json_with_schema
from bi_assets.landing.batch import Batch
from bi_assets.landing.message_fields import fields_of
from bi_assets.landing.parts import Part
from bi_assets.landing.rows import rows_sql
from bi_assets.landing.schema_registry import UnknownSchemaError, registry
from bi_assets.settings import Settings
from bi_assets.sql import literal

_ENVELOPE = b'{"before":'
_AVRO = b"\0"


@dataclass(frozen=True)
class Sorted:
    """Messages of a topic by form; `others` are all that are no schemaless envelopes."""

    envelopes: pa.Table
    others: Mapping[str, pa.Table] = field(default_factory=dict)


@dataclass
class Added:
    """What the other forms added to `decoded`: messages refused, deletes told by tombstones.

    `fields` counts, of so many `rows`, those that have each column, known to the contract or not.
    """

    refused: list[tuple[pa.Table, str]] = field(default_factory=list)
    deletes: int = 0
    rows: int = 0
    fields: Counter[str] = field(default_factory=Counter)


def sort(con: duckdb.DuckDBPyConnection, contract: Contract, messages: pa.Table) -> Sorted:
    """Tell the forms of a topic's messages apart. Tombstones are with the envelopes."""
    values = messages.column("value")
    usual = pc.fill_null(pc.starts_with(values, pattern=_ENVELOPE), True)
    if pc.all(usual).as_py() is not False:
        return Sorted(messages)
    unusual = messages.filter(pc.invert(usual))
    values = unusual.column("value")
    is_avro = pc.starts_with(values, pattern=_AVRO)
    texts = unusual.filter(pc.invert(is_avro))
    others = {"avro": unusual.filter(is_avro)}
    others |= _sort_texts(con, contract, texts) if texts.num_rows else {}
    envelopes = [messages.filter(usual), *([others.pop("envelope")] if "envelope" in others else [])]
    return Sorted(
        pa.concat_tables(envelopes), {form: found for form, found in others.items() if found.num_rows}
    )


def _sort_texts(
    con: duckdb.DuckDBPyConnection, contract: Contract, messages: pa.Table
) -> dict[str, pa.Table]:
    """What is nothing else is an envelope: its decoder says best what is wrong."""
    key = " AND ".join(f"json_exists(json, {literal('$.' + name)})" for name in contract.key)
    con.register("part", messages)
    try:
        looked_at: pa.Table = con.sql(f"""
SELECT * EXCLUDE (json), CASE
  WHEN json_type(json) <> 'OBJECT' THEN 'envelope'
  WHEN json_exists(json, '$.schema') AND json_exists(json, '$.payload') THEN 'with schema'
  WHEN json_exists(json, '$.op') AND json_exists(json, '$.source') THEN 'envelope'
  WHEN {key} THEN 'flattened' ELSE 'envelope' END AS form
FROM (SELECT *, TRY_CAST(text AS JSON) AS json
      FROM (SELECT *, try(decode(CAST(value AS BLOB))) AS text FROM part))""").to_arrow_table()
    finally:
        con.unregister("part")
    forms = looked_at.column("form")
    found = {
        form: looked_at.filter(pc.equal(forms, form)).drop_columns(["form"])
        for form in pc.unique(forms).to_pylist()
    }
    if "envelope" in found:
        found["envelope"] = found["envelope"].drop_columns(["text"]).cast(messages.schema)
    return found


def add(
    con: duckdb.DuckDBPyConnection,
    contract: Contract,
    topic: str,
    others: Mapping[str, pa.Table],
    settings: Settings,
) -> Added:
    """Add the rows of the other forms to `decoded`.

    Errors: `RegistryAwayError` where a schema is needed that the registry does not tell now.
    """
    added = Added()
    timed = []
    for form, group in others.items():
        if form == "avro":
            told = avro.tell_apart(contract, group, registry(settings))
        elif form == "with schema":
            told = json_with_schema.tell_apart(con, contract, group)
        else:
            told = flattened.tell_apart(con, contract, group)
        added.refused += told.refused
        for part in told.parts:
            _insert(con, contract, topic, part, settings)
            added.rows += part.table.num_rows
            added.fields.update(part.fields)
            if part.layout.is_flat:
                timed.append(part.has_event_time)
    if timed:
        flattened.note(con, topic, has_event_time=all(timed))
    return added


def add_deletes(
    con: duckdb.DuckDBPyConnection,
    contract: Contract,
    topic: str,
    tombstones: pa.Table,
    settings: Settings,
) -> Added:
    """Add the deletes that tombstones tell, where the topic comes flattened.

    A tombstone of a row that is deleted already tells nothing new.
    """
    added = Added()
    if not flattened.is_flattened(con, topic):
        return added
    told = flattened.deletes(contract, tombstones, lambda key: fields_of(key, registry(settings)))
    added.refused = told.refused
    added.deletes = sum(refused.num_rows for refused, _ in told.refused)
    for part in told.parts:
        _insert(con, contract, topic, part, settings)
        repeated = flattened.drop_repeated_deletes(con, contract, part.table.select(["partition", "offset"]))
        added.deletes += part.table.num_rows - repeated
    return added


def fetch_schemas(batch: Batch, settings: Settings) -> None:
    """Ask the registry for the writer schemas of a batch, before a transaction begins.

    Errors: `RegistryAwayError` where it does not tell now: the batch has to wait.
    """
    if not settings.schema_registry_url:
        return
    for messages in batch.messages.values():
        values = messages.column("value")
        framed = values.filter(pc.fill_null(pc.starts_with(values, pattern=_AVRO), False))
        for number in avro.schema_ids(framed).values():
            with suppress(UnknownSchemaError):
                registry(settings).schema(number)


def heartbeat_ms(beats: pa.Table, settings: Settings) -> int | None:
    """Return the newest time (epoch milliseconds) that Avro heartbeats tell, None without any."""
    newest = []
    values = beats.column("value")
    for value in values.filter(pc.fill_null(pc.starts_with(values, pattern=_AVRO), False)).to_pylist():
        with suppress(ValueError, KeyError, TypeError):
            newest.append(int(avro.value(value, registry(settings))["ts_ms"]))
    return max(newest, default=None)


def _insert(
    con: duckdb.DuckDBPyConnection, contract: Contract, topic: str, part: Part, settings: Settings
) -> None:
    con.register("part", part.table)
    try:
        rows = rows_sql(contract, topic, settings, part.relation, part.layout)
        con.execute(f"INSERT INTO decoded BY NAME {rows}")
        if part.fields and contract.schema_changes == "quarantine":
            if part.layout.exists:
                drift.refuse_rows(con, contract, flattened.PREFIX)
            else:
                drift.refuse_part(con, contract, part.fields)
    finally:
        con.unregister("part")
