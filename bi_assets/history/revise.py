"""Changing what is in a change log, with everything that follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from bi_assets.contracts.contract import Contract
from bi_assets.history.versions import rebuild
from bi_assets.sql import quote


@contextmanager
def revised(con: duckdb.DuckDBPyConnection, contract: Contract, keys: str) -> Iterator[None]:
    """Let the rows of some keys be changed in the `with` block; bring their versions up to date after it.

    `keys` is SQL for the key columns of everything that is going to be changed. Leaves the temporary view
    `changed_TABLE`, as `history.versions.append` does. Call it inside a transaction.
    """
    table, key = quote(contract.table), ", ".join(map(quote, contract.key))
    chosen, before, after, changed = (
        quote(f"{name}_{contract.table}")
        for name in ("revised_keys", "revised_before", "revised_after", "revised_changes")
    )
    con.execute(f"CREATE OR REPLACE TEMP TABLE {chosen} AS SELECT DISTINCT {key} FROM ({keys})")
    now = f"SELECT * FROM history.{table} SEMI JOIN {chosen} USING ({key})"
    con.execute(f"CREATE OR REPLACE TEMP TABLE {before} AS {now}")
    yield
    rebuild(con, contract, f"SEMI JOIN {chosen} USING ({key})")
    con.execute(f"CREATE OR REPLACE TEMP TABLE {after} AS {now}")
    con.execute(f"""
CREATE OR REPLACE TEMP TABLE {changed} AS
SELECT 'old' AS side, * FROM (FROM {before} EXCEPT FROM {after})
UNION ALL SELECT 'new' AS side, * FROM (FROM {after} EXCEPT FROM {before})""")
    con.execute(f"CREATE OR REPLACE TEMP VIEW {quote(f'changed_{contract.table}')} AS FROM {changed}")
