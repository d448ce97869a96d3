"""The append-only change logs `cdc.TABLE`: no change twice, no change lost."""

from __future__ import annotations

import duckdb

from bi_assets.contracts.contract import Contract
from bi_assets.landing.columns import stored_type
from bi_assets.landing.debezium_json import POSITION, before_type
from bi_assets.sql import quote

BINLOG_BASE = "regexp_replace(_binlog_file, '\\.[0-9]+$', '')"
"""`binlog` of `binlog.000012`: positions of another base name can't be compared."""
BINLOG_NUMBER = "TRY_CAST(regexp_extract(_binlog_file, '([0-9]+)$', 1) AS BIGINT)"
"""12 of `binlog.000012`: compared as a number, since `pos` starts anew in each file."""


def create_sql(contract: Contract, pseudonym_key: str | None) -> list[str]:
    """Return the statements that make the change log of a table, or add the columns that are new.

    No key and no index: appends stay cheap, and duplicates are found by position.
    """
    columns = [f"{quote(c.name)} {stored_type(c, pseudonym_key)}" for c in contract.columns]
    columns.append(f"_before {before_type(contract, pseudonym_key)}")
    columns += [f"{name} {kind}" for name, kind in POSITION.items()]
    columns += ["_landed_at TIMESTAMP", "_batch_id BIGINT"]
    table = f"cdc.{quote(contract.table)}"
    statements = [f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(columns)})"]
    for column in contract.columns:
        name, kind = quote(column.name), stored_type(column, pseudonym_key)
        statements.append(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {name} {kind}")
        statements.append(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS _before.{name} {kind}")
    return statements


def append(con: duckdb.DuckDBPyConnection, contract: Contract) -> None:
    """Append `landed` to the change log. Parameters of the batch are session variables."""
    con.execute(f"""
INSERT INTO cdc.{quote(contract.table)} BY NAME
SELECT *, getvariable('landed_at') AS _landed_at, getvariable('batch_id') AS _batch_id FROM landed
""")
