"""SIGKILL at any moment of a publication leaves a good file, and the next one is right."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import duckdb

from tests.outputs.books import Books, core, seen
from tests.outputs.publish_driver import CORE

KILLS = 60


def test_publications_that_are_killed_again_and_again_leave_good_files(tmp_path: Path) -> None:
    chance = random.Random(1)
    books = Books(tmp_path, con=duckdb.connect(str(tmp_path / CORE)))
    books.close()
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.outputs.publish_driver"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdin and driver.stdout
    published, made, longest = 0, set(), 0.2
    try:
        for kill in range(KILLS):
            print(tmp_path, chance.uniform(0.0, longest), kill, file=driver.stdin, flush=True)
            done = int(driver.stdout.readline())
            published += done
            longest *= 0.8 if done > 1 else 1.1  # a publication or two, so that each moment is met
            before = seen(books.file)
            assert dict(before["totals"]) == counted(before["sales"])
            books.con = duckdb.connect(str(tmp_path / CORE))
            if kill % 3 == 0:
                made.add(books.publish().how)
                assert seen(books.file) == core(books.con)
            books.close()
    finally:
        driver.kill()
        driver.communicate()
    assert published > KILLS / 4, "whole publications came in between"
    assert made <= {"in place", "copy"}, "nothing had to be written anew"


def counted(sales: list[tuple[object, ...]]) -> dict[object, int]:
    """Count the sales by the first letter of their text, as the mart does."""
    counts: dict[object, int] = {}
    for *_, note in sales:
        first = note[:1] if isinstance(note, str) else None
        counts[first] = counts.get(first, 0) + 1
    return counts
