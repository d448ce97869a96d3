"""Patients who were erased stay out: what Kafka still has of them does not land again.

All that is kept of them are keyed tokens: of the patient, and of the rows that others belong to (an
order's items name the order, not the patient). The key is BI_PSEUDONYM_KEY, or a random one in the core
file where there is none.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import duckdb

from bi_assets.contracts.contract import Contract
from bi_assets.history.revise import revised
from bi_assets.landing.change_log import before_value
from bi_assets.landing.columns import token
from bi_assets.settings import Settings
from bi_assets.sql import literal, quote

SCHEMA = [
    "CREATE TABLE IF NOT EXISTS meta.erased (token VARCHAR)",
    "CREATE TABLE IF NOT EXISTS meta.erasure_key (key VARCHAR)",
    "CREATE TABLE IF NOT EXISTS meta.erasures (erased_at TIMESTAMP, token VARCHAR, receipt VARCHAR)",
]
MARK = "is_anyone_erased"
"""In `meta.setup` once a patient was erased, and a variable of each session since: to ask costs nothing."""


@dataclass(frozen=True)
class Owner:
    """The column that says whose a row is, and the table that it is a key of."""

    column: str
    table: str


def owner(contract: Contract) -> Owner | None:
    """Return what says whose a table's rows are; None where they are nobody's."""
    for column in contract.columns:
        if column.belongs_to:
            return Owner(column.name, column.belongs_to)
    return None


def children(contracts: Mapping[str, Contract], table: str) -> Iterable[tuple[Contract, Owner]]:
    """Return the tables whose rows belong to those of a table."""
    for contract in contracts.values():
        its = owner(contract)
        if its and its.table == table != contract.table:
            yield contract, its


def secret(con: duckdb.DuckDBPyConnection, settings: Settings) -> str:
    """Return the key of the tokens; make one where there is none."""
    if settings.pseudonym_key:
        return settings.pseudonym_key
    row = con.execute("SELECT key FROM meta.erasure_key").fetchone()
    if row is None:
        row = (secrets.token_hex(32),)
        con.execute("INSERT INTO meta.erasure_key VALUES (?)", row)
    return str(row[0])


def mark(con: duckdb.DuckDBPyConnection) -> None:
    """Have every session from now on look out for erased patients."""
    con.execute(
        "INSERT INTO meta.setup SELECT $mark, 'yes' "
        "WHERE NOT EXISTS (SELECT 1 FROM meta.setup WHERE name = $mark)",
        {"mark": MARK},
    )
    con.execute(f"SET VARIABLE {MARK} = true")


def token_sql(table: str, key: str, secret: str) -> str:
    """Return SQL for the token of a table's row, from the SQL of its key as it is stored."""
    return token(f"('{table}:' || CAST({key} AS VARCHAR))", secret)


def keep_out(
    con: duckdb.DuckDBPyConnection,
    contract: Contract,
    contracts: Mapping[str, Contract],
    settings: Settings,
) -> int:
    """Take what belongs to erased patients out of `decoded`; return how many rows that were."""
    its = owner(contract)
    if its is None:
        return 0
    key = secret(con, settings)
    is_erased = f"{token_sql(its.table, quote(its.column), key)} IN (FROM meta.erased)"
    is_owner = contract.table != its.table and any(children(contracts, contract.table))
    if is_owner:  # of another patient's, too: an order that was theirs when they were erased
        (column,) = map(quote, contract.key)
        is_erased = f"({is_erased} OR {token_sql(contract.table, column, key)} IN (FROM meta.erased))"
    gone = quote(f"kept_out_{contract.table}")
    con.execute(f"CREATE OR REPLACE TEMP TABLE {gone} AS FROM decoded WHERE {is_erased}")
    dropped = int(con.execute(f"DELETE FROM decoded WHERE {is_erased}").fetchall()[0][0])
    # A row that was theirs and is another's now: without whose it was.
    before = token_sql(its.table, before_value(its.column, "VARCHAR"), key)
    con.execute(
        f"UPDATE decoded SET _before = NULL WHERE _before IS NOT NULL AND {before} IN (FROM meta.erased)"
    )
    if dropped and is_owner:
        for others in ("decoded", f"cdc.{quote(contract.table)}"):
            con.execute(
                f"DELETE FROM {gone} WHERE {column} IS NULL OR {column} IN (SELECT {column} FROM {others})"
            )
        con.execute(
            f"INSERT INTO meta.erased SELECT DISTINCT {token_sql(contract.table, column, key)} "
            f"FROM {gone} EXCEPT FROM meta.erased"
        )
    return dropped


def take_back(
    con: duckdb.DuckDBPyConnection, kept_out: Iterable[str], contracts: Mapping[str, Contract]
) -> list[str]:
    """Remove what landed before it was known to belong to a row that was kept out, as items before orders.

    `kept_out` are the tables that `keep_out` took rows from. Returns the tables that this changed.
    """
    changed = []
    for table in kept_out:
        for child, its in children(contracts, table):
            (key,) = contracts[table].key
            theirs = f"{quote(its.column)} IN (SELECT {quote(key)} FROM {quote(f'kept_out_{table}')})"
            if remove(con, child, theirs):
                changed.append(child.table)
    return changed


def remove(con: duckdb.DuckDBPyConnection, contract: Contract, which: str) -> int:
    """Remove change-log rows, and bring the versions of their keys up to date; return how many rows."""
    log = f"cdc.{quote(contract.table)}"
    keys = ", ".join(map(quote, contract.key))
    with revised(con, contract, f"SELECT {keys} FROM {log} WHERE {which}"):
        return int(con.execute(f"DELETE FROM {log} WHERE {which}").fetchall()[0][0])


def keep_out_of_quarantine(con: duckdb.DuckDBPyConnection, contract: Contract, settings: Settings) -> int:
    """Take this batch's messages about rows of erased patients out of quarantine; return how many.

    Whose they are, their keys say: the row's own, or the one that it belongs to where that is a part.
    """
    its = owner(contract)
    if its is None:
        return 0
    key = secret(con, settings)
    tokens = [token_sql(contract.table, "key_token", key)]
    # As `quarantine.key_token` puts a key together.
    keys = [c.name for c in contract.columns if c.name in contract.key]
    if its.table != contract.table and its.column in keys:
        part = f"split_part(key_token, ',', {keys.index(its.column) + 1})"
        tokens.append(token_sql(its.table, part, key))
    theirs = " OR ".join(f"{one} IN (FROM meta.erased)" for one in tokens)
    return int(
        con.execute(
            "DELETE FROM cdc.quarantine WHERE batch_id = getvariable('batch_id') "
            f"AND table_name = {literal(contract.table)} AND ({theirs})"
        ).fetchall()[0][0]
    )
