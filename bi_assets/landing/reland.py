"""Land messages again that were read before: what they say now replaces what they said then.

The way is that of landing: the same decoding, the same contract, the same rules for duplicates and for
those who were erased. A change-log row keeps its place, its batch and the time it landed; a message that
could not land goes to where it would have been. Doing it twice changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import duckdb
import pyarrow as pa

from bi_assets.contracts.contract import PATIENTS, Contract
from bi_assets.history import touched
from bi_assets.history.revise import revised
from bi_assets.landing import erasure, quarantine, rekeyed
from bi_assets.landing.batch import Batch, Partition
from bi_assets.landing.change_log import BINLOG_BASE, BINLOG_NUMBER, BUSINESS_DATE
from bi_assets.landing.debezium_json import POSITION
from bi_assets.landing.land import FAULTS_OF_A_MESSAGE, begin, choking_apart, decode
from bi_assets.settings import Settings
from bi_assets.sql import ENVIRONMENT, literal, one, quote, transaction

_PLACE = "_partition, _offset"
# Entries from before the source was kept name none.
_SAME_ENTRY = (
    'q.topic = s.topic AND q.partition = s.partition AND q."offset" = s."offset" '
    "AND coalesce((q.cluster_id, q.topic_id) = (s.cluster_id, s.topic_id), true)"
)
_IDENTITY = ("_op", "_server_id", "_binlog_file", "_binlog_pos", "_row")


@dataclass(frozen=True)
class Relanded:
    """What became of messages that were read again.

    `counts`: messages, replaced (the log says something else now), landed (they were not in the log),
    released (they were in quarantine, and no longer are), quarantined (they still are, or are now) and
    erased. `tables` are those that changed.
    """

    counts: Counter[str] = field(default_factory=Counter)
    tables: frozenset[str] = frozenset()


def reland_all(
    con: duckdb.DuckDBPyConnection,
    messages: Mapping[Partition, pa.Table],
    links: Mapping[str, Sequence[rekeyed.Link]],
    contracts: Mapping[str, Contract],
    settings: Settings,
    at: datetime,
) -> Relanded:
    """Do as `reland`, in a transaction of its own: what the decoder itself fails on stays where it is.

    Such messages count as quarantined.
    """
    try:
        with transaction(con):
            return reland(con, messages, links, contracts, settings, at)
    except ENVIRONMENT:
        raise
    except FAULTS_OF_A_MESSAGE:
        sound = dict(messages)
        choking = 0
        for partition, read in messages.items():
            batch = Batch({partition.topic: read}, {partition: 0}, {}, at)
            if apart := choking_apart(con, batch, contracts, settings):
                sound[partition] = apart.messages[partition.topic]
                choking += apart.choking[partition.topic].num_rows
        if not choking:
            raise
    with transaction(con):
        done = reland(con, sound, links, contracts, settings, at)
    done.counts.update(messages=choking, quarantined=choking)
    return done


def reland(
    con: duckdb.DuckDBPyConnection,
    messages: Mapping[Partition, pa.Table],
    links: Mapping[str, Sequence[rekeyed.Link]],
    contracts: Mapping[str, Contract],
    settings: Settings,
    at: datetime,
) -> Relanded:
    """Land messages again, bring history up to date, and note what that touches.

    Call it inside a transaction. `links` are those of changed keys, by topic; `at` is the wall clock
    (naive UTC).
    """
    begun = begin(con, at)
    counts: Counter[str] = Counter()
    changed: set[str] = set()
    kept_out: list[str] = []
    for table, contract in contracts.items():
        topic = settings.topic(table)
        for source in sorted({p.source for p in messages if p.topic == topic}):
            read = pa.concat_tables(
                [part for p, part in messages.items() if p.topic == topic and p.source == source]
            )
            _take_out_of_quarantine(con, topic, source, read)
            found, _ = decode(
                con, contract, topic, source, read, links.get(topic, ()), settings, contracts, begun,
                is_again=True,
            )  # fmt: skip
            counts += Counter(messages=read.num_rows, erased=found["erased"])
            if found["erased"]:
                kept_out.append(table)
            counts += _put_back_into_quarantine(con, contract, topic, source)
            told = _replace(con, contract)
            counts += told
            if told["replaced"] or told["landed"]:
                changed.add(table)
                touched.record(con, [table], contracts, begun.batch_id)
            if table == PATIENTS and _patients_moved(con):
                touched.record_quarantined(con, contracts, begun.batch_id, "FROM patients_moved")
    if kept_out:
        taken_back = erasure.take_back(con, kept_out, contracts)
        touched.record(con, taken_back, contracts, begun.batch_id)
        changed.update(taken_back)
    con.execute(
        "INSERT INTO meta.batches BY NAME SELECT $id AS batch_id, $at::TIMESTAMP AS landed_at, "
        "$landed AS landed, $erased AS erased",
        {"id": begun.batch_id, "at": at, "landed": counts["landed"], "erased": counts["erased"]},
    )
    return Relanded(counts, frozenset(changed))


def _take_out_of_quarantine(
    con: duckdb.DuckDBPyConnection, topic: str, source: tuple[str, str], read: pa.Table
) -> None:
    """Move the entries of what was read to `set_aside`: what can't land now either comes back."""
    con.register("messages", read)
    con.execute('CREATE OR REPLACE TEMP TABLE places AS SELECT partition, "offset" FROM messages')
    con.unregister("messages")
    con.execute(
        "CREATE OR REPLACE TEMP TABLE set_aside AS "
        'FROM cdc.quarantine SEMI JOIN places USING (partition, "offset") '
        "WHERE topic = ? AND coalesce((cluster_id, topic_id) = (?, ?), true)",
        [topic, *source],
    )
    con.execute(f"DELETE FROM cdc.quarantine q USING set_aside s WHERE {_SAME_ENTRY}")


def _put_back_into_quarantine(
    con: duckdb.DuckDBPyConnection, contract: Contract, topic: str, source: tuple[str, str]
) -> Counter[str]:
    """Let those that came back keep when they came first; count what is and what is no longer there."""
    came = (
        f"q.batch_id = getvariable('batch_id') AND q.topic = {literal(topic)} "
        f"AND (q.cluster_id, q.topic_id) = ({literal(source[0])}, {literal(source[1])})"
    )
    # What landed in its time, and would not any more, stays as it was.
    con.execute(
        f'DELETE FROM cdc.quarantine q WHERE {came} AND (q.partition, q."offset") IN '
        f"(SELECT ({_PLACE}) FROM cdc.{quote(contract.table)} WHERE _topic = {literal(topic)}) "
        f"AND NOT EXISTS (SELECT 1 FROM set_aside s WHERE {_SAME_ENTRY})"
    )
    con.execute(f"CREATE OR REPLACE TEMP TABLE came_back AS FROM cdc.quarantine q WHERE {came}")
    con.execute(
        "UPDATE cdc.quarantine q SET quarantined_at = s.quarantined_at, batch_id = s.batch_id "
        f"FROM set_aside s WHERE {_SAME_ENTRY}"
    )
    quarantined, released = one(
        con,
        "SELECT (SELECT count(*) FROM came_back), (SELECT count(*) FROM set_aside s "
        f"WHERE NOT EXISTS (SELECT 1 FROM came_back q WHERE {_SAME_ENTRY}))",
    )
    return Counter(quarantined=quarantined, released=released)


def _patients_moved(con: duckdb.DuckDBPyConnection) -> bool:
    """Make `patients_moved`: the patients whose row is in doubt since another time than before, or is not."""
    before = quarantine.entries_sql("true", "set_aside")
    after = quarantine.entries_sql("true", "came_back")
    (moved,) = one(
        con,
        "CREATE OR REPLACE TEMP TABLE patients_moved AS "
        f"(({before}) EXCEPT ({after})) UNION (({after}) EXCEPT ({before}))",
    )
    return bool(moved)


def _replace(con: duckdb.DuckDBPyConnection, contract: Contract) -> Counter[str]:
    """Bring the change log to what `decoded` says; count the rows that were replaced, and that are new."""
    table = f"cdc.{quote(contract.table)}"
    key = [quote(name) for name in contract.key]
    names = [quote(name) for name in (*contract.names, "_before", *POSITION)]
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE again AS SELECT {', '.join(names)} FROM decoded WHERE _cause IS NULL"
    )
    # A topic that was made anew has the same offsets again: the place in the binlog tells them apart.
    same = " AND ".join(f"a.{name} IS NOT DISTINCT FROM c.{name}" for name in (*key, *_IDENTITY))
    con.execute(f"""
CREATE OR REPLACE TEMP TABLE standing AS
SELECT a.rowid AS _again, arg_max(c.rowid, c._batch_id) AS _id
FROM again a JOIN {table} c ON a._topic = c._topic AND a._partition = c._partition AND a._offset = c._offset
  AND {same}
GROUP BY a.rowid""")
    (replaced,) = one(con, f"""
CREATE OR REPLACE TEMP TABLE replaced AS
SELECT s._id, a.*, c._landed_at, c._batch_id
FROM standing s JOIN again a ON a.rowid = s._again JOIN {table} c ON c.rowid = s._id
WHERE {_row("a", names)} IS DISTINCT FROM {_row("c", names)}""")  # fmt: skip
    # In the order of arrival, as if it had landed when it was read first.
    con.execute("""
CREATE OR REPLACE TEMP TABLE fresh AS
SELECT a.*, getvariable('landed_at') AS _landed_at,
  coalesce(e.batch_id, getvariable('batch_id')) AS _batch_id, e.batch_id IS NOT NULL AS was_quarantined
FROM again a LEFT JOIN set_aside e ON e.partition = a._partition AND e."offset" = a._offset
WHERE a.rowid NOT IN (SELECT _again FROM standing)""")
    landed = _drop_duplicates(con, contract, key)
    if one(con, "SELECT count(*) FROM fresh WHERE _binlog_pos IS NULL AND NOT was_quarantined")[0]:
        _take_batches_of_neighbours(con, table)
    if replaced or landed:
        rows = "FROM replaced UNION ALL BY NAME FROM fresh"
        day = contract.business_date
        with revised(con, contract, f"SELECT {', '.join(key)} FROM ({rows})"):
            con.execute(f"DELETE FROM {table} WHERE rowid IN (SELECT _id FROM replaced)")
            con.execute(
                f"INSERT INTO {table} BY NAME SELECT * EXCLUDE (_id, was_quarantined)"
                + (f", business_date({quote(day)}) AS {BUSINESS_DATE}" if day else "")
                + f" FROM ({rows})"
            )
    if landed:
        _note_positions(con)
    return Counter(replaced=replaced, landed=landed)


def _drop_duplicates(con: duckdb.DuckDBPyConnection, contract: Contract, key: list[str]) -> int:
    """Take the duplicates out of `fresh`; return how many rows are left.

    What is neither in the log nor in quarantine was a duplicate when it was read first, if a row of its
    place in the binlog is there. What comes out of quarantine is one if it says the same, too; a column
    that was added to the contract since is null in the log, and says nothing.
    """
    if not one(con, "SELECT count(*) FROM fresh")[0]:
        return 0
    others = [quote(name) for name in contract.names if quote(name) not in key]
    columns = ", ".join([*key, *_IDENTITY, *others])
    same_place = " AND ".join(f"l.{name} IS NOT DISTINCT FROM f.{name}" for name in (*key, *_IDENTITY))
    same_content = "".join(f" AND (l.{name} IS NULL OR l.{name} = f.{name})" for name in others)
    con.execute(f"""
DELETE FROM fresh f USING (
  SELECT {columns} FROM cdc.{quote(contract.table)}
  WHERE _binlog_pos IN (SELECT _binlog_pos FROM fresh) AND rowid NOT IN (SELECT _id FROM replaced)
  UNION ALL SELECT {columns} FROM replaced) l
WHERE f._op <> 'r' AND l._binlog_pos = f._binlog_pos AND {same_place}
  AND (NOT f.was_quarantined{same_content.replace(" AND ", " OR (", 1) + ")" if others else " OR true"})""")
    con.execute(f"""
DELETE FROM fresh WHERE _op <> 'r' AND _binlog_pos IS NOT NULL AND rowid NOT IN (
  SELECT arg_min(rowid, ({_PLACE})) FROM fresh GROUP BY {columns}, _before)""")
    return int(one(con, "SELECT count(*) FROM fresh")[0])


def _take_batches_of_neighbours(con: duckdb.DuckDBPyConnection, table: str) -> None:
    """Put the rows of `fresh` without a place in the binlog where they belong among those of the log.

    Such rows, which come flattened, have no order but that of their batches, and of offsets in a batch.
    """
    logged = f"""(SELECT _topic, _partition, _offset, max(_batch_id) AS batch_id FROM {table} GROUP BY ALL)"""
    here = "ON n._topic = f._topic AND n._partition = f._partition AND n._offset"
    con.execute(f"""
UPDATE fresh SET _batch_id = coalesce(before.batch_id, later.batch_id)
FROM (
  SELECT f.rowid AS id, n.batch_id
  FROM fresh f ASOF LEFT JOIN {logged} n {here} <= f._offset
  WHERE f._binlog_pos IS NULL AND NOT f.was_quarantined
) before
JOIN (SELECT f.rowid AS id, n.batch_id FROM fresh f ASOF LEFT JOIN {logged} n {here} >= f._offset) later
  USING (id)
WHERE fresh.rowid = before.id AND coalesce(before.batch_id, later.batch_id) IS NOT NULL""")


def _note_positions(con: duckdb.DuckDBPyConnection) -> None:
    """Let what is newest in `fresh` count for telling duplicates, as `offsets` keeps it."""
    con.execute(f"""
UPDATE meta.offsets o SET file_number = f.place.n, pos = f.place.p, server_id = f._server_id, base = f.base
FROM (
  SELECT _topic, _partition, _server_id, {BINLOG_BASE} AS base,
    max(struct_pack(n := {BINLOG_NUMBER}, p := _binlog_pos)) AS place
  FROM fresh WHERE _op <> 'r' GROUP BY ALL) f
WHERE o.topic = f._topic AND o.partition = f._partition AND (o.pos IS NULL
  OR (o.server_id = f._server_id AND o.base = f.base
      AND struct_pack(n := o.file_number, p := o.pos) < f.place))""")
    con.execute(f"""
MERGE INTO meta.snapshots s USING (
  SELECT _topic, {BINLOG_BASE} AS base, max(struct_pack(n := {BINLOG_NUMBER}, p := _binlog_pos)) AS place
  FROM fresh WHERE _op = 'r' AND _binlog_pos IS NOT NULL GROUP BY ALL) f
ON s.topic = f._topic AND s.base = f.base
WHEN MATCHED AND (s.file_number, s.pos) < (place.n, place.p) THEN
  UPDATE SET file_number = place.n, pos = place.p
WHEN NOT MATCHED THEN INSERT VALUES (f._topic, f.base, place.n, place.p)""")


def _row(alias: str, names: list[str]) -> str:
    return "row(" + ", ".join(f"{alias}.{name}" for name in names) + ")"
