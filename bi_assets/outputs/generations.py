"""The published file and the one before it: what each holds, and which a new one can be made from.

The file before stays under a hidden name. When its last reader has closed it, it is brought up to
date and published again, which costs as much as what has changed. What the core database does not
know, to the byte, is not used: not a file from a backup, nor one that somebody has written to.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import duckdb

from bi_assets.files import sync
from bi_assets.outputs.openers import is_closed_everywhere
from bi_assets.refresh import changed

How = Literal["in place", "copy", "whole"]
"""The file before, brought up to date; a copy of the published one; every table written anew."""

SCHEMA = [
    # A file is known by its size and the time of its last write; what it cost is for `status`.
    """CREATE TABLE IF NOT EXISTS meta.publications (
        id VARCHAR, bytes BIGINT, written_ns BIGINT, how VARCHAR, seconds DOUBLE, published_at TIMESTAMP)""",
]


@dataclass(frozen=True)
class Stamp:
    """The version of the changes up to which a table holds a mart, and the digest that it was made by."""

    version: int
    digest: str


@dataclass(frozen=True)
class Generation:
    """A published file: its id, which is in its `_meta` too, and the stamp of each mart in it."""

    id: str
    stamps: Mapping[str, Stamp]


def generation(con: duckdb.DuckDBPyConnection, file: Path) -> Generation | None:
    """Return what a file holds; None where there is no such file, or it isn't as we left it."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    rows = con.execute(
        "SELECT id, mart, version, digest "
        "FROM meta.publications LEFT JOIN meta.published ON publication = id "
        "WHERE bytes = ? AND written_ns = ?",
        [found.st_size, found.st_mtime_ns],
    ).fetchall()
    if len({id_ for id_, *_ in rows}) != 1:
        return None
    stamps = {mart: Stamp(version, digest) for _, mart, version, digest in rows if mart is not None}
    return Generation(rows[0][0], stamps)


def record(
    con: duckdb.DuckDBPyConnection,
    file: Path,
    new: Generation,
    old: Generation | None,
    how: How,
    seconds: float,
) -> None:
    """Write down what a file holds that is about to take the place of `old`. Inside a transaction."""
    kept = [old.id] if old else []
    for table, column in (("publications", "id"), ("published", "publication")):
        con.execute(f"DELETE FROM meta.{table} WHERE NOT list_contains($kept, {column})", {"kept": kept})
    found = file.stat()
    con.execute(
        "INSERT INTO meta.publications VALUES (?, ?, ?, ?, ?, CAST(now() AS TIMESTAMP))",
        [new.id, found.st_size, found.st_mtime_ns, how, seconds],
    )
    con.execute(
        "INSERT INTO meta.published SELECT $id, UNNEST($marts::VARCHAR[]), UNNEST($versions::BIGINT[]), "
        "UNNEST($digests::VARCHAR[])",
        {
            "id": new.id,
            "marts": list(new.stamps),
            "versions": [stamp.version for stamp in new.stamps.values()],
            "digests": [stamp.digest for stamp in new.stamps.values()],
        },
    )
    changed.forget(con)


def new_id() -> str:
    """Return the id of a publication to be: never that of another, also after a backup was put back."""
    return str(uuid.uuid4())


def hidden(target: Path) -> Path:
    """Return the name of the file before."""
    return target.with_name(f".{target.name}.previous")


def take(target: Path, draft: Path, how: How) -> None:
    """Make the draft be what a publication is to start from.

    Errors: `OSError` where that can't be had.
    """
    if how == "in place":
        previous = hidden(target)
        # With another name, somebody could open it later.
        if previous.stat().st_nlink != 1 or not is_closed_everywhere(previous):
            raise BlockingIOError(f"{previous} may be open")
        previous.replace(draft)
    elif how == "copy":
        _copy(target, draft)
    if draft.exists():
        draft.chmod(0o644)


def replace(draft: Path, target: Path) -> None:
    """Put a synced draft in the target's place; what was there becomes the file before."""
    previous = hidden(target)
    previous.unlink(missing_ok=True)
    if target.exists():
        with contextlib.suppress(OSError):  # without links, the next publication is a copy
            os.link(target, previous)
    draft.replace(target)
    remove_log(target)
    sync(target.parent)


def remove_log(target: Path) -> None:
    """Remove what someone left who opened the file for writing: it would make the next one unreadable."""
    target.with_name(target.name + ".wal").unlink(missing_ok=True)


def clear_away(target: Path) -> None:
    """Remove what a killed publication left."""
    for left in target.parent.glob(f".{target.name}.*"):
        if left != hidden(target):
            left.unlink()


def _copy(target: Path, draft: Path) -> None:
    """Copy a file; where the file system can, the copy shares its blocks."""
    try:
        with target.open("rb") as source, draft.open("wb") as copy:
            while os.copy_file_range(source.fileno(), copy.fileno(), 2**30):
                pass
    except (AttributeError, OSError):
        shutil.copyfile(target, draft)
