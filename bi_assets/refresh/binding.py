"""Finds marts that can't work before they are asked to: each is tried on empty tables.

A faulty one is left out, with file, line and what is wrong; it takes along only those that read it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import duckdb

from bi_assets.refresh.mart import Mart
from bi_assets.refresh.refresh import create_table


def bind(con: duckdb.DuckDBPyConnection, marts: Mapping[str, Mart]) -> tuple[dict[str, Mart], list[str]]:
    """Return the marts that hold, with their columns' types, and what is wrong with the others.

    `con` is a scratch database with the source tables' schema; it gets the marts' tables.
    """
    sound: dict[str, Mart] = {}
    faults: list[str] = []
    for mart in marts.values():
        try:
            create_table(con, mart)
            if fault := _columns_differ(con, mart) or _faulty_check(con, mart):
                con.execute(f"DROP TABLE {mart.table}")
                faults.append(f"marts/{mart.file.name}: {fault}")
                continue
        except duckdb.Error as error:
            faults.append(f"marts/{mart.file.name}{_line(mart, error)}: {_message(error)}")
            continue
        types = {row[0]: row[1] for row in con.execute(f"DESCRIBE {mart.table}").fetchall()}
        columns = tuple(replace(column, type=types[column.name]) for column in mart.columns)
        sound[mart.name] = replace(mart, columns=columns)
    return sound, faults


def _columns_differ(con: duckdb.DuckDBPyConnection, mart: Mart) -> str | None:
    made = [row[0] for row in con.execute(f"DESCRIBE {mart.table}").fetchall()]
    declared = [column.name for column in mart.columns]
    if missing := [name for name in made if name not in declared]:
        return f"column {', '.join(missing)} is selected but not declared; add it under [columns]."
    if missing := [name for name in declared if name not in made]:
        return f"column {', '.join(missing)} is declared but not selected; select it, or take it out."
    return None


def _faulty_check(con: duckdb.DuckDBPyConnection, mart: Mart) -> str | None:
    con.execute(f"CREATE OR REPLACE TEMP VIEW refreshed AS SELECT * FROM {mart.table}")
    con.execute("CREATE OR REPLACE TEMP TABLE days (day DATE)")
    for check in mart.checks:
        try:
            con.execute(check.breaches)
        except duckdb.Error as error:
            return f"check {check.name}: {_message(error)}"
    return None


def _message(error: duckdb.Error) -> str:
    return str(error).partition("\n")[0]


def _line(mart: Mart, error: duckdb.Error) -> str:
    """Tell the line of the file that the database complains of."""
    found = re.search(r"^LINE (\d+):", str(error), re.MULTILINE)
    if not (found and mart.sql):
        return ""
    above = mart.file.read_text().partition(mart.sql.partition("\n")[0])[0].count("\n")
    return f", line {above + int(found[1])}"
