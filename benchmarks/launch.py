"""Runs a command and writes what it cost: RESULT COMMAND ...

A process of its own because a child's peak memory begins with that of the process that forked it,
and this one is small. So it imports nothing of the project.
"""

import json
import os
import sys
import time


def main() -> int:
    """Return the command's exit code."""
    result, *command = sys.argv[1:]
    started = time.perf_counter()
    child = os.posix_spawnp(command[0], command, os.environ)
    _, status, used = os.wait4(child, 0)
    wall = time.perf_counter() - started
    with open(result, "w") as file:  # noqa: PTH123  (pathlib is larger than all of this)
        json.dump(
            {"wall": wall, "cpu": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss / 1024}, file
        )
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
