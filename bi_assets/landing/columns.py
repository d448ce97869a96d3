"""How the text of a JSON value becomes a typed, de-identified column: SQL made from a contract.

Every value is first taken as text, because DuckDB's direct conversion turns what does not fit
into a silent null (and 5.5 into 6). `typed` converts; `breach` says what is wrong, if anything.
"""

from __future__ import annotations

import hashlib

from bi_assets.contracts.contract import Column

_EARLIEST_MS, _LATEST_MS = -62135596800000, 253402300799999  # years 1 to 9999
_EARLIEST_DAY, _LATEST_DAY = -719162, 2932896


def typed(column: Column, text: str, pseudonym_key: str | None) -> str:
    """Return SQL for the stored value of a column, from the SQL of its JSON text.

    Null where the text does not fit the type; `breach` tells that from a true null.
    """
    value = _plain(column, text)
    if column.privacy == "pseudonym" and pseudonym_key:
        return token(f"CAST({value} AS VARCHAR)", pseudonym_key)
    return value


def stored_type(column: Column, pseudonym_key: str | None) -> str:
    """Return the DuckDB type of a column in the change log, the history and the marts."""
    return "VARCHAR" if column.privacy == "pseudonym" and pseudonym_key else column.stored_type


def token(text: str, key: str) -> str:
    """Return SQL for the keyed token of a text: HMAC-SHA-256 (RFC 2104), in hex; null stays null."""
    secret = key.encode()
    if len(secret) > 64:
        secret = hashlib.sha256(secret).digest()
    padded = secret.ljust(64, b"\0")
    inner = bytes(byte ^ 0x36 for byte in padded).hex()
    outer = bytes(byte ^ 0x5C for byte in padded).hex()
    return f"sha256(unhex('{outer}') || unhex(sha256(unhex('{inner}') || encode({text}))))"


def breach(column: Column, text: str, exists: str, json_type: str) -> tuple[str, str]:
    """Return SQL for "this row breaks the contract here" and the words for it.

    `exists` is SQL telling whether the row has the column at all, `json_type` SQL for the type of
    its JSON value; both are costly, and asked only where the text leaves a doubt.
    """
    plain = _plain(column, text)
    conditions: list[str] = []
    words = f"{column.name} is not a valid {column.type}"
    if column.type in ("bigint", "int", "date") or column.type.startswith("datetime"):
        conditions.append(f"({not_integer(text)} OR ({text} IS NOT NULL AND {plain} IS NULL))")
    elif column.type == "varchar":
        suspicious = f"(left({text}, 1) IN ('{{', '[') OR {text} IN ('true', 'false'))"
        conditions.append(f"({suspicious} AND {json_type} <> 'VARCHAR')")
    else:
        conditions.append(f"({text} IS NOT NULL AND {plain} IS NULL)")
    if column.minimum is not None:
        conditions.append(f"coalesce({plain} < {column.minimum}, false)")
        words += f" of at least {column.minimum}"
    if column.maximum is not None:
        conditions.append(f"coalesce({plain} > {column.maximum}, false)")
        words += f" and at most {column.maximum}"
    if column.not_null:
        conditions.append(f"{text} IS NULL")
        words += ", or is missing"
        if column.type.startswith("date"):
            # Debezium writes a zero date of a NOT NULL column as 1970-01-01.
            conditions.append(f"coalesce({text} = '0', false)")
            words += " or a zero date"
    elif column.required:
        conditions.append(f"({text} IS NULL AND NOT {exists})")
        words += ", or the row has no such column"
    return "(" + " OR ".join(conditions) + ")", words


def not_integer(text: str) -> str:
    """Return SQL for "this text is not a whole number"; null is none, and no fault.

    The text must be the number that it becomes: ' 5', '5.5' and '0x10' would all be converted.
    """
    number = f"CAST(TRY_CAST({text} AS BIGINT) AS VARCHAR)"
    return f"coalesce({number} <> {text}, {text} IS NOT NULL)"


def datetime_texts(column: Column, text: str) -> tuple[str, str]:
    """Return SQL for the wall time that a DATETIME's number tells, and for the UTC time it is."""
    number = f"TRY_CAST({text} AS BIGINT)"
    scale = 1000 if int(column.type[9]) <= 3 else 1
    low, high = _EARLIEST_MS * (1000 // scale), _LATEST_MS * (1000 // scale)
    guard = f"CASE WHEN {number} BETWEEN {low} AND {high} THEN"
    wall = f"make_timestamp({number} * {scale})"
    return f"{guard} {wall} END", f"{guard} utc_of_source({wall}) END"


def _plain(column: Column, text: str) -> str:
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
