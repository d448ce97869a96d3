"""How the text of a JSON value becomes a typed, de-identified column: SQL made from a contract.

Every value is first taken as text, because DuckDB's direct conversion turns what does not fit
into a silent null (and 5.5 into 6). `typed` converts; `breach` says what is wrong, if anything.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from bi_assets.contracts.contract import Column

_EARLIEST_MS, _LATEST_MS = -62135596800000, 253402300799999  # years 1 to 9999
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
    elif column.type.startswith("date"):
        doubts.append(not_integer(text, f"TRY_CAST({text} AS BIGINT)"))
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


def not_integer(text: str, number: str) -> str:
    """Return SQL for "this text is not a whole number"; null is none, and no fault.

    The text must be the `number` that it became: ' 5', '5.5' and '0x10' would all be converted.
    """
    return f"CAST({number} AS VARCHAR) IS DISTINCT FROM {text}"


def datetime_texts(column: Column, text: str) -> tuple[str, str]:
    """Return SQL for the wall time that a DATETIME's number tells, and for the UTC time it is."""
    number = f"TRY_CAST({text} AS BIGINT)"
    scale = 1000 if int(column.type[9]) <= 3 else 1
    low, high = _EARLIEST_MS * (1000 // scale), _LATEST_MS * (1000 // scale)
    guard = f"CASE WHEN {number} BETWEEN {low} AND {high} THEN"
    wall = f"make_timestamp({number} * {scale})"
    return f"{guard} {wall} END", f"{guard} utc_of_source({wall}) END"


def plain(column: Column, text: str) -> str:
    """Return SQL for the value of a JSON text as the contract types it, before it becomes a token."""
    stored = column.stored_type
    if column.type == "tinyint(1)":
        return f"CASE WHEN {text} IN ('1', 'true') THEN true WHEN {text} IN ('0', 'false') THEN false END"
    if column.type == "date":
        number = f"TRY_CAST({text} AS INTEGER)"
        return (
            f"CASE WHEN {number} BETWEEN {_EARLIEST_DAY} AND {_LATEST_DAY} "
            f"THEN CAST(DATE '1970-01-01' + {number} AS DATE) END"
        )
    if column.type.startswith("datetime"):
        return datetime_texts(column, text)[1]
    if column.type == "varchar":
        return text
    return f"TRY_CAST({text} AS {stored})"
