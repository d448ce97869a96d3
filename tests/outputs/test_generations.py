"""A publication writes what has changed, and yet nobody can tell it from one that wrote everything."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from bi_assets.outputs import draft, openers, publish
from bi_assets.refresh import mart as marts
from tests.outputs.books import DAYS, Books, Interrupted, days

ROWS = 400_000
"""Enough for a file of which a day is a small part."""


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path)
    books.sell(3)
    books.publish()
    yield books
    books.close()


def bytes_written() -> int:
    """Bytes that this process has written so far."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["wchar"])


STEPS = ("sell", "sell", "sell", "fail", "mend", "declare", "publish", "publish", "break", "lose", "hold")


@examples(max_examples=30)
@given(steps=st.lists(st.sampled_from(STEPS), min_size=5, max_size=25), seed=st.integers(0, 2**16))
def test_whatever_happens_the_file_holds_what_a_whole_publication_would(steps: list[str], seed: int) -> None:
    chance = random.Random(seed)
    with TemporaryDirectory() as folder, contextlib.ExitStack() as readers:
        books = Books(Path(folder))
        for number, step in enumerate(steps):
            mart = chance.choice(sorted(books.marts))
            if step == "sell":
                books.sell(*chance.choices(range(DAYS), k=chance.choice([1, 1, 2, DAYS])), seed=number)
            elif step == "fail":
                books.fail(mart)
            elif step == "mend":
                books.mend(mart)
            elif step == "declare":
                books.declare(mart, digest=f"{mart} {chance.randrange(2)}")
            elif step == "publish":
                books.publish()
            elif step == "break":
                with contextlib.suppress(Interrupted):
                    books.publish(lasts=chance.randrange(60))
            elif step == "lose":
                books.previous.unlink(missing_ok=True)
            else:
                readers.enter_context(books.file.open("rb"))
            books.assert_published()
        books.publish()
        books.assert_published()
        books.close()


def test_the_file_before_is_brought_up_to_date(books: Books) -> None:
    before = books.previous.stat().st_ino
    books.sell(5)
    assert books.publish().how == "in place"
    assert books.file.stat().st_ino == before
    books.assert_published()


def test_a_day_that_changed_costs_a_small_part_of_the_file(tmp_path: Path) -> None:
    books = Books(tmp_path, ROWS)
    for number in range(3):
        books.sell(number)
        before = bytes_written()
        published = publish.publish(books.con, books.marts, books.settings)
        written = bytes_written() - before
    assert published.how == "in place"
    assert written < published.size / 4
    books.close()


def test_rows_that_are_as_they_were_are_not_written(tmp_path: Path) -> None:
    books = Books(tmp_path, ROWS)
    for number in range(3):
        books.sell(number)
        publish.publish(books.con, books.marts, books.settings)
    with duckdb.connect(str(books.file), read_only=True) as con:
        deleted = "SELECT max(rowid) + 1 - count(*) FROM sales"  # rows that were written again, or are gone
        ((gone,),) = con.execute(deleted).fetchall()
    assert 0 < gone < 3 * ROWS / DAYS / 2
    books.close()


def test_where_most_days_changed_a_table_is_written_anew(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draft, "_FEW_DAYS", DAYS // 2)
    monkeypatch.setattr(marts, "_FEW_DAYS", DAYS // 2)
    books.sell(*range(DAYS - 1))
    books.publish()
    books.assert_published()
    with duckdb.connect(str(books.file), read_only=True) as con:
        assert con.execute("SELECT max(rowid) + 1 = count(*) FROM sales").fetchall() == [(True,)]


def test_who_has_a_file_open_reads_it_unchanged_to_the_byte(books: Books) -> None:
    with books.file.open("rb") as opened:
        before = opened.read()
        made = []
        for number in range(4):
            books.sell(number)
            made.append(books.publish().how)
            opened.seek(0)
            assert opened.read() == before
    assert made == ["in place", "copy", "in place", "in place"]
    books.assert_published()


def test_who_has_a_file_mapped_reads_it_unchanged_to_the_byte(books: Books) -> None:
    with books.file.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ)
    before = mapped[:]
    for number in range(3):
        books.sell(number)
        books.publish()
        assert mapped[:] == before
    mapped.close()


def test_a_session_of_another_process_keeps_its_version(books: Books) -> None:
    reader = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import duckdb, sys\n"
            "con = duckdb.connect(sys.argv[1], read_only=True)\n"
            "for line in sys.stdin:\n"
            "    print(con.execute('SELECT sum(hash(s)) FROM sales s').fetchall(), flush=True)\n",
            str(books.file),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def ask() -> str:
        assert reader.stdin and reader.stdout
        print(file=reader.stdin, flush=True)
        return reader.stdout.readline()

    try:
        before = ask()
        assert before.startswith("[(")
        for number in range(3):
            books.sell(number)
            books.publish()
            assert ask() == before
    finally:
        reader.kill()
        reader.communicate()
    books.assert_published()


def test_who_has_another_name_of_a_file_keeps_it_unchanged(books: Books) -> None:
    kept = books.file.with_name("kept.duckdb")
    os.link(books.file, kept)
    before = kept.read_bytes()
    for number in range(3):
        books.sell(number)
        books.publish()
    assert kept.read_bytes() == before


@pytest.mark.parametrize("missing", ["link", "knowledge of openers"])
def test_without_the_file_before_a_copy_is_brought_up_to_date(
    books: Books, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing == "link":
        books.previous.unlink()
    else:
        monkeypatch.setattr(openers, "_LOCAL", ())
    books.sell(1)
    assert books.publish().how == "copy"
    books.assert_published()


def test_a_changed_declaration_has_that_table_written_anew(books: Books) -> None:
    note, n = books.marts["totals"].columns
    columns = (note, replace(n, meaning="how many"))
    books.declare("totals", digest="totals 2", columns=columns)
    books.publish()
    books.assert_published()
    with duckdb.connect(str(books.file), read_only=True) as con:
        told = "SELECT comment FROM duckdb_columns() WHERE table_name = 'totals' AND column_name = 'n'"
        assert con.execute(told).fetchall() == [("how many [count]",)]


def test_the_table_of_a_mart_that_is_no_more_goes(books: Books) -> None:
    books.marts = {"sales": books.marts["sales"]}
    assert books.publish().how == "in place"
    with duckdb.connect(str(books.file), read_only=True) as con:
        assert con.execute("SELECT table_name FROM duckdb_tables() ORDER BY ALL").fetchall() == [
            ("_meta",),
            ("sales",),
        ]


def test_a_failing_check_keeps_the_last_good_version_also_in_the_generations_after(books: Books) -> None:
    for number in range(4):
        books.fail("sales")
        books.sell(number)
        assert books.publish().how == "in place"
        books.assert_published()
    books.mend("sales")
    books.publish()
    books.assert_published()


def test_a_file_that_somebody_wrote_to_is_written_anew(books: Books) -> None:
    books.file.chmod(0o644)
    with duckdb.connect(str(books.file)) as con:
        con.execute("DELETE FROM sales")
    books.sell(1)
    assert books.publish().how == "whole"
    books.assert_published()


def test_a_file_that_the_disk_spoilt_is_written_anew(books: Books) -> None:
    for file in (books.previous, books.file):
        found = file.stat()
        file.chmod(0o644)
        file.write_bytes(b"x" * found.st_size)
        os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    books.sell(1)
    assert books.publish().how == "whole"
    books.assert_published()


def test_after_a_backup_of_the_core_was_put_back_everything_is_written_anew(tmp_path: Path) -> None:
    core, backup = tmp_path / "books.duckdb", tmp_path / "backup.duckdb"
    con = duckdb.connect(str(core))
    books = Books(tmp_path, con=con)
    con.close()
    shutil.copyfile(core, backup)
    for number in range(3):
        books.con = duckdb.connect(str(core))
        books.sell(number)
        books.publish()
        books.close()
    shutil.copyfile(backup, core)
    books.con = duckdb.connect(str(core))
    books.sell(7)
    assert books.publish().how == "whole"
    books.assert_published()
    books.close()


def test_a_file_that_is_mostly_air_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    books = Books(tmp_path, ROWS)
    size = books.file.stat().st_size
    for number in range(2):
        books.declare("sales", digest=f"again {number}")
        books.publish()
    assert books.file.stat().st_size > 1.5 * size
    # Half of a file is free after its table was written anew, a few blocks more or less; most of it
    # once nine rows of ten are gone.
    monkeypatch.setattr(publish, "_UNUSED_BLOCKS", 48)
    books.con.execute("DELETE FROM marts.sales WHERE id % 10 > 0")
    books.declare("sales", digest="fewer")
    made = []
    for number in range(3):
        books.sell(number)
        made.append(books.publish().how)
    assert made == ["in place", "in place", "whole"]
    assert books.file.stat().st_size < size / 2
    books.assert_published()
    books.close()


def test_the_file_does_not_grow_with_the_number_of_publications(books: Books) -> None:
    sizes = []
    for number in range(40):
        books.sell(number % DAYS, seed=number)
        sizes.append(books.publish().size)
    assert max(sizes[20:]) <= max(sizes[:20])
    books.assert_published()


def test_nothing_is_left_beside_it(books: Books) -> None:
    books.publish()
    with contextlib.suppress(Interrupted):
        books.publish(lasts=25)
    books.publish()
    assert {path.name for path in books.file.parent.iterdir()} == {books.file.name, books.previous.name}


def test_what_every_publication_has_is_forgotten(books: Books) -> None:
    for number in range(3):
        books.sell(number)
        books.publish()
    remembered = books.con.execute("SELECT DISTINCT day FROM meta.changed WHERE mart = 'sales'").fetchall()
    assert remembered == [(day,) for day in days([2])]


def test_it_is_behind_from_a_change_until_its_publication(books: Books) -> None:
    behind = [publish.is_behind(books.con, books.settings)]
    books.sell(1)
    behind.append(publish.is_behind(books.con, books.settings))
    books.publish()
    behind.append(publish.is_behind(books.con, books.settings))
    assert behind == [False, True, False]


def test_a_mart_that_is_held_back_is_not_behind(books: Books) -> None:
    books.fail("sales")
    books.fail("totals")
    books.sell(1)
    assert not publish.is_behind(books.con, books.settings)


def test_bringing_it_up_to_date_leaves_it_in_the_format_of_duckdb_1_2(books: Books) -> None:
    books.sell(1)
    assert books.publish().how == "in place"
    assert int.from_bytes(books.file.read_bytes()[12:20], "little") <= 65
