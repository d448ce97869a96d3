"""Does a piece of work over and over in processes of its own, and kills them: told how soon on stdin.

Everything is imported first and each life is forked from that, so that a life costs what its work
costs, not a second of imports. The driver itself never opens DuckDB or Kafka: what these keep in
memory would not survive a fork.

The argument is the work: `sync`, `rewind`, `erase` or `compact`. Each line of stdin is a number of seconds to
live; the answer is `killed` or `done`.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import traceback
from collections.abc import Callable

import scipy.special  # noqa: F401 - imported for the lives to come: a mart needs it

from bi_assets.cli import main as pharmacy_bi
from bi_assets.compaction import compact
from bi_assets.landing import kafka
from bi_assets.platform import warehouse
from bi_assets.settings import Settings

BATCH_MESSAGES = 7
"""Small, so that a life has many transactions to die in."""
ERASED = "700000000000000001"
"""The patient whom `erase` removes."""


WORK: dict[str, Callable[[], object]] = {
    "sync": lambda: pharmacy_bi(["sync"], standalone_mode=False),
    "rewind": lambda: pharmacy_bi(["rewind", "--to", "1970-01-01"], standalone_mode=False),
    "erase": lambda: pharmacy_bi(["erase", ERASED, "--yes"], standalone_mode=False),
    "compact": lambda: compact(warehouse(Settings.from_environment()), worth_it=1),
}


def main() -> None:
    """Read how long to live, live, answer."""
    kafka.BATCH_MESSAGES = BATCH_MESSAGES
    work = WORK[sys.argv[1]]
    for line in sys.stdin:
        print(live(work, float(line)), flush=True)


def live(work: Callable[[], object], seconds: float) -> str:
    """Fork a process that works; kill it after these seconds unless it is done by then."""
    child = os.fork()
    if child == 0:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # stdout is for the answers
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    handle = os.pidfd_open(child)
    try:
        ended, _, _ = select.select([handle], [], [], seconds)
        if not ended:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    finally:
        os.close(handle)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return "killed"
    return "done" if status == 0 else f"failed with status {status}"


if __name__ == "__main__":
    main()
