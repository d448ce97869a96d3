"""What processes cost: seconds of CPU and of time, and memory at its peak."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_LAUNCH = str(Path(__file__).with_name("launch.py"))
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """Of one process with its children: seconds, MB at the peak of the largest of them."""

    wall: float
    cpu: float
    peak_mb: float
    output: str = ""


class ProcessError(RuntimeError):
    """A measured process failed; the text has the end of what it wrote."""


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Cost:
    """Run a command from its start to its exit. Errors: `ProcessError`."""
    with tempfile.NamedTemporaryFile() as result:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", _LAUNCH, result.name, *command],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            output, log = process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        if process.returncode:
            raise ProcessError(f"{' '.join(command)}\n{(output + log)[-4000:]}")
        return Cost(**json.load(result), output=output)


def cpu_of_this_process() -> float:
    """Return the CPU seconds of this process and all its threads so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def cpu_of_marked(mark: str) -> float:
    """Return the CPU seconds so far of all living processes whose environment holds `mark`.

    Their ended children count, where they have been waited for. A mark finds processes whose
    parents are gone, too. Linux only.
    """
    found = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() not in (folder / "environ").read_bytes():
                continue
            # The name in parentheses may hold anything; numbers follow it.
            numbers = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile, or is another user's
        found += sum(int(ticks) for ticks in numbers[11:15])
    return found / _TICKS
