"""`pharmacy-bi erase`: a patient leaves every file, and stays out.

Whose a row is follows from the contracts (`belongs_to`): the patient's own row, rows with their id, and
the rows of those. First everything is deleted in one transaction, with the tokens that keep the patient
out; then marts and published file are made without them, and the files are rewritten, so that no byte
remains. Cut off in between, it is completed by being run again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from bi_assets.compaction import rewrite
from bi_assets.contracts.contract import PATIENTS, Contract
from bi_assets.errors import UserError
from bi_assets.history import touched
from bi_assets.history.revise import revised
from bi_assets.history.versions import OPEN_END
from bi_assets.landing import erasure
from bi_assets.landing.change_log import before_value
from bi_assets.landing.columns import token
from bi_assets.landing.erasure import Owner, children, owner, token_sql
from bi_assets.landing.land import begin
from bi_assets.landing.quarantine import is_known
from bi_assets.operations.quarantine import Entry, Row, entries, images, messages_of
from bi_assets.operations.verify import remove_leftovers
from bi_assets.outputs.publish import publish
from bi_assets.refresh.refresh import refresh
from bi_assets.sql import literal, one, quote, transaction
from bi_assets.warehouse import Warehouse

_BEYOND_REACH = (
    "the shop's own database, and its Kafka topics until their retention takes the messages; what they "
    "still have does not land here again",
    "copies of published files, and of what was exported, that somebody made or holds open",
    "backups of BI_DATA_DIR, and blocks of the disk that are free and not yet written over",
)
_NOTHING_LANDED = "nothing of this patient had landed; they are kept out from now on"
_NOTHING_SINCE = "nothing of this patient had landed since they were erased; they stay out"
_CHUNK = 1 << 20
Images = Mapping[Entry, Sequence[Row] | None]
"""What messages in quarantine say of their rows; None where they can't be read."""


def erase(warehouse: Warehouse, patient_id: int) -> dict[str, Any]:
    """Remove a patient from every file under BI_DATA_DIR; return the receipt, which is kept too.

    A patient of whom nothing has landed is kept out all the same, and the receipt notes it; it names the
    patient by token.

    Errors: `UserError` where there is no contract of the patients' table.
    """
    if PATIENTS not in warehouse.contracts:
        raise UserError(f"The contract {PATIENTS}.toml is missing or faulty; mend it first.")
    at = datetime.now(UTC).replace(tzinfo=None)
    in_quarantine = _read_quarantine(warehouse)
    with warehouse.open(evolve=True) as con:
        before = _mart_rows(con, warehouse)
        with transaction(con):
            batch_id = begin(con, at).batch_id
            removal = _Removal(con, warehouse, batch_id, patient_id)
            removal.run(in_quarantine)
            removed = _begin_receipt(con, removal, at)
            had_landed = bool(+removed)
        refresh(con, warehouse.marts, scheduled=True)
        publish(con, warehouse.marts, warehouse.settings, anew=True)
        after = _mart_rows(con, warehouse)
    removed += Counter({name: n - after[name] for name, n in before.items()})
    rewrite(warehouse)
    receipt: dict[str, Any] = {
        "erased_at": at,
        "token": removal.token,
        "removed": _told(removed),
        "note": None if had_landed else _NOTHING_SINCE if removal.was_erased else _NOTHING_LANDED,
        "files": [
            f"{warehouse.settings.core_file}: rewritten",
            f"{warehouse.settings.published_file}: written anew, the one before it removed",
            *(f"{file}: removed" for file in _remove_other_files(warehouse)),
        ],
        "beyond_reach": list(_BEYOND_REACH),
    }
    if removal.unreadable:
        receipt["beyond_reach"].append(
            f"{removal.unreadable} messages in quarantine can't be read, and may be of anybody"
        )
    if warehouse.settings.pseudonym_key:
        receipt["beyond_reach"] += [
            f"{file} still has the patient's pseudonym" for file in _files_with(warehouse, removal.stored)
        ]
    with warehouse.open() as con:
        con.execute(
            "UPDATE meta.erasures SET receipt = ? WHERE token = ? AND erased_at = ?",
            [json.dumps(receipt, default=str), removal.token, at],
        )
    return receipt


def _begin_receipt(con: duckdb.DuckDBPyConnection, removal: _Removal, at: datetime) -> Counter[str]:
    """Write down what is removed, beside removing it; return it, with what one that was cut off removed."""
    removed = Counter(removal.removed)
    for erased_at, text in con.execute(
        "SELECT erased_at, receipt FROM meta.erasures WHERE token = ?", [removal.token]
    ).fetchall():
        earlier = json.loads(text)
        if "files" not in earlier:
            removed += Counter({row["from"]: row["rows"] for row in earlier["removed"]})
            con.execute(
                "DELETE FROM meta.erasures WHERE token = ? AND erased_at = ?", [removal.token, erased_at]
            )
    con.execute(
        "INSERT INTO meta.erasures VALUES (?, ?, ?)",
        [at, removal.token, json.dumps({"removed": _told(removed)})],
    )
    return removed


def _told(removed: Counter[str]) -> list[dict[str, Any]]:
    return [{"from": name, "rows": n} for name, n in removed.items() if n]


class _Removal:
    """Deletes a patient from the core database. Use it inside one transaction."""

    def __init__(
        self, con: duckdb.DuckDBPyConnection, warehouse: Warehouse, batch_id: int, patient_id: int
    ) -> None:
        self._con = con
        self._contracts = warehouse.contracts
        self._batch_id = batch_id
        self._patient_id = patient_id
        self._secret = erasure.secret(con, warehouse.settings)
        key = warehouse.settings.pseudonym_key
        self.stored = str(patient_id)
        if key:
            (self.stored,) = one(con, f"SELECT {token(literal(self.stored), key)}")
        self._stored_sql = literal(self.stored) if key else self.stored
        (self.token,) = one(con, f"SELECT {token_sql(PATIENTS, self._stored_sql, self._secret)}")
        self.removed: dict[str, int] = {}
        self.unreadable = 0
        (self.was_erased,) = one(con, f"SELECT {literal(self.token)} IN (FROM meta.erased)")

    def run(self, in_quarantine: Images) -> None:
        """Delete, note what that touches, and keep the tokens of what is to stay out."""
        self._con.execute(
            f"CREATE OR REPLACE TEMP TABLE {_erased(PATIENTS)} AS SELECT {self._stored_sql} AS key"
        )
        for contract, its in self._theirs():
            self._delete(contract, its)
            if contract.table == PATIENTS or any(children(self._contracts, contract.table)):
                self._con.execute(
                    f"INSERT INTO meta.erased SELECT {token_sql(contract.table, 'key', self._secret)} "
                    f"FROM {_erased(contract.table)} EXCEPT FROM meta.erased"
                )
        erasure.mark(self._con)
        self._delete_from_quarantine(in_quarantine)

    def _theirs(self) -> Iterator[tuple[Contract, Owner]]:
        """Yield the tables whose rows are somebody's, owners before those who belong to them."""
        waiting = {name: (c, its) for name, c in self._contracts.items() if (its := owner(c))}
        while waiting:
            ready = [n for n, (_, its) in waiting.items() if its.table == n or its.table not in waiting]
            for name in ready:
                contract, its = waiting.pop(name)
                if its.table in self._contracts:
                    yield contract, its
            if not ready:
                raise UserError(f"The contracts of {', '.join(waiting)} belong to one another in a circle.")

    def _delete(self, contract: Contract, its: Owner) -> None:
        table = quote(contract.table)
        parents = f"(SELECT key FROM {_erased(its.table)})"
        which = f"{quote(its.column)} IN {parents}"
        if contract.table != its.table:
            # Theirs is what is theirs now; of what was theirs and is another's, only the time before goes.
            keys = ", ".join(map(quote, contract.key))
            chosen = _erased(contract.table)
            self._con.execute(f"""
CREATE OR REPLACE TEMP TABLE {chosen} AS
SELECT DISTINCT {f"{keys} AS key" if len(contract.key) == 1 else keys} FROM history.{table}
WHERE valid_to = {OPEN_END} AND {which}""")
            of_keys = "SELECT key" if len(contract.key) == 1 else f"SELECT ({keys})"
            which = f"({which} OR ({keys}) IN ({of_keys} FROM {chosen}))"
        before = f"_before IS NOT NULL AND {before_value(its.column, 'VARCHAR')} IN " + parents.replace(
            "key", "CAST(key AS VARCHAR)", 1
        )
        n = erasure.remove(self._con, contract, which)
        self.removed[f"cdc.{contract.table}"] = n
        touched.record(self._con, [contract.table] if n else [], self._contracts, self._batch_id)
        keys = ", ".join(map(quote, contract.key))
        (formerly,) = one(self._con, f"SELECT count(*) FROM cdc.{table} WHERE {before}")
        if formerly:
            with revised(self._con, contract, f"SELECT {keys} FROM cdc.{table} WHERE {before}"):
                self._con.execute(f"UPDATE cdc.{table} SET _before = NULL WHERE {before}")
            touched.record(self._con, [contract.table], self._contracts, self._batch_id)
            self.removed[f"cdc.{contract.table}, rows as they were before"] = formerly

    def _delete_from_quarantine(self, found: Images) -> None:
        erased = {
            contract.table: {
                str(key)
                for (key,) in self._con.execute(f"SELECT key FROM {_erased(contract.table)}").fetchall()
            }
            for contract, _ in self._theirs()
            if len(contract.key) == 1
        }
        gone = []
        for entry, rows in found.items():
            contract = self._contracts[entry.table]
            its = owner(contract)
            assert its
            if self._is_theirs(entry, rows, contract, its, erased):
                gone.append(entry)
            elif rows is None and (entry.table != PATIENTS or not is_known(entry.key_token)):
                self.unreadable += 1
        self.removed["cdc.quarantine"] = len(gone)
        if not gone:
            return
        for entry in gone:
            self._con.execute(
                'DELETE FROM cdc.quarantine WHERE topic = ? AND partition = ? AND "offset" = ?', entry.place
            )
        touched.set_version(self._con, [f"history.quarantined_{PATIENTS}"], self._batch_id)

    def _is_theirs(
        self,
        entry: Entry,
        rows: Sequence[Row] | None,
        contract: Contract,
        its: Owner,
        erased: Mapping[str, set[str]],
    ) -> bool:
        # As `landing.quarantine.key_token` puts a key together.
        keys = [c.name for c in contract.columns if c.name in contract.key]
        tokens = dict(zip(keys, (entry.key_token or "").split(","), strict=False))
        if tokens.get(its.column) in erased.get(its.table, set()):
            return True
        if len(keys) == 1 and entry.key_token in erased.get(entry.table, set()):
            return True
        theirs = {str(self._patient_id)} if its.table == PATIENTS else erased.get(its.table, set())
        return any(str(row.get(its.column)) in theirs for row in rows or ())


def _erased(table: str) -> str:
    return quote(f"erased_keys_{table}")


def _read_quarantine(warehouse: Warehouse) -> Images:
    """Return the messages in quarantine that may be of a patient, as far as they can be read."""
    with warehouse.open(evolve=True) as con:
        found = [
            entry
            for entry in entries(con)
            if entry.table in warehouse.contracts and owner(warehouse.contracts[entry.table])
        ]
    try:
        messages, _, _ = messages_of(found, warehouse.settings) if found else ({}, {}, {})
    except UserError:  # the broker is away
        messages = {}
    values = {
        (partition, row["offset"]): row["value"]
        for partition, table in messages.items()
        for row in table.select(["offset", "value"]).to_pylist()
    }
    return {entry: images(values.get((entry.partition, entry.offset)), warehouse.settings) for entry in found}


def _mart_rows(con: duckdb.DuckDBPyConnection, warehouse: Warehouse) -> dict[str, int]:
    return {
        mart.table: int(one(con, f"SELECT count(*) FROM {mart.table}")[0])
        for mart in warehouse.marts.values()
    }


def _remove_other_files(warehouse: Warehouse) -> list[Path]:
    """Remove what may hold the patient beside the two databases: exports, and what a crash left."""
    settings = warehouse.settings
    removed = [settings.data_dir / name for name in remove_leftovers(settings.data_dir)]
    with warehouse.open():  # nobody else writes meanwhile
        left = [
            *settings.publish_dir.rglob("*"),
            *Path(f"{settings.core_file}.tmp").glob("*"),
            *settings.data_dir.glob(f".{settings.core_file.name}.draft*"),
        ]
        for file in left:
            if file.is_file() and file != settings.published_file:
                file.unlink(missing_ok=True)
                removed.append(file)
    return removed


def _files_with(warehouse: Warehouse, text: str) -> list[Path]:
    """Return the files under BI_DATA_DIR in which a text is found."""
    wanted, found = text.encode(), []
    for file in sorted(warehouse.settings.data_dir.rglob("*")):
        if not file.is_file():
            continue
        with file.open("rb") as bytes_:
            tail = b""
            while chunk := bytes_.read(_CHUNK):
                if wanted in tail + chunk:
                    found.append(file)
                    break
                tail = chunk[-len(wanted) :]
    return found
