"""The append-only change logs `cdc.TABLE`: no change twice, no change lost.

Beside what happened, a row says how long it was true (`VALIDITY`), which `history.versions` keeps
up to date; nothing else of a row ever changes.
"""

from __future__ import annotations

from bi_assets.contracts.contract import Contract
from bi_assets.landing.columns import stored_type
from bi_assets.landing.debezium_json import POSITION
from bi_assets.sql import literal, quote

BINLOG_BASE = "regexp_replace(_binlog_file, '\\.[0-9]+$', '')"
"""`binlog` of `binlog.000012`: positions of another base name can't be compared."""
BINLOG_NUMBER = "TRY_CAST(regexp_extract(_binlog_file, '([0-9]+)$', 1) AS BIGINT)"
"""12 of `binlog.000012`: compared as a number, since `pos` starts anew in each file."""

BUSINESS_DATE = "_business_date"
"""The business date of a table's rows, where the contract names one."""
VALIDITY = {"_valid_from": "TIMESTAMP", "_valid_to": "TIMESTAMP", "_version_no": "INTEGER"}
"""All null for a snapshot row that only repeats what was known."""


def create_sql(contract: Contract, pseudonym_key: str | None) -> list[str]:
    """Return the statements that make the change log of a table, or add the columns that are new.

    `_before` is the row before an update, as JSON texts: it is read seldom, and a null costs nothing.
    No key and no index: appends stay cheap, and duplicates are found by position.
    """
    columns = [f"{quote(c.name)} {stored_type(c, pseudonym_key)}" for c in contract.columns]
    columns.append("_before VARCHAR")
    columns += [f"{name} {kind}" for name, kind in POSITION.items()]
    columns += ["_landed_at TIMESTAMP", "_batch_id BIGINT"]
    columns += [f"{name} {kind}" for name, kind in VALIDITY.items()]
    if contract.business_date:
        columns.append(f"{BUSINESS_DATE} DATE")
    table = f"cdc.{quote(contract.table)}"
    return [
        f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(columns)})",
        *(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column}" for column in columns),
    ]


def stamp(contract: Contract) -> str:
    """Return SQL for what a row of the batch gets on landing; the batch is in session variables."""
    day = contract.business_date
    return "getvariable('landed_at') AS _landed_at, getvariable('batch_id') AS _batch_id" + (
        f", business_date({quote(day)}) AS {BUSINESS_DATE}" if day else ""
    )


def before_value(name: str, kind: str) -> str:
    """Return SQL for the value of a column in `_before`."""
    return f"CAST(json_extract_string(_before, {literal('$.' + name)}) AS {kind})"
