"""The rows of `decoded`, from messages whose columns have been told apart: SQL made from a contract.

A form's own module makes a relation of its messages: `partition`, `"offset"`, `timestamp_ms`, `op`,
`has_image` and `has_before`, and columns named `after NAME`, `before NAME` and `source NAME` for what
the message has. What these values are is the same for all of them, and is said here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from bi_assets.contracts.contract import Column, Contract
from bi_assets.landing.batch import LATEST_MS
from bi_assets.landing.columns import not_integer, repairs
from bi_assets.landing.debezium_json import TRUNCATED
from bi_assets.landing.wall_time import odd_hours
from bi_assets.landing.wire import (
    Cell,
    Reader,
    Wire,
    cell,
    cell_of_text,
    name_of,
    of_json,
    plain_name,
    stored,
)
from bi_assets.settings import Settings
from bi_assets.sql import literal, quote

_IS_WHOLE_TRUNCATE = f"""NOT coalesce(has_image, false) AND server_id IS NOT NULL AND pos IS NOT NULL
  AND coalesce(regexp_matches(file, '\\.[0-9]+$'), false)
  AND coalesce(ts_ms BETWEEN 1 AND {LATEST_MS}, false)"""
SOURCE = ("ts_ms", "ts_us", "snapshot", "server_id", "gtid", "file", "pos", "row")
"""What is landed of `source`."""


@dataclass(frozen=True)
class Layout:
    """What a relation of messages has.

    `wires`: the columns of the row, those that the contract knows; `source`: which of `SOURCE`;
    `is_flat`: there is only the row, and little or nothing of its source; `exists`: SQL telling whether
    a row has a column, where no schema says so for all of them.
    """

    wires: Mapping[str, Wire]
    source: Collection[str]
    read: Reader
    is_flat: bool = False
    exists: Callable[[str], str] | None = None


def rows_sql(contract: Contract, topic: str, settings: Settings, relation: str, layout: Layout) -> str:
    """Return the query for rows like those of `decoded`, of a relation (SQL) of messages."""
    cells = {c.name: _cell(c, layout) for c in contract.columns}
    key = settings.pseudonym_key
    plain = ",\n    ".join(f"{cells[c.name].plain} AS {plain_name(c)}" for c in contract.columns)
    values = ",\n    ".join(f"{stored(c, plain_name(c), key)} AS {quote(c.name)}" for c in contract.columns)
    return f"""
WITH messages_told_apart AS ({relation}),
images AS (
  SELECT *, {_images(contract, layout)}
  FROM messages_told_apart
),
sources AS (
  SELECT *, {_source(layout)}
  FROM images
),
plain AS (
  SELECT *,
    {plain}
  FROM sources
)
SELECT {values},
    {_before(contract, layout, key)} AS _before,
    op AS _op,
    CASE WHEN ts_ms NOT BETWEEN 1 AND {LATEST_MS} THEN NULL
         WHEN ts_us // 1000 = ts_ms THEN make_timestamp(ts_us)
         ELSE make_timestamp(ts_ms * 1000) END AS _source_ts,
    server_id AS _server_id, file AS _binlog_file, pos AS _binlog_pos, coalesce("row", 0) AS _row,
    gtid AS _gtid, coalesce(snapshot, 'false') AS _snapshot,
    {literal(topic)} AS _topic, partition AS _partition, "offset" AS _offset, timestamp_ms,
    {_odd_hours(cells, settings.source_timezone)},
    {_cause(contract, cells, layout)} AS _cause
FROM plain
"""


def _image(column: Column) -> str:
    return name_of("image", column.name)


def _cell(column: Column, layout: Layout) -> Cell:
    wire = layout.wires.get(column.name)
    if wire and layout.exists:
        return cell_of_text(column, _image(column), layout.exists(column.name))
    if wire:
        return cell(column, wire, _image(column), layout.read)
    absent = literal(column.when_absent) if column.when_absent is not None else "NULL"
    fault = "true" if column.required or column.not_null else "false"
    return Cell(f"CAST({absent} AS {column.stored_type})", fault, f"the row has no column {column.name}")


def _images(contract: Contract, layout: Layout) -> str:
    """SQL for what a message has of each column in the row that it is about."""
    selected = ["has_image"]
    for name in (c.name for c in contract.columns if c.name in layout.wires):
        after, before = name_of("after", name), name_of("before", name)
        image = after if layout.is_flat else f"CASE WHEN op = 'd' THEN {before} ELSE {after} END"
        selected.append(f"{image} AS {name_of('image', name)}")
    return ", ".join(selected[1:]) or "true AS is_empty"


def _source(layout: Layout) -> str:
    """SQL for the time and place of the change; null where the message does not tell."""
    whole = {"ts_ms", "ts_us", "server_id", "pos", "row"}
    selected = []
    for name in SOURCE:
        told = name_of("source", name) if name in layout.source else "NULL"
        if name == "ts_ms" and layout.is_flat:
            # Whoever sent it did not say when: Kafka says when it was sent.
            told = f"coalesce(TRY_CAST({told} AS BIGINT), timestamp_ms)"
        kind = "BIGINT" if name in whole else "VARCHAR"
        selected.append(f"TRY_CAST({told} AS {kind}) AS {quote(name)}")
    return ", ".join(selected)


def _before(contract: Contract, layout: Layout, key: str | None) -> str:
    if layout.is_flat:
        return "CAST(NULL AS VARCHAR)"
    packed = []
    for column in contract.columns:
        wire = layout.wires.get(column.name)
        value = "NULL"
        if wire:
            plain = cell(column, wire, name_of("before", column.name), layout.read).plain
            value = stored(column, plain, key)
        packed.append(f"{quote(column.name)} := CAST({value} AS VARCHAR)")
    return (
        "CASE WHEN op = 'u' AND has_before "
        f"THEN CAST(to_json(struct_pack({', '.join(packed)})) AS VARCHAR) END"
    )


def _odd_hours(cells: Mapping[str, Cell], timezone: str) -> str:
    """SQL counting a row's wall times in a repeated and in a missing hour."""
    repeated, missing = ["0"], ["0"]
    for found in cells.values():
        if found.wall_and_utc and timezone != "UTC":
            wall, utc = found.wall_and_utc
            twice, never = odd_hours(utc, wall, timezone)
            repeated.append(f"CAST({twice} AS INTEGER)")
            missing.append(f"CAST({never} AS INTEGER)")
    return f"{' + '.join(repeated)} AS _repeated_hour, {' + '.join(missing)} AS _missing_hour"


def _cause(contract: Contract, cells: Mapping[str, Cell], layout: Layout) -> str:
    """SQL for the first thing that is wrong with a row, null where nothing is."""
    causes = [
        ("op IS NULL", "not a Debezium envelope: no op"),
        (f"op = 't' AND {_IS_WHOLE_TRUNCATE}", TRUNCATED),
        ("op = 't'", "a truncate that has a row, or no place in the binlog, or no time"),
        ("op NOT IN ('c', 'u', 'd', 'r')", "unknown op"),
        ("NOT coalesce(has_image, false)", "the row image is missing or not an object"),
    ]
    causes += [
        (f"{plain_name(c)} IS NULL", f"key column {c.name} is missing")
        for c in contract.columns
        if c.name in contract.key and c.name not in layout.wires
    ]
    causes += [
        (f"{_image(c)} IS NULL", f"key column {c.name} is missing")
        for c in contract.columns
        if c.name in contract.key and c.name in layout.wires
    ]
    if layout.exists:
        for column in contract.columns:
            causes += repairs(column, _image(column), plain_name(column))
    # A tombstone that stands for a delete has the key and nothing else.
    causes += [
        (found.fault if name in contract.key or not layout.is_flat else f"op <> 'd' AND ({found.fault})",
         found.words)
        for name, found in cells.items()
        if found.fault != "false"
    ]  # fmt: skip
    causes += [
        (not_integer(f"CAST({name_of('source', name)} AS VARCHAR)", quote(name)),
         f"source.{name} is not a whole number")
        for name in ("ts_ms", "server_id", "pos", "row")
        if layout.read is of_json and name in layout.source and not (name == "ts_ms" and layout.is_flat)
    ]  # fmt: skip
    causes.append(
        (f"coalesce(ts_ms NOT BETWEEN 1 AND {LATEST_MS}, true)", "source.ts_ms is missing or no time")
    )
    if not layout.is_flat:
        causes.append(
            (
                "op <> 'r' AND (pos IS NULL OR NOT coalesce(regexp_matches(file, '\\.[0-9]+$'), false))",
                "source.file or source.pos is missing: the change has no place in the binlog",
            )
        )
    doubt = " OR ".join(f"({condition})" for condition, _ in causes)
    chain = " ".join(f"WHEN {condition} THEN {literal(words)}" for condition, words in causes)
    return f"CASE WHEN {doubt} THEN CASE {chain} END END"
