"""Runs a Python module with all its processes, none of which outlives the process that started it.

Started as `python -m bi_assets.with_parent MODULE WORD...`, as the leader of a process group and
with a pipe on standard input that nobody writes to and whose other end is the parent's. Linux can
interrupt a child when its parent dies, but not the children of the child, and a process can miss
a message: what has not ended when it was asked to is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

STOP_SECONDS = 15.0
_LOOK_SECONDS = 0.2


def main() -> None:
    """Run the module; end as it does, or end it when told to or when the parent is gone."""
    told: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: told.append(number))
    process = subprocess.Popen([sys.executable, "-m", *sys.argv[1:]], stdin=subprocess.DEVNULL)
    threading.Thread(target=_wait_for_parent, args=(told,), daemon=True).start()
    while not told:
        if (code := process.poll()) is not None:
            sys.exit(code)
        time.sleep(_LOOK_SECONDS)
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_SECONDS)
    finally:
        os.killpg(0, signal.SIGKILL)


def _wait_for_parent(told: list[int]) -> None:
    sys.stdin.buffer.read()
    told.append(signal.SIGHUP)


if __name__ == "__main__":
    main()
