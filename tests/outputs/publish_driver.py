"""Publishes over and over in processes of its own, and kills them: told what to do on stdin.

Everything is imported first and each life is forked from that; the driver itself never opens DuckDB.
Each line of stdin has the folder and a number of seconds to live; the answer is how many publications
there were, as far as the life could tell.
"""

from __future__ import annotations

import os
import random
import select
import signal
import sys
from pathlib import Path

import duckdb

from bi_assets.outputs.publish import publish
from bi_assets.settings import Settings
from tests.outputs.books import DAYS, book_marts, days, sell

CORE = "books.duckdb"


def main() -> None:
    """Read where and how long to live, live, answer."""
    for line in sys.stdin:
        folder, seconds, seed = line.split()
        print(live(Path(folder), float(seconds), int(seed)), flush=True)


def live(folder: Path, seconds: float, seed: int) -> int:
    """Fork a process that sells and publishes, kill it after these seconds."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work(folder, seed, tell)
        finally:
            os._exit(1)
    os.close(tell)
    handle = os.pidfd_open(child)
    select.select([handle], [], [], seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(handle)
    with os.fdopen(told, "rb") as pipe:
        published = len(pipe.read())
    assert os.WIFSIGNALED(status), "it ended by itself"
    return published


def work(folder: Path, seed: int, tell: int) -> None:
    """Sell and publish until killed."""
    chance = random.Random(seed)
    with duckdb.connect(str(folder / CORE)) as con:
        while True:
            sell(con, days(chance.choices(range(DAYS), k=2)), chance.randrange(10**6))
            publish(con, book_marts(), Settings(data_dir=folder))
            os.write(tell, b".")


if __name__ == "__main__":
    main()
