"""Debezium's schemaless JSON envelope, decoded by the batch.

Every decoder of this folder makes the same relation from the messages of one topic, the
temporary table `decoded`: one row per message that is not a tombstone, the contract's columns
typed, `_before` (the row before an update, as JSON), where and when the change was made, and `_cause`:
null, or why the row can't be landed. The other forms are told from this one in `forms`.
"""

from __future__ import annotations

from bi_assets.contracts.contract import Column, Contract
from bi_assets.landing.batch import LATEST_MS
from bi_assets.landing.columns import (
    breach,
    datetime_texts,
    is_token,
    not_integer,
    plain,
    repairs,
    typed,
)
from bi_assets.landing.wall_time import odd_hours
from bi_assets.settings import Settings
from bi_assets.sql import literal, quote

_SOURCE = (
    '{"ts_ms":"VARCHAR","ts_us":"VARCHAR","snapshot":"VARCHAR","server_id":"VARCHAR",'
    '"gtid":"VARCHAR","file":"VARCHAR","pos":"VARCHAR","row":"VARCHAR"}'
)
TRUNCATED = "the table was truncated"
"""The cause of a message that is no row to land, but one for `truncates`."""

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
    "_other_key": "VARCHAR",
}
"""What every change carries beside its row: what it was, when, and where in binlog and Kafka."""


def decode_sql(contract: Contract, topic: str, settings: Settings) -> str:
    """Return the statement that makes `decoded` from the relation `messages` of one topic.

    Every step is done once: texts are parsed, the row image's values taken as text, then typed.
    What takes a second look at the JSON is left for the rows that give reason to doubt.
    """
    key = settings.pseudonym_key
    image = "{" + ",".join(f'"{name}":"VARCHAR"' for name in contract.names) + "}"
    envelope = f'{{"op":"VARCHAR","before":"VARCHAR","after":{image},"source":{_SOURCE}}}'
    texts = ", ".join(f"image.{quote(c.name)} AS {_text(c)}" for c in contract.columns)
    values = ",\n    ".join(f"{_value(c, key)} AS {quote(c.name)}" for c in contract.columns)
    before = ", ".join(
        f"{quote(c.name)} := CAST({typed(c, f'before.{quote(c.name)}', key)} AS VARCHAR)"
        for c in contract.columns
    )
    names = ", ".join(quote(name) for name in contract.names)
    return f"""
CREATE OR REPLACE TEMP TABLE decoded AS
WITH texts AS (
  SELECT partition, "offset", timestamp_ms, try(decode(CAST(value AS BLOB))) AS text
  FROM messages WHERE value IS NOT NULL
),
parsed AS (
  SELECT *, try(from_json(text, {literal(envelope)})) AS e FROM texts
),
imaged AS (
  SELECT * EXCLUDE (e), e.op AS op, e.source AS s,
    -- Most rows have none, and a struct of nulls is as costly as one of values.
    CASE WHEN e.op IN ('u', 'd') THEN try(from_json(e.before, {literal(image)})) END AS before,
    CASE WHEN e.op = 'd' THEN before ELSE e.after END AS image,
    -- Some versions leave a snapshot row's time at 0; the envelope's is right there.
    CASE WHEN e.op = 'r' AND coalesce(e.source.ts_ms, '0') = '0' THEN json_extract_string(text, '$.ts_ms')
         ELSE e.source.ts_ms END AS ts_text
  FROM parsed
),
fields AS (
  SELECT * EXCLUDE (image), {texts}, TRY_CAST(ts_text AS BIGINT) AS ts_ms,
    TRY_CAST(s.ts_us AS BIGINT) AS ts_us, TRY_CAST(s.server_id AS BIGINT) AS _server_id,
    TRY_CAST(s.pos AS BIGINT) AS _binlog_pos, TRY_CAST(s.row AS BIGINT) AS "row"
  FROM imaged
),
typed AS (
  SELECT *,
    {values}
  FROM fields
)
SELECT {names},
    CASE WHEN op = 'u' AND before IS NOT NULL
         THEN CAST(to_json(struct_pack({before})) AS VARCHAR) END AS _before,
    op AS _op,
    CASE WHEN ts_ms NOT BETWEEN 1 AND {LATEST_MS} THEN NULL
         WHEN ts_us // 1000 = ts_ms THEN make_timestamp(ts_us)  -- finer, with GTIDs
         ELSE make_timestamp(ts_ms * 1000) END AS _source_ts,
    _server_id, s.file AS _binlog_file, _binlog_pos, coalesce("row", 0) AS _row,
    s.gtid AS _gtid, coalesce(s.snapshot, 'false') AS _snapshot,
    {literal(topic)} AS _topic, partition AS _partition, "offset" AS _offset,
    CAST(NULL AS VARCHAR) AS _other_key, timestamp_ms,
    {_odd_hours(contract, settings.source_timezone)},
    {_cause(contract, key)} AS _cause
FROM typed
"""


def _text(column: Column) -> str:
    return quote(f"text of {column.name}")


def _value(column: Column, pseudonym_key: str | None) -> str:
    text = _text(column)
    value = typed(column, text, pseudonym_key)
    if column.when_absent is None:
        return value
    # Two steps: only a null is worth the look whether there is such a column.
    absent = f"CASE WHEN {_exists(column.name)} THEN NULL ELSE {literal(column.when_absent)} END"
    return f"CASE WHEN {text} IS NULL THEN {absent} ELSE {value} END"


def _odd_hours(contract: Contract, timezone: str) -> str:
    """SQL counting a row's wall times in a repeated and in a missing hour."""
    repeated, missing = ["0"], ["0"]
    for column in contract.columns:
        if column.type.startswith("datetime") and timezone != "UTC":
            wall, utc = datetime_texts(column, _text(column))
            twice, never = odd_hours(utc, wall, timezone)
            repeated.append(f"CAST({twice} AS INTEGER)")
            missing.append(f"CAST({never} AS INTEGER)")
    return f"{' + '.join(repeated)} AS _repeated_hour, {' + '.join(missing)} AS _missing_hour"


_JSON = "TRY_CAST(text AS JSON)"
_IS_WHOLE_TRUNCATE = f"""coalesce(json_type({_JSON}, '$.after'), 'NULL') = 'NULL' AND _server_id IS NOT NULL
  AND _binlog_pos IS NOT NULL AND coalesce(regexp_matches(s.file, '\\.[0-9]+$'), false)
  AND coalesce(ts_ms BETWEEN 1 AND {LATEST_MS}, false)"""
_IMAGE_PATH = "CASE WHEN op = 'd' THEN '$.before' ELSE '$.after' END"


def _exists(name: str) -> str:
    return f"coalesce(json_exists({_JSON}, {_IMAGE_PATH} || {literal('.' + name)}), false)"


def _cause(contract: Contract, pseudonym_key: str | None) -> str:
    """SQL for the first thing that is wrong with a row, null where nothing is.

    The long list is only walked for rows that the short and cheap test gives reason to doubt.
    """
    causes = [
        ("text IS NULL", "not UTF-8 text"),
        (f"{_JSON} IS NULL", "not JSON"),
        ("op IS NULL", "not a Debezium envelope: no op"),
        (f"op = 't' AND {_IS_WHOLE_TRUNCATE}", TRUNCATED),
        ("op = 't'", "a truncate that has a row, or no place in the binlog, or no time"),
        ("op NOT IN ('c', 'u', 'd', 'r')", "unknown op"),
        (
            f"coalesce(json_type({_JSON}, {_IMAGE_PATH}), '') <> 'OBJECT'",
            "the row image is missing or not an object",
        ),
    ]
    doubts = ["op IS NULL", "op NOT IN ('c', 'u', 'd', 'r')"]
    for column in contract.columns:
        if column.name in contract.key:
            causes.append((f"{_text(column)} IS NULL", f"key column {column.name} is missing"))
            doubts.append(causes[-1][0])
    for column in contract.columns:
        text = _text(column)
        value = plain(column, text) if is_token(column, pseudonym_key) else quote(column.name)
        json_type = f"json_type({_JSON}, {_IMAGE_PATH} || {literal('.' + column.name)})"
        found = breach(column, text, value, _exists(column.name), json_type)
        causes += repairs(column, text, value)
        causes.append((found.condition, found.words))
        doubts.append(found.doubt)
    numbers = {
        "ts_ms": ("ts_text", "ts_ms"),
        "server_id": ("s.server_id", "_server_id"),
        "pos": ("s.pos", "_binlog_pos"),
        "row": ("s.row", '"row"'),
    }
    certain = [
        (not_integer(text, number), f"source.{name} is not a whole number")
        for name, (text, number) in numbers.items()
    ]
    certain += [
        (f"coalesce(ts_ms NOT BETWEEN 1 AND {LATEST_MS}, true)", "source.ts_ms is missing or no time"),
        (
            "op <> 'r' AND (s.pos IS NULL OR NOT coalesce(regexp_matches(s.file, '\\.[0-9]+$'), false))",
            "source.file or source.pos is missing: the change has no place in the binlog",
        ),
    ]
    causes += certain
    doubts += [condition for condition, _ in certain]
    chain = " ".join(f"WHEN {condition} THEN {literal(words)}" for condition, words in causes)
    return f"CASE WHEN {' OR '.join(doubts)} THEN CASE {chain} END END"
