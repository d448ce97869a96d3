"""Debezium's schemaless JSON envelope, decoded by the batch.

Every decoder of this folder makes the same relation from the messages of one topic, the
temporary table `decoded`: one row per message that is not a tombstone, the contract's columns
typed, `_before` (the row before an update), where and when the change was made, and `_cause`:
null, or why the row can't be landed. Other forms (Avro) are further modules like this one.
"""

from __future__ import annotations

from bi_assets.contracts.contract import Contract
from bi_assets.landing.columns import breach, datetime_texts, not_integer, stored_type, typed
from bi_assets.landing.wall_time import odd_hours
from bi_assets.settings import Settings
from bi_assets.sql import literal, quote

_SOURCE = (
    '{"ts_ms":"VARCHAR","ts_us":"VARCHAR","snapshot":"VARCHAR","server_id":"VARCHAR",'
    '"gtid":"VARCHAR","file":"VARCHAR","pos":"VARCHAR","row":"VARCHAR"}'
)
_LATEST_MS = 253402300799999

POSITION = {
    "_op": "VARCHAR",
    "_source_ts": "TIMESTAMP",
    "_server_id": "BIGINT",
    "_binlog_file": "VARCHAR",
    "_binlog_pos": "BIGINT",
    "_row": "BIGINT",
    "_gtid": "VARCHAR",
    "_snapshot": "VARCHAR",
    "_topic": "VARCHAR",
    "_partition": "INTEGER",
    "_offset": "BIGINT",
}
"""What every change carries beside its row: what it was, when, and where in binlog and Kafka."""


def before_type(contract: Contract, pseudonym_key: str | None) -> str:
    """Return the DuckDB type of `_before`: a struct of the contract's columns."""
    columns = (f"{quote(c.name)} {stored_type(c, pseudonym_key)}" for c in contract.columns)
    return f"STRUCT({', '.join(columns)})"


def decode_sql(contract: Contract, topic: str, settings: Settings) -> str:
    """Return the statement that makes `decoded` from the relation `messages` of one topic."""
    pseudonym_key = settings.pseudonym_key
    image = "{" + ",".join(f'"{name}":"VARCHAR"' for name in contract.names) + "}"
    envelope = f'{{"op":"VARCHAR","ts_ms":"VARCHAR","before":{image},"after":{image},"source":{_SOURCE}}}'
    columns = ",\n    ".join(
        f"{_value(contract, name, pseudonym_key)} AS {quote(name)}" for name in contract.names
    )
    before = ", ".join(
        f"{quote(c.name)} := {typed(c, f'e.before.{quote(c.name)}', pseudonym_key)}" for c in contract.columns
    )
    return f"""
CREATE OR REPLACE TEMP TABLE decoded AS
WITH texts AS (
  SELECT partition, "offset", timestamp_ms, try(decode(CAST(value AS BLOB))) AS text
  FROM messages WHERE value IS NOT NULL
),
parsed AS (
  SELECT *, TRY_CAST(text AS JSON) AS json, from_json(TRY_CAST(text AS JSON), {literal(envelope)}) AS e
  FROM texts
),
imaged AS (
  SELECT *, e.op AS op, e.source AS s,
    CASE WHEN e.op = 'd' THEN e.before ELSE e.after END AS image,
    CASE WHEN e.op = 'd' THEN '$.before' ELSE '$.after' END AS image_path,
    -- Some versions leave a snapshot row's time at 0; the envelope's is right there.
    CASE WHEN e.op = 'r' AND coalesce(e.source.ts_ms, '0') = '0' THEN e.ts_ms ELSE e.source.ts_ms END
      AS ts_text,
    TRY_CAST(ts_text AS BIGINT) AS ts_ms, TRY_CAST(e.source.ts_us AS BIGINT) AS ts_us
  FROM parsed
)
SELECT
    {columns},
    CASE WHEN op = 'u' AND e.before IS NOT NULL THEN struct_pack({before}) END AS _before,
    op AS _op,
    CASE WHEN ts_ms NOT BETWEEN 1 AND {_LATEST_MS} THEN NULL
         WHEN ts_us // 1000 = ts_ms THEN make_timestamp(ts_us)  -- finer, with GTIDs
         ELSE make_timestamp(ts_ms * 1000) END AS _source_ts,
    TRY_CAST(s.server_id AS BIGINT) AS _server_id, s.file AS _binlog_file,
    TRY_CAST(s.pos AS BIGINT) AS _binlog_pos, coalesce(TRY_CAST(s.row AS BIGINT), 0) AS _row,
    s.gtid AS _gtid, coalesce(s.snapshot, 'false') AS _snapshot,
    {literal(topic)} AS _topic, partition AS _partition, "offset" AS _offset, timestamp_ms,
    {_odd_hours(contract, settings.source_timezone)},
    {_cause(contract)} AS _cause
FROM imaged
"""


def _value(contract: Contract, name: str, pseudonym_key: str | None) -> str:
    column = next(c for c in contract.columns if c.name == name)
    value = typed(column, f"image.{quote(name)}", pseudonym_key)
    if column.when_absent is None:
        return value
    absent = f"image.{quote(name)} IS NULL AND NOT {_exists(name)}"
    return f"CASE WHEN {absent} THEN {literal(column.when_absent)} ELSE {value} END"


def _odd_hours(contract: Contract, timezone: str) -> str:
    """SQL counting a row's wall times in a repeated and in a missing hour."""
    repeated, missing = ["0"], ["0"]
    for column in contract.columns:
        if column.type.startswith("datetime") and timezone != "UTC":
            wall, utc = datetime_texts(column, f"image.{quote(column.name)}")
            twice, never = odd_hours(utc, wall, timezone)
            repeated.append(f"CAST({twice} AS INTEGER)")
            missing.append(f"CAST({never} AS INTEGER)")
    return f"{' + '.join(repeated)} AS _repeated_hour, {' + '.join(missing)} AS _missing_hour"


def _exists(name: str) -> str:
    return f"coalesce(json_exists(json, image_path || {literal('.' + name)}), false)"


def _cause(contract: Contract) -> str:
    """SQL for the first thing that is wrong with a row, null where nothing is.

    The long list is only walked for rows that the short test finds wrong.
    """
    causes = [
        ("text IS NULL", "not UTF-8 text"),
        ("json IS NULL", "not JSON"),
        (
            "op IS NULL AND coalesce(json_exists(json, '$.payload'), false)",
            "JSON with an embedded schema; set value.converter.schemas.enable=false",
        ),
        ("op IS NULL", "not a Debezium envelope: no op"),
        ("op = 't'", "the table was truncated at the source; truncates are not applied"),
        ("op NOT IN ('c', 'u', 'd', 'r')", "unknown op"),
        (
            "coalesce(json_type(json, image_path), '') <> 'OBJECT'",
            "the row image is missing or not an object",
        ),
    ]
    causes += [(f"image.{quote(name)} IS NULL", f"key column {name} is missing") for name in contract.key]
    for column in contract.columns:
        json_type = f"json_type(json, image_path || {literal('.' + column.name)})"
        causes.append(breach(column, f"image.{quote(column.name)}", _exists(column.name), json_type))
    numbers = {"ts_ms": "ts_text", "server_id": "s.server_id", "pos": "s.pos", "row": "s.row"}
    causes += [(not_integer(text), f"source.{name} is not a whole number") for name, text in numbers.items()]
    causes += [
        (f"coalesce(ts_ms NOT BETWEEN 1 AND {_LATEST_MS}, true)", "source.ts_ms is missing or no time"),
        (
            "op <> 'r' AND (s.pos IS NULL OR NOT coalesce(regexp_matches(s.file, '\\.[0-9]+$'), false))",
            "source.file or source.pos is missing: the change has no place in the binlog",
        ),
    ]
    image_present = " AND ".join(f"image.{quote(name)} IS NOT NULL" for name in contract.key)
    breaches = " OR ".join(condition for condition, _ in causes[7 + len(contract.key) :])
    chain = " ".join(f"WHEN {condition} THEN {literal(words)}" for condition, words in causes)
    return f"""CASE WHEN op IN ('c', 'u', 'd', 'r') AND {image_present}
              AND NOT coalesce({breaches}, false) THEN NULL
         ELSE CASE {chain} ELSE 'the row could not be read' END END"""
