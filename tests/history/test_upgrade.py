"""A file of the time when history was tables of its own is brought into today's form."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from tests.histories import TABLES, World
from tests.platform import Platform

_VALIDITY = ("_valid_from", "_valid_to", "_version_no")


def age(con: duckdb.DuckDBPyConnection, table: str) -> None:
    """Take a change log back to the form that it had: no validity, `_before` a struct of typed values."""
    con.execute(f"DROP VIEW history.{table}")
    con.execute(f"CREATE TABLE history.{table} (id BIGINT)")
    columns = dict(con.execute(
        "SELECT column_name, data_type FROM duckdb_columns() WHERE schema_name = 'cdc' AND table_name = ?",
        [table],
    ).fetchall())  # fmt: skip
    typed = ", ".join(
        f"{name} := CAST(json_extract_string(_before, '$.{name}') AS {kind})"
        for name, kind in columns.items()
        if not name.startswith("_")
    )
    kind = f"STRUCT({', '.join(f'{n} {k}' for n, k in columns.items() if not n.startswith('_'))})"
    con.execute(f"ALTER TABLE cdc.{table} ADD COLUMN before_then {kind}")
    con.execute(f"UPDATE cdc.{table} SET before_then = struct_pack({typed}) WHERE _before IS NOT NULL")
    con.execute(f"ALTER TABLE cdc.{table} DROP COLUMN _before")
    con.execute(f"ALTER TABLE cdc.{table} RENAME before_then TO _before")
    for name in (*_VALIDITY, *(["_business_date"] if "_business_date" in columns else [])):
        con.execute(f"ALTER TABLE cdc.{table} DROP COLUMN {name}")


@pytest.mark.parametrize("seed", [3, 4])
def test_history_is_the_same_after_the_upgrade(tmp_path: Path, seed: int) -> None:
    messages = World(seed=seed, sizes=(12,) * 10).messages()
    with Platform(tables=TABLES, marts_of={}, file=tmp_path / "core.duckdb") as platform:
        platform.land(messages)
        history = {table: sorted(map(repr, platform.rows(f"history.{table}"))) for table in TABLES}
        assert all(history.values())
        for table in TABLES:
            age(platform.con, table)
        platform.con.execute("UPDATE meta.setup SET value = 'of then' WHERE name = 'schema'")
        platform.warehouse.prepare(platform.con, evolve=True)
        upgraded = {table: sorted(map(repr, platform.rows(f"history.{table}"))) for table in TABLES}
    assert upgraded == history
