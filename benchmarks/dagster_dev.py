"""`pharmacy-bi up`, or a Dagster with next to nothing in it, for as long as it is measured."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import ProcessError, cpu_of_marked
from stack.process import LOCALHOST, free_ports

_START_SECONDS = 120.0
_STOP_SECONDS = 30.0
_WARM_EVALUATIONS = 3
_UNDER_WAY = ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")
_ONE_SENSOR = """
import dagster as dg

@dg.job
def nothing():
    pass

@dg.sensor(job=nothing, default_status=dg.DefaultSensorStatus.RUNNING)
def skipping(context):
    return dg.SkipReason("nothing to do")

defs = dg.Definitions(jobs=[nothing], sensors=[skipping])
"""


@dataclass(frozen=True)
class Dagster:
    """A running Dagster: its home, and what marks the environment of all its processes."""

    home: Path
    mark: str
    process: subprocess.Popen[bytes]
    log: Path

    def wait_warm(self) -> None:
        """Wait until a sensor has been evaluated a few times. Errors: `ProcessError`."""
        deadline = time.monotonic() + _START_SECONDS
        while self._count("schedules/schedules.db", "job_ticks", ("SKIPPED",)) < _WARM_EVALUATIONS:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise ProcessError(f"Dagster does not evaluate its sensor:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.2)

    def runs_under_way(self) -> int:
        """Return how many runs are queued or running now."""
        return self._count("history/runs.db", "runs", _UNDER_WAY)

    def cpu(self) -> float:
        """Return the CPU seconds of all its processes so far."""
        return cpu_of_marked(self.mark)

    def _count(self, database: str, table: str, statuses: Sequence[str]) -> int:
        path = self.home / database
        if not path.exists():
            return 0
        with (
            suppress(sqlite3.OperationalError),
            closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as con,
        ):
            places = ", ".join("?" * len(statuses))
            found = con.execute(f"SELECT count(*) FROM {table} WHERE status IN ({places})", statuses)
            (count,) = found.fetchone()
            return int(count)
        return 0  # its tables are yet to be made


@contextmanager
def platform(data_dir: Path, environment: Mapping[str, str]) -> Iterator[Dagster]:
    """Run `pharmacy-bi up` on a data directory."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "bi_assets", "up", "--port", str(port)]
    yield from _run(
        command, data_dir / "dagster", data_dir / "up.log", {**environment, "BI_DATA_DIR": str(data_dir)}
    )


@contextmanager
def one_sensor(folder: Path) -> Iterator[Dagster]:
    """Run `dagster dev` on one sensor that skips, with the platform's instance configuration."""
    (port,) = free_ports(1)
    home = folder / "dagster"
    home.mkdir(parents=True)
    shutil.copyfile(Path(__file__).parent.parent / "dagster.yaml", home / "dagster.yaml")
    definitions = folder / "one_sensor.py"
    definitions.write_text(_ONE_SENSOR)
    command = [sys.executable, "-m", "dagster", "dev", "--log-level", "warning",
               "-h", LOCALHOST, "-p", str(port), "-f", str(definitions)]  # fmt: skip
    yield from _run(command, home, folder / "dagster.log", {"DAGSTER_HOME": str(home)})


def _run(command: Sequence[str], home: Path, log: Path, environment: Mapping[str, str]) -> Iterator[Dagster]:
    mark = f"BENCHMARK={uuid.uuid4().hex}"
    name, _, value = mark.partition("=")
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment, name: value},
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Dagster(home, mark, process, log)
    finally:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
