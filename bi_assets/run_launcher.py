"""Launches runs from a warm process, so that a micro-batch starts in tenths of a second.

A new process that imports Dagster and the platform takes seconds. One that has done so, started
with Dagster's daemon and shared by all processes of an instance, forks a run at once; see
`bi_assets.warm`. Where it can't, Dagster's own launcher does it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast

from dagster import DagsterInstance, DagsterRun
from dagster._config import Array
from dagster._config.config_schema import UserConfigSchema
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, LaunchRunContext, WorkerStatus
from dagster._core.run_coordinator import DefaultRunCoordinator
from dagster._serdes import ConfigurableClassData, serialize_value

from bi_assets.warm.run_mark import RunMark
from bi_assets.warm.server import Task, address

log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 20.0
_ASK_AGAIN_SECONDS = 0.05
_ANSWER_SECONDS = 5.0
_END_SECONDS = 15.0
_START_AGAIN_SECONDS = 1.0


class WarmRunLauncher(DefaultRunLauncher):
    """Forks runs from a warm process; falls back to Dagster's default launcher with a warning.

    Configured with the `module` whose definitions the warm process has ready, and the `packages` in
    which a changed file makes it start anew.
    """

    def __init__(
        self, module: str, packages: list[str], inst_data: ConfigurableClassData | None = None
    ) -> None:
        super().__init__(inst_data)
        self._module = module
        self._packages = tuple(packages)
        self._host: _Host | None = None
        self._told: set[str] = set()

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """Return the schema of the configuration in dagster.yaml."""
        return {"module": str, "packages": Array(str)}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        """Return the launcher that dagster.yaml describes."""
        return cls(inst_data=inst_data, **config_value)

    def warm_up(self) -> None:
        """Start the warm process, unless another process of this instance has done so."""
        if not self._host:
            self._folder.mkdir(parents=True, exist_ok=True)
            ref = serialize_value(self._instance.get_ref())
            self._host = _Host(Task(ref, str(self._folder), self._module, self._packages))
            self._host.start()

    def launch_run(self, context: LaunchRunContext) -> None:
        """Launch a run. Errors: those of the default launcher, where that one has to do it."""
        self.warm_up()
        run = context.dagster_run
        obstacle = self._why_not(run) or self._fork(run, _code_server(context))
        if obstacle:
            if obstacle not in self._told:
                self._told.add(obstacle)
                log.warning("A run starts slowly, in a new process: %s", obstacle)
            super().launch_run(context)

    def terminate(self, run_id: str) -> bool:
        """Interrupt a run; it ends as canceled. Tells whether there was anything to interrupt."""
        run = self._instance.get_run_by_id(run_id)
        mark = RunMark.of(self._folder, run_id)
        if not run or run.is_finished or not mark.is_alive():
            return bool(super().terminate(run_id))  # type: ignore[no-untyped-call]
        self._instance.report_run_canceling(run)
        while mark.is_alive():
            if process := mark.process():
                os.kill(process, signal.SIGINT)
                return True
        return False

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Run monitoring may ask whether a run's process lives."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Tell whether a run's process lives."""
        mark = RunMark.of(self._folder, run.run_id)
        if mark.exists() and not mark.is_alive():
            return CheckRunHealthResult(WorkerStatus.FAILED, "its process is gone")
        return CheckRunHealthResult(WorkerStatus.RUNNING)

    def dispose(self) -> None:
        """End the warm process and its runs, if this process has started it."""
        if self._host:
            self._host.end()
            self._host = None
        super().dispose()

    @property
    def _folder(self) -> Path:
        return Path(self._instance.root_directory) / "run_launcher"

    def _why_not(self, run: DagsterRun) -> str | None:
        """Return why the warm process can't serve a run, if so."""
        origin = run.job_code_origin.repository_origin if run.job_code_origin else None
        pointer = origin.code_pointer if origin else None
        if not origin or not isinstance(pointer, ModuleCodePointer) or pointer.module != self._module:
            return f"only runs of the module {self._module} are forked from the warm process."
        if origin.container_image or origin.executable_path not in (None, sys.executable):
            return "its code location has a Python of its own."
        return None

    def _fork(self, run: DagsterRun, code_server: str) -> str | None:
        """Have the warm process fork a run; return what was in the way, if anything was.

        One that is warming up is waited for: a new process for the run would take longer.
        """
        asked = {"run": serialize_value(run), "run_id": run.run_id, "code_server": code_server}
        mark = RunMark.of(self._folder, run.run_id)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                answer = _ask(self._folder, asked)
            except (OSError, ValueError):
                answer = {}
            if "process" in answer or mark.is_alive():
                return None
            if fault := answer.get("fault"):
                return str(fault)
            time.sleep(_ASK_AGAIN_SECONDS)
        return f"the warm process is not ready after {_PATIENCE_SECONDS:.0f} s."


class WarmRunCoordinator(DefaultRunCoordinator):
    """Launches runs at once, like the default coordinator, and has the launcher warm up ahead of the first.

    Dagster's daemon makes its coordinator when it starts, and its launcher at the first run only. Other
    processes, runs among them, make one as well; their runs are forked from the daemon's warm process.
    """

    def register_instance(self, instance: DagsterInstance) -> None:
        """Take the instance whose runs are coordinated."""
        super().register_instance(instance)
        if "dagster._daemon.cli" in sys.modules and isinstance(instance.run_launcher, WarmRunLauncher):
            instance.run_launcher.warm_up()


class _Host(threading.Thread):
    """Keeps a warm process running, as long as no other process does."""

    def __init__(self, task: Task) -> None:
        super().__init__(name="warm-process-host", daemon=True)
        self._task = task
        self._ended = threading.Event()
        self._starting = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        # Closed with this process, by whatever death; the warm process and its runs notice.
        self._held_by_it, self._held = os.pipe()

    def run(self) -> None:
        """Start the process, again whenever it dies."""
        with (Path(self._task.folder) / "host.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            while True:
                with self._starting:
                    if self._ended.is_set():
                        return
                    self._process = subprocess.Popen(
                        [sys.executable, "-m", "bi_assets.warm.server", self._task.to_json()],
                        stdin=self._held_by_it,
                    )
                code = self._process.wait()
                if self._ended.wait(_START_AGAIN_SECONDS):
                    return
                log.warning(
                    "The warm process of the run launcher ended (exit code %s); starting another", code
                )

    def end(self) -> None:
        """End the process, and with it the runs that it has forked."""
        with self._starting:
            self._ended.set()
        os.close(self._held)
        os.close(self._held_by_it)
        if self._process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_SECONDS)


def _ask(folder: Path, question: Mapping[str, str]) -> dict[str, Any]:
    """Return the warm process's answer. Errors: `OSError`, `ValueError` where there is none."""
    with socket.socket(socket.AF_UNIX) as connection, address(folder) as where:
        connection.settimeout(_ANSWER_SECONDS)
        connection.connect(where)
        connection.sendall((json.dumps(question) + "\n").encode())
        with connection.makefile() as stream:
            return cast("dict[str, Any]", json.loads(stream.readline()))


def _code_server(context: LaunchRunContext) -> str:
    """Return the id of the server of the run's code location, which changes when it is reloaded."""
    origin = context.dagster_run.remote_job_origin
    if not context.workspace or not origin:
        return ""
    location = context.workspace.get_code_location(
        origin.repository_origin.code_location_origin.location_name
    )
    return str(getattr(location, "server_id", ""))
