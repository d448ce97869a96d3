"""What a batch touched: the days of each kind of partition that have to be computed again.

A rule says, for one kind of partition and one source table, which days the changed versions of
that table (`changed_TABLE`, see `history.versions`) can matter to. A mart is touched through the
tables that its SQL reads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import duckdb

from bi_assets.contracts.contract import PATIENTS
from bi_assets.history.versions import BEGINNING, OPEN_END

_OWN_DAY = "SELECT DISTINCT business_date FROM changed_{table} WHERE valid_to = " + OPEN_END

_ORDERS_OF_CHANGED_ITEMS = f"""
SELECT DISTINCT o.business_date
FROM changed_order_items i JOIN history.orders o ON o.id = i.order_id
WHERE i.valid_to = {OPEN_END} AND o.valid_to = {OPEN_END}"""

# A version whose end alone moved says the same as before up to the earlier end. The first version
# also answers for the time before it, when nothing is known yet.
_CHANGED_INTERVALS = f"""
CREATE OR REPLACE TEMP TABLE changed_intervals AS
SELECT id, last_end AS until, CASE
    WHEN only_end_moved THEN first_end
    WHEN is_first THEN {BEGINNING}
    ELSE valid_from END AS since
FROM (
  SELECT id, version_no <= 1 AS is_first, valid_from, (practitioner_discount, practitioner_id, is_deleted,
    valid_from_is_exact) AS said, min(valid_to) AS first_end, max(valid_to) AS last_end,
    count(DISTINCT side) = 2 AS only_end_moved
  FROM changed_users GROUP BY ALL)"""

# The earliest of them as a constant keeps the search away from the orders before.
_SINCE = "SET VARIABLE since = (SELECT min(since) FROM changed_intervals)"

_ORDERS_OF_CHANGED_PATIENTS = f"""
SELECT DISTINCT o.business_date
FROM changed_intervals i JOIN history.orders o ON o.user_id = i.id AND o.date >= i.since AND o.date < i.until
WHERE o.valid_to = {OPEN_END} AND o.date >= getvariable('since')"""

SCHEMA = [
    # Days to be computed again.
    "CREATE TABLE IF NOT EXISTS meta.touched (kind VARCHAR, day DATE)",
    # The batch that each table's contents were last changed by.
    "CREATE TABLE IF NOT EXISTS meta.versions (name VARCHAR, version BIGINT)",
]

AS_OF = "as_of"
"""Name under which `meta.versions` keeps the moves of the last whole business date."""

RULES: dict[str, dict[str, tuple[str, ...]]] = {
    "order_date": {
        "orders": (_OWN_DAY.format(table="orders"),),
        "order_items": (_ORDERS_OF_CHANGED_ITEMS,),
        "users": (_CHANGED_INTERVALS, _SINCE, _ORDERS_OF_CHANGED_PATIENTS),
    },
}
"""Kind of partition -> source table -> SQL: what prepares, and last the query for the days."""

DAYS_OF = {"order_date": "orders"}
"""Kind of partition -> the source table whose business dates the days are."""


def record(
    con: duckdb.DuckDBPyConnection, changed: Iterable[str], known: Collection[str], batch_id: int
) -> None:
    """Add what the `changed` tables touch to `meta.touched`, where it stays until refreshed.

    `known` are the tables that have a contract: without that of the days' own table there are none.
    """
    changed = set(changed)
    set_version(con, [f"history.{table}" for table in sorted(changed)], batch_id)
    for kind, rules in RULES.items():
        if DAYS_OF[kind] not in known:
            continue
        for table in sorted(changed & set(rules)):
            *preparing, days = rules[table]
            for statement in preparing:
                con.execute(statement)
            con.execute(
                f"INSERT INTO meta.touched SELECT $kind, * FROM ({days}) "
                "EXCEPT SELECT kind, day FROM meta.touched",
                {"kind": kind},
            )


def record_quarantined(
    con: duckdb.DuckDBPyConnection, known: Collection[str], batch_id: int, entries: str
) -> None:
    """Add the days of the orders of patients who came into quarantine, or left it.

    `entries` is SQL for them: `key_token`, and the time `since` which the patient's row is in doubt.
    """
    set_version(con, [f"history.quarantined_{PATIENTS}"], batch_id)
    if DAYS_OF["order_date"] in known:
        con.execute(f"""
INSERT INTO meta.touched
SELECT DISTINCT 'order_date', o.business_date
FROM history.orders o JOIN ({entries}) q ON CAST(o.user_id AS VARCHAR) = q.key_token AND o.date >= q.since
WHERE o.valid_to = {OPEN_END}
EXCEPT SELECT kind, day FROM meta.touched""")


def set_version(con: duckdb.DuckDBPyConnection, names: Iterable[str], version: int) -> None:
    """Note that the contents of these tables have changed."""
    changed = list(names)
    if changed:
        con.execute("DELETE FROM meta.versions WHERE list_contains(?, name)", [changed])
        con.execute("INSERT INTO meta.versions SELECT UNNEST(?), ?", [changed, version])
