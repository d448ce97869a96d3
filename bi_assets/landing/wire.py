"""How a value that comes with a schema becomes a typed column: SQL made from contract and schema.

The schema tells what schemaless JSON does not: the scale of a decimal's bytes, and whether a number
counts days, milli-, micro- or nanoseconds, or a text is a wall time or one in UTC.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bi_assets.contracts.contract import Column
from bi_assets.landing.columns import (
    adaptive_unit,
    breach,
    datetime_texts,
    day,
    is_token,
    token,
    unsigned,
    wall_and_utc,
)
from bi_assets.landing.columns import plain as plain_of_text
from bi_assets.sql import literal, quote

_CONNECT = "org.apache.kafka.connect.data"
_DEBEZIUM = "io.debezium.time"
DECIMAL = f"{_CONNECT}.Decimal"
_DAYS = {"", "date", f"{_DEBEZIUM}.Date", f"{_CONNECT}.Date"}
_MICROSECONDS = {
    "timestamp-millis": 1_000,
    "local-timestamp-millis": 1_000,
    f"{_DEBEZIUM}.Timestamp": 1_000,
    f"{_CONNECT}.Timestamp": 1_000,
    "timestamp-micros": 1,
    "local-timestamp-micros": 1,
    f"{_DEBEZIUM}.MicroTimestamp": 1,
}
"""How many microseconds a number of each semantic type counts by."""
_NANOSECONDS = {"timestamp-nanos", "local-timestamp-nanos", f"{_DEBEZIUM}.NanoTimestamp"}
_WALL_TEXT, _UTC_TEXT = f"{_DEBEZIUM}.IsoTimestamp", f"{_DEBEZIUM}.ZonedTimestamp"
_MOST_DECIMALS = 11
TEXTS = {"io.debezium.data.Enum", "io.debezium.data.EnumSet", "io.debezium.data.Json"}
"""Semantic types of texts that are texts all the same."""
_REPAIRS = {
    "decimal": "decimal.handling.mode=string",
    "double": "decimal.handling.mode=string",
    "date": "time.precision.mode=adaptive_time_microseconds",
    "datetime": "time.precision.mode=adaptive_time_microseconds",
    "bigint": "bigint.unsigned.handling.mode=long",
}


@dataclass(frozen=True)
class Wire:
    """What a schema says of a column.

    `kind` is one of integer, float, boolean, text, bytes and other; `name` the semantic type, such as
    `io.debezium.time.Date`; `scale` that of a decimal.
    """

    kind: str
    name: str = ""
    scale: int | None = None

    def __str__(self) -> str:
        return f"{self.kind} ({self.name})" if self.name else self.kind


@dataclass(frozen=True)
class Cell:
    """A column as SQL: its typed value, and what is wrong with a row in it.

    `fault` is true where the row breaks the contract, told from the column `plain_name`; `words` say
    how. `wall_and_utc` are there for DATETIMEs that tell the shop's wall time.
    """

    plain: str
    fault: str
    words: str
    wall_and_utc: tuple[str, str] | None = None


Reader = Callable[[Wire, str], str]
"""Returns SQL for a value of the kind of a wire, from SQL for what the message has."""


def plain_name(column: Column) -> str:
    """Return the SQL name of a column's typed value, before it becomes a token."""
    return quote(f"plain {column.name}")


def cell(column: Column, wire: Wire, raw: str, read: Reader) -> Cell:
    """Return a column that comes as `wire`, of which the message has `raw`; null is null."""
    found = _plain(column, wire, read(wire, raw))
    if found is None:
        return Cell(f"CAST(NULL AS {column.stored_type})", f"{raw} IS NOT NULL", refusal(column, wire))
    plain, walls = found
    value = plain_name(column)
    faults = [f"({raw} IS NOT NULL AND {value} IS NULL)"]
    words = f"{column.name} is not a valid {column.type}"
    if column.minimum is not None:
        faults.append(f"coalesce({value} < {column.minimum}, false)")
        words += f" of at least {column.minimum}"
    if column.maximum is not None:
        faults.append(f"coalesce({value} > {column.maximum}, false)")
        words += f" and at most {column.maximum}"
    if column.not_null:
        faults.append(f"{raw} IS NULL")
        words += ", or is missing"
        if column.type.startswith("date"):
            # Debezium writes a zero date of a NOT NULL column as 1970-01-01.
            faults.append(f"coalesce({walls[0] if walls else value} = TIMESTAMP '1970-01-01', false)")
            words += " or a zero date"
    return Cell(plain, " OR ".join(faults), words, walls)


def cell_of_text(column: Column, text: str, exists: str) -> Cell:
    """Return a column that comes as the text of a JSON value without a schema; see `columns`."""
    value = plain_name(column)
    is_object = f"left({text}, 1) IN ('{{', '[')"
    found = breach(column, text, value, exists, f"CASE WHEN {is_object} THEN 'OBJECT' ELSE 'VARCHAR' END")
    plain_value = plain_of_text(column, text)
    if column.when_absent is not None:
        plain_value = (
            f"CASE WHEN {text} IS NULL AND NOT {exists} THEN {literal(column.when_absent)} "
            f"ELSE {plain_value} END"
        )
    walls = datetime_texts(column, text) if column.type.startswith("datetime") else None
    return Cell(plain_value, f"coalesce({found.condition}, false)", found.words, walls)


def stored(column: Column, plain: str, pseudonym_key: str | None) -> str:
    """Return SQL for what is stored of a typed value."""
    if is_token(column, pseudonym_key):
        return token(f"CAST({plain} AS VARCHAR)", pseudonym_key or "")
    return plain


def refusal(column: Column, wire: Wire) -> str:
    """Return why a column can't be read from what it comes as, and the setting that mends it."""
    words = f"{column.name} comes as {wire}, and its contract says {column.type}"
    repair = _REPAIRS.get(column.type.partition("(")[0].partition(" ")[0])
    return f"{words}; set the connector's {repair}, or mend the contract" if repair else words


def _plain(column: Column, wire: Wire, native: str) -> tuple[str, tuple[str, str] | None] | None:
    """SQL for the typed value, and for wall time and UTC of it; None where the types don't go together."""
    kept = column.stored_type
    value: str | None = None
    walls: tuple[str, str] | None = None
    match column.type.partition("(")[0]:
        case "bigint" | "int":
            value = _whole(wire, native, kept)
        case "bigint unsigned":
            whole = _whole(wire, native, "HUGEINT")
            value = whole and f"TRY_CAST({unsigned(whole)} AS UBIGINT)"
        case "tinyint":
            if wire.kind in ("integer", "boolean"):
                value = f"CASE CAST({native} AS BIGINT) WHEN 1 THEN true WHEN 0 THEN false END"
        case "decimal" | "double":
            value = _decimal(wire, native, kept)
        case "date":
            if wire.kind == "integer" and wire.name in _DAYS:
                value = day(f"TRY_CAST({native} AS INTEGER)")
            elif wire == Wire("text", f"{_DEBEZIUM}.IsoDate"):
                value = f"TRY_CAST(rtrim({native}, 'Z') AS DATE)"
        case "datetime":
            walls = _wall_and_utc(column, wire, native)
            value = walls and walls[1]
            if wire.name == _UTC_TEXT:
                value, walls = _time_of_text(native), None
        case "varchar":
            if wire.kind in ("text", "integer", "float") and wire.name != DECIMAL:
                value = f"CAST({native} AS VARCHAR)"
    return (value, walls) if value else None


def _whole(wire: Wire, native: str, stored: str) -> str | None:
    if wire.kind in ("integer", "boolean"):
        return f"TRY_CAST({native} AS {stored})"
    if wire.kind == "bytes" and wire.name == DECIMAL and wire.scale == 0:
        return f"TRY_CAST({_big_endian(native)} AS {stored})"
    if wire.kind == "text" and not wire.name:
        number = f"TRY_CAST({native} AS {stored})"
        return f"CASE WHEN CAST({number} AS VARCHAR) = {native} THEN {number} END"
    return None


def _decimal(wire: Wire, native: str, stored: str) -> str | None:
    if wire.kind == "bytes" and wire.name == DECIMAL and 0 <= (wire.scale or 0) <= _MOST_DECIMALS:
        scale = wire.scale or 0
        unit = f"CAST({10**-scale:.{scale}f} AS DECIMAL({scale + 1}, {scale}))"
        return f"TRY_CAST(TRY_CAST({_big_endian(native)} AS DECIMAL(26, 0)) * {unit} AS {stored})"
    if wire.kind == "float":  # by way of its shortest text: 0.1 is a tenth
        return f"TRY_CAST(CAST({native} AS VARCHAR) AS {stored})"
    if wire.kind == "integer" or (wire.kind == "text" and not wire.name):
        return f"TRY_CAST({native} AS {stored})"
    return None


def _big_endian(blob: str) -> str:
    """SQL for the number of up to 16 bytes in two's complement; null for none and for more."""
    padding = f"CAST(16 - octet_length({blob}) AS BIGINT)"
    sign = f"CASE WHEN {blob} >= '\\x80'::BLOB THEN 'FF' ELSE '00' END"
    return (
        f"CASE WHEN octet_length({blob}) BETWEEN 1 AND 16 "
        f"THEN CAST(CAST(unhex(repeat({sign}, {padding})) || {blob} AS BIT) AS HUGEINT) END"
    )


def _wall_and_utc(column: Column, wire: Wire, native: str) -> tuple[str, str] | None:
    if wire.kind == "integer":
        if wire.name in _NANOSECONDS:
            return wall_and_utc(f"({native} // 1000)", 1)
        unit = _MICROSECONDS.get(wire.name, 0 if wire.name else adaptive_unit(column))
        return wall_and_utc(native, unit) if unit else None
    if wire == Wire("text", _WALL_TEXT):
        wall = _time_of_text(native)
        return wall, f"utc_of_source({wall})"
    return None


def _time_of_text(text: str) -> str:
    return f"CAST(TRY_CAST({text} AS TIMESTAMPTZ) AS TIMESTAMP)"


def of_avro(_wire: Wire, raw: str) -> str:
    """Avro's values come as what they are."""
    return raw


def of_json(wire: Wire, raw: str) -> str:
    """Return SQL for the value that a JSON text stands for, by what the schema says it is."""
    match wire.kind:
        case "integer":  # 5.5 would become 6
            number = f"TRY_CAST({raw} AS BIGINT)"
            return f"CASE WHEN CAST({number} AS VARCHAR) = {raw} THEN {number} END"
        case "boolean":
            return f"TRY_CAST({raw} AS BOOLEAN)"
        case "bytes":
            # JSON, since without its quotes a number could pass for base64.
            text = f"CAST({raw} AS VARCHAR)"
            return f"CASE WHEN {text}[1] = '\"' THEN try(from_base64({text}[2:-2])) END"
    return raw


def name_of(part: str, column: str) -> str:
    """Return the SQL name of what a message has of a column, in `after`, `before` or `source`."""
    return quote(f"{part} {column}")
