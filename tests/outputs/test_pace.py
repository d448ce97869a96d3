"""Publications that take long are made less often."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bi_assets.outputs.pace import last_publication, spacing
from bi_assets.outputs.publish import Published
from tests.outputs.books import Books


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path)
    yield books
    books.close()


def due_in(books: Books, *, took: float, ago: float) -> float:
    """Seconds until the next publication, had the last one taken so long, so long ago."""
    books.con.execute(
        "UPDATE meta.publications SET seconds = $took, "
        "published_at = CAST(now() AS TIMESTAMP) - to_microseconds(CAST($ago * 1e6 AS BIGINT))",
        {"took": took, "ago": ago},
    )
    last = last_publication(books.con)
    assert last
    return last.due_in


def test_above_300_ms_they_begin_five_times_their_cost_apart() -> None:
    assert [spacing(0.3), spacing(0.4), spacing(2.0)] == [0.0, 2.0, 10.0]
    assert Published(Path("f"), 1, "whole", 2.0).pause == 8.0
    assert Published(Path("f"), 1, "whole", 0.2).pause == 0.0


@pytest.mark.parametrize(
    ("took", "ago", "due"),
    [(0.2, 0.0, 0.0), (2.0, 0.0, 8.0), (2.0, 5.0, 3.0), (2.0, 9.0, 0.0), (2.0, -3600.0, 8.0)],
)
def test_a_later_process_knows_when_the_next_is_due(
    books: Books, took: float, ago: float, due: float
) -> None:
    assert due_in(books, took=took, ago=ago) == pytest.approx(due, abs=1.0)


def test_the_core_remembers_the_last_one(books: Books) -> None:
    books.sell(1)
    published = books.publish()
    last = last_publication(books.con)
    assert last
    assert (last.how, last.bytes) == (published.how, published.size)
    assert 0 < last.seconds <= published.seconds


def test_before_the_first_there_is_none(books: Books) -> None:
    books.con.execute("DELETE FROM meta.publications")
    assert last_publication(books.con) is None
