"""Short lives: processes that do a piece of work and are killed on the way; see `tests.crash_driver`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bi_assets.settings import Settings


class Lives:
    """Starts processes, one at a time, and kills them."""

    def __init__(self, driver: subprocess.Popen[str]) -> None:
        self._driver = driver
        self.kills = 0

    def live(self, seconds: float) -> bool:
        """Let a process live for so long at most; tell whether it came to its end."""
        assert self._driver.stdin and self._driver.stdout
        print(seconds, file=self._driver.stdin, flush=True)
        answer = self._driver.stdout.readline().strip()
        assert answer in ("done", "killed"), answer
        self.kills += answer == "killed"
        return answer == "done"


@contextmanager
def lives(settings: Settings, work: str) -> Iterator[Lives]:
    """Run the driver for a kind of work that it knows."""
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.crash_driver", work],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={
            **os.environ,
            "KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
            "BI_DATA_DIR": str(settings.data_dir),
        },
        text=True,
    )
    try:
        yield Lives(driver)
    finally:
        driver.kill()
        driver.wait()
