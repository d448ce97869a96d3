"""What `status` tells of the source: shop, connector and Kafka, as far as landing could see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import duckdb

from bi_assets.contracts.contract import Contract
from bi_assets.landing import sweep
from bi_assets.landing.transactions import PATIENCE_MINUTES
from bi_assets.settings import Settings
from bi_assets.sql import one, quote

_SILENCE = timedelta(minutes=3)
"""Debezium's heartbeat comes every minute at least, also from a quiet shop."""


@dataclass
class Told:
    """What is wrong, and what is worth knowing."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def tell(con: duckdb.DuckDBPyConnection, contracts: Mapping[str, Contract], settings: Settings) -> Told:
    """Return what landing has seen of the source that a person should know."""
    told = Told()
    told.problems += _vanished(con, contracts, settings)
    told.problems += _future(con)
    told.problems += _torn_transactions(con)
    told.notes += _truncates(con, contracts)
    _drift(con, contracts, told)
    return told


def life(con: duckdb.DuckDBPyConnection, unread_heartbeats: int | None, now: datetime | None = None) -> Told:
    """Tell whether the connector lives. `unread_heartbeats` is None where the broker does not answer."""
    told = Told()
    now = now or datetime.now(UTC).replace(tzinfo=None)
    for heartbeat_at, sent_at in con.execute("SELECT heartbeat_at, sent_at FROM meta.progress").fetchall():
        seen_at = max(filter(None, (heartbeat_at, sent_at)), default=None)
        if heartbeat_at is None and seen_at is not None:
            told.notes.append(
                "The connector sends no heartbeats: a shop without orders looks like a dead connector. "
                "Set its heartbeat.interval.ms=5000."
            )
        elif seen_at and unread_heartbeats == 0 and now - seen_at > _SILENCE:
            told.problems.append(
                f"No sign of life from the connector since {seen_at:%Y-%m-%d %H:%M:%S} (UTC): what the shop "
                "has done since is missing. Look at CONNECT/connectors/NAME/status, mend the cause that its "
                "trace names, and restart it: POST CONNECT/connectors/NAME/restart?includeTasks=true."
            )
    return told


def _vanished(
    con: duckdb.DuckDBPyConnection, contracts: Mapping[str, Contract], settings: Settings
) -> Iterator[str]:
    resnapped = con.execute("SELECT DISTINCT table_name FROM meta.snapshot_runs WHERE NOT is_first")
    for (table,) in sorted(resnapped.fetchall()):
        if table not in contracts:
            continue
        found = sweep.vanished(con, contracts[table], settings.topic(table))
        if found and found.rows:
            yield (
                f"{table}: {len(found.rows)} rows are no longer in the snapshot of "
                f"{found.taken_at:%Y-%m-%d %H:%M:%S} (UTC); they were deleted while nobody read the binlog. "
                f"`pharmacy-bi sweep {table}` lists them, with --apply it deletes them here, too."
            )


def _future(con: duckdb.DuckDBPyConnection) -> Iterator[str]:
    for topic, server, n, partition, offset, source_ts, sent_at in con.execute("""
SELECT topic, server_id, events, partition, "offset", source_ts, sent_at FROM meta.future_changes
ORDER BY ALL""").fetchall():
        yield (
            f"{topic}/{partition}, offset {offset}: changed on {source_ts:%Y-%m-%d %H:%M:%S} says the clock "
            f"of server {server}, and sent on {sent_at:%Y-%m-%d %H:%M:%S} says Kafka's (UTC); the latter was "
            f"taken, for {n} such changes. Set the server's clock right (NTP)."
        )


def _torn_transactions(con: duckdb.DuckDBPyConnection) -> Iterator[str]:
    n, name, seen, expected, made_at = con.execute(
        f"""
SELECT count(*), min_by(id, made_at), min_by(len(seen), made_at), min_by(expected, made_at), min(made_at)
FROM meta.transactions
WHERE expected IS NOT NULL
  AND noticed_at <= (SELECT max(landed_at) FROM meta.batches) - INTERVAL {PATIENCE_MINUTES} MINUTE"""
    ).fetchall()[0]
    if n:
        yield (
            f"{n} transactions have not come as a whole, the oldest ({name}, "
            f"{made_at:%Y-%m-%d %H:%M:%S} UTC) with {seen} of {expected} changes: Kafka has lost the others, "
            "or its topics are not all read. Snapshot the tables again."
        )


def _truncates(con: duckdb.DuckDBPyConnection, contracts: Mapping[str, Contract]) -> Iterator[str]:
    for table, source_ts, server, file, pos in con.execute(
        "SELECT table_name, source_ts, server_id, binlog_file, pos FROM meta.truncates ORDER BY source_ts"
    ).fetchall():
        if table in contracts:
            (n,) = one(
                con,
                f"SELECT count(*) FROM cdc.{quote(table)} WHERE _snapshot = 'truncate' AND _version_no > 0 "
                "AND (_server_id, _binlog_file, _binlog_pos) = (?, ?, ?)",
                [server, file, pos],
            )
            yield f"{table} was truncated on {source_ts:%Y-%m-%d %H:%M:%S} (UTC); {n} rows ended with that."


def _drift(con: duckdb.DuckDBPyConnection, contracts: Mapping[str, Contract], told: Told) -> None:
    for table, column, kind, events, first_seen, from_start in con.execute("""
SELECT table_name, column_name, kind, events, first_seen, from_start FROM meta.drift
ORDER BY ALL""").fetchall():
        contract = contracts.get(table)
        is_settled = contract is None or (
            column in contract.fields if kind == "unknown" else column not in contract.names
        )
        if contract is None or is_settled or from_start:
            continue  # the contract has been changed since, or it was so from the first
        since = f"since {first_seen:%Y-%m-%d %H:%M} (UTC), {events} rows"
        file = f"contracts/{table}.toml"
        text = (
            f"{table}.{column} is new at the shop ({since}) and not stored: name it in {file}, with "
            f'privacy = "excluded" where it is not wanted'
            if kind == "unknown"
            else f"{table}.{column} is no longer at the shop ({since}) and stored as "
            f"{_instead(contract, column)}: take it out of {file}, or give it its new name there, if it was "
            "renamed"
        )
        if contract.schema_changes == "accept":
            told.notes.append(f"{text}.")
        else:
            told.problems.append(f'{text}; or set schema_changes = "accept" there to be told in notes only.')


def _instead(contract: Contract, name: str) -> str:
    (column,) = (c for c in contract.columns if c.name == name)
    return "null" if column.when_absent is None else repr(column.when_absent)
