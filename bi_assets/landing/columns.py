"""How the text of a JSON value becomes a typed, de-identified column: SQL made from a contract.

Every value is first taken as text, because DuckDB's direct conversion turns what does not fit
into a silent null (and 5.5 into 6). `typed` converts; `breach` says what is wrong, if anything.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from bi_assets.contracts.contract import Column
from bi_assets.landing.batch import LATEST_MS

_EARLIEST_MS = -62135596800000  # the year 1
_EARLIEST_DAY, _LATEST_DAY = -719162, 2932896


def typed(column: Column, text: str, pseudonym_key: str | None) -> str:
    """Return SQL for the stored value of a column, from the SQL of its JSON text.

    Null where the text does not fit the type; `breach` tells that from a true null.
    """
    value = plain(column, text)
    if is_token(column, pseudonym_key):
        return token(f"CAST({value} AS VARCHAR)", pseudonym_key or "")
    return value


def is_token(column: Column, pseudonym_key: str | None) -> bool:
    """Tell whether a column is stored as a token."""
    return column.privacy == "pseudonym" and bool(pseudonym_key)


def stored_type(column: Column, pseudonym_key: str | None) -> str:
    """Return the DuckDB type of a column in the change log, the history and the marts."""
    return "VARCHAR" if is_token(column, pseudonym_key) else column.stored_type


def token(text: str, key: str) -> str:
    """Return SQL for the keyed token of a text: HMAC-SHA-256 (RFC 2104), in hex; null stays null."""
    secret = key.encode()
    if len(secret) > 64:
        secret = hashlib.sha256(secret).digest()
    padded = secret.ljust(64, b"\0")
    inner = bytes(byte ^ 0x36 for byte in padded).hex()
    outer = bytes(byte ^ 0x5C for byte in padded).hex()
    return f"sha256(unhex('{outer}') || unhex(sha256(unhex('{inner}') || encode({text}))))"


@dataclass(frozen=True)
class Breach:
    """How a row breaks the contract in one column.

    `condition` is the exact SQL test; `doubt` is a cheap one that is true wherever it is, for the
    many rows that are sound; `words` say what is wrong.
    """

    doubt: str
    condition: str
    words: str


def breach(column: Column, text: str, value: str, exists: str, json_type: str) -> Breach:
    """Return how a row may break the contract in a column.

    `text` is SQL for the JSON value as text, `value` for what it became, `exists` tells whether the
    row has the column at all, `json_type` the type of its JSON value; the last two are costly.
    """
    words = f"{column.name} is not a valid {column.type}"
    doubts = [f"({text} IS NOT NULL AND {value} IS NULL)"]
    exact: dict[str, str] = {}
    if column.type in ("bigint", "int"):
        doubts = [not_integer(text, value)]
    elif column.type == "bigint unsigned":
        doubts.append(not_integer(text, f"TRY_CAST({text} AS HUGEINT)"))
    elif column.type.startswith("date"):
        doubts.append(not_integer(text, f"TRY_CAST({text} AS BIGINT)"))
        if milliseconds := _maybe_milliseconds(column, text):
            doubts.append(milliseconds)
    elif column.type == "varchar":
        suspicious = f"(left({text}, 1) IN ('{{', '[') OR {text} IN ('true', 'false'))"
        doubts = [suspicious]
        exact[suspicious] = f"({suspicious} AND {json_type} <> 'VARCHAR')"
    if column.minimum is not None:
        doubts.append(f"{value} < {column.minimum}")
        words += f" of at least {column.minimum}"
    if column.maximum is not None:
        doubts.append(f"{value} > {column.maximum}")
        words += f" and at most {column.maximum}"
    if column.not_null:
        doubts.append(f"{text} IS NULL")
        words += ", or is missing"
        if column.type.startswith("date"):
            # Debezium writes a zero date of a NOT NULL column as 1970-01-01.
            doubts.append(f"{text} = '0'")
            words += " or a zero date"
    elif column.required:
        doubts.append(f"{text} IS NULL")
        exact[doubts[-1]] = f"({text} IS NULL AND NOT {exists})"
        words += ", or the row has no such column"
    condition = " OR ".join(exact.get(doubt, doubt) for doubt in doubts)
    return Breach(" OR ".join(doubts), condition, words)


def repairs(column: Column, text: str, value: str) -> list[tuple[str, str]]:
    """Return SQL for each way of writing a value that schemaless JSON can't tell, and the repair."""
    if column.type.startswith("decimal") or column.type == "double":
        return [
            (
                f"({value} IS NULL AND {text} <> '' AND try(from_base64({text})) IS NOT NULL)",
                f"{column.name} is the bytes of a decimal, and only a schema tells its scale; set the "
                "connector's decimal.handling.mode=string",
            )
        ]
    if column.type.startswith("date"):
        setting = "set the connector's time.precision.mode=adaptive_time_microseconds"
        number = f"TRY_CAST({text} AS BIGINT)"
        causes = [
            (
                f"regexp_matches({text}, '^([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}|\\{{)')",
                f"{column.name} is no number, and only a schema tells whether it is a wall time or UTC; "
                f"{setting}, or value.converter.schemas.enable=true where the column is a TIMESTAMP",
            ),
            (
                f"({value} IS NULL AND {number} IS NOT NULL)",
                f"{column.name} counts no days or {column.type} since 1970; {setting}",
            ),
        ]
        if milliseconds := _maybe_milliseconds(column, text):
            words = f"{column.name} may count milliseconds, and only a schema tells; {setting}"
            causes.append((milliseconds, words))
        return causes
    return []


def _maybe_milliseconds(column: Column, text: str) -> str | None:
    """SQL for "this number of microseconds is of early 1970", where milliseconds would be of today."""
    if not column.type.startswith("datetime") or adaptive_unit(column) != 1:
        return None
    return f"coalesce(abs(TRY_CAST({text} AS BIGINT)) BETWEEN 1 AND 9999999999999, false)"


def not_integer(text: str, number: str) -> str:
    """Return SQL for "this text is not a whole number"; null is none, and no fault.

    The text must be the `number` that it became: ' 5', '5.5' and '0x10' would all be converted.
    """
    return f"CAST({number} AS VARCHAR) IS DISTINCT FROM {text}"


def datetime_texts(column: Column, text: str) -> tuple[str, str]:
    """Return SQL for the wall time that a DATETIME's number tells, and for the UTC time it is."""
    return wall_and_utc(f"TRY_CAST({text} AS BIGINT)", adaptive_unit(column))


def adaptive_unit(column: Column) -> int:
    """Return how many microseconds a DATETIME's number counts by, where nobody says otherwise."""
    return 1000 if int(column.type[9]) <= 3 else 1


def wall_and_utc(number: str, unit: int) -> tuple[str, str]:
    """Return SQL for the wall time of so many units (microseconds) since 1970, and for the UTC time."""
    low, high = _EARLIEST_MS * (1000 // unit), LATEST_MS * (1000 // unit)
    guard = f"CASE WHEN {number} BETWEEN {low} AND {high} THEN"
    wall = f"make_timestamp({number} * {unit})"
    return f"{guard} {wall} END", f"{guard} utc_of_source({wall}) END"


def day(number: str) -> str:
    """Return SQL for the date of so many days since 1970; null beyond the years 1 to 9999."""
    return (
        f"CASE WHEN {number} BETWEEN {_EARLIEST_DAY} AND {_LATEST_DAY} "
        f"THEN CAST(DATE '1970-01-01' + {number} AS DATE) END"
    )


def plain(column: Column, text: str) -> str:
    """Return SQL for the value of a JSON text as the contract types it, before it becomes a token."""
    stored = column.stored_type
    if column.type == "tinyint(1)":
        return f"CASE WHEN {text} IN ('1', 'true') THEN true WHEN {text} IN ('0', 'false') THEN false END"
    if column.type == "date":
        return day(f"TRY_CAST({text} AS INTEGER)")
    if column.type.startswith("datetime"):
        return datetime_texts(column, text)[1]
    if column.type == "varchar":
        return text
    if column.type == "bigint unsigned":
        return f"TRY_CAST({unsigned(f'TRY_CAST({text} AS HUGEINT)')} AS UBIGINT)"
    return f"TRY_CAST({text} AS {stored})"


def unsigned(number: str) -> str:
    """Return SQL for a BIGINT UNSIGNED, which the connector lets run over into negative numbers."""
    return f"CASE WHEN {number} < 0 THEN {number} + 18446744073709551616::HUGEINT ELSE {number} END"
