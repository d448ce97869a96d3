"""A run's mark: a file with its process id, locked for as long as the process lives.

The kernel gives the lock back at any death, and no other process can be taken for a dead one. A run
that ends removes its mark; a mark that is left and free tells of a run that died.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = "runs"


@dataclass(frozen=True)
class RunMark:
    """The mark of a run, whether or not there is one."""

    file: Path

    @classmethod
    def of(cls, folder: Path, run_id: str) -> RunMark:
        """Return the mark of a run in the launcher's folder."""
        return cls(folder / FOLDER / run_id)

    @classmethod
    def left_in(cls, folder: Path) -> Iterator[RunMark]:
        """Yield the marks of all runs that live, or have died."""
        yield from (cls(file) for file in (folder / FOLDER).glob("*"))

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.file.name

    def set(self) -> int:
        """Make the mark; return the descriptor that holds its lock, and that a forked run inherits."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        return lock

    def exists(self) -> bool:
        """Tell whether there is a mark: of a run that lives, or died."""
        return self.file.exists()

    def is_alive(self) -> bool:
        """Tell whether the run's process lives."""
        try:
            with self.file.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def process(self) -> int | None:
        """Return the process id that the mark tells, alive or not; None in the moment of its fork."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int(self.file.read_text())
        return None

    def remove(self) -> None:
        """Remove the mark."""
        self.file.unlink(missing_ok=True)
