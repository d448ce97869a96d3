"""An instance as dagster.yaml describes it, and two small code locations whose runs it launches."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import dagster as dg
import pytest
import yaml  # type: ignore[import-untyped]
from dagster._core.storage.dagster_run import DagsterRunStatus
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget

from bi_assets.run_launcher import WarmRunLauncher
from bi_assets.warm.server import address

T = TypeVar("T")

_INSTANCE = Path(__file__).parents[2] / "dagster.yaml"
_SECONDS = 30.0

WARM, OTHER = "warm_location", "other_location"

CODE = '''
import os
import sys
import time
from pathlib import Path

import dagster as dg

IMPORTED_BY, ANSWER = os.getpid(), 1
FOLDER = Path(__file__).parent


@dg.op
def tell(context: dg.OpExecutionContext) -> None:
    """Say who runs this."""
    print("to standard output")
    print("to standard error", file=sys.stderr)
    os.system("echo from a child")
    told = dict(process=os.getpid(), parent=os.getppid(), imported_by=IMPORTED_BY, answer=ANSWER)
    context.log_event(dg.AssetObservation("told", metadata=told))


@dg.op
def stay(context: dg.OpExecutionContext) -> None:
    """Run until interrupted."""
    (FOLDER / f"{context.run_id}.started").write_text(str(os.getpid()))
    try:
        while True:
            time.sleep(0.02)
    finally:
        (FOLDER / f"{context.run_id}.tidied").touch()


@dg.job(executor_def=dg.in_process_executor)
def telling() -> None:
    tell()


@dg.job(executor_def=dg.in_process_executor)
def staying() -> None:
    stay()


definitions = dg.Definitions(jobs=[telling, staying])
'''


def until(found: Callable[[], T], what: str, seconds: float = _SECONDS) -> T:
    """Wait until something is found, and return it. Errors: `AssertionError` when it takes too long."""
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline, f"no {what} in {seconds:.0f} s"
        time.sleep(0.02)
    return result


class Launching:
    """The instance, and the code of the location that its launcher serves."""

    def __init__(self, instance: dg.DagsterInstance, context: WorkspaceProcessContext, folder: Path) -> None:
        self.instance = instance
        self._context = context
        self._folder = folder
        self._code = folder / WARM / "definitions.py"

    @property
    def launcher(self) -> WarmRunLauncher:
        """The launcher."""
        launcher = self.instance.run_launcher
        assert isinstance(launcher, WarmRunLauncher)
        return launcher

    def launch(self, job_name: str, location_name: str = WARM) -> str:
        """Launch a run as the daemon does; return its id."""
        workspace = self._context.create_request_context()
        location = workspace.get_code_location(location_name)
        (repository,) = location.get_repositories().values()
        job = repository.get_full_job(job_name)
        plan = location.get_execution_plan(job, {}, None, None, self.instance)
        run = self.instance.create_run(
            job_name=job_name,
            run_id=None,
            run_config={},
            status=DagsterRunStatus.NOT_STARTED,
            tags={},
            root_run_id=None,
            parent_run_id=None,
            step_keys_to_execute=None,
            job_snapshot=job.job_snapshot,
            execution_plan_snapshot=plan.execution_plan_snapshot,
            parent_job_snapshot=job.parent_job_snapshot,
            asset_selection=None,
            asset_check_selection=None,
            resolved_op_selection=None,
            op_selection=None,
            remote_job_origin=job.get_remote_origin(),
            job_code_origin=job.get_python_origin(),
            asset_graph=repository.asset_graph,
        )
        self.instance.submit_run(run.run_id, workspace)
        return run.run_id

    def status(self, run_id: str) -> DagsterRunStatus:
        """Return the status of a run."""
        run = self.instance.get_run_by_id(run_id)
        assert run
        return run.status

    def end(self, run_id: str, seconds: float = _SECONDS) -> DagsterRunStatus:
        """Wait for a run's end, and return its status."""
        until(lambda: self._is_finished(run_id), f"end of the run {self.status(run_id)}", seconds)
        return self.status(run_id)

    def told(self, run_id: str) -> dict[str, int]:
        """Return what a successful run of `telling` said of itself."""
        assert self.end(run_id) == DagsterRunStatus.SUCCESS, self.messages(run_id)
        (event,) = self.instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_OBSERVATION)
        assert event.asset_observation
        return {name: int(str(value.value)) for name, value in event.asset_observation.metadata.items()}

    def messages(self, run_id: str) -> str:
        """Return everything that the events of a run say, errors included."""
        logs = self.instance.all_logs(run_id)
        said = [log.user_message for log in logs]
        for event in (log.dagster_event for log in logs if log.dagster_event):
            said.append(event.message or "")
            if event.is_engine_event and event.engine_event_data.error:
                said.append(event.engine_event_data.error.to_string())
        return "\n".join(said)

    def wait_until_warm(self) -> None:
        """Wait until the warm process is ready to fork runs, or to say why it can't."""
        until(self._is_warm, "warm process")

    def process(self, run_id: str) -> int:
        """Wait until a run of `staying` is in its step; return its process."""
        file = self._folder / WARM / f"{run_id}.started"
        return int(until(lambda: file.exists() and file.read_text(), "step under way"))

    def has_tidied(self, run_id: str) -> bool:
        """Tell whether the `finally` of a run of `staying` has run."""
        return (self._folder / WARM / f"{run_id}.tidied").exists()

    def write_code(self, code: str) -> None:
        """Replace the code of the location."""
        self._code.write_text(code)

    def _is_finished(self, run_id: str) -> bool:
        run = self.instance.get_run_by_id(run_id)
        return run is not None and run.is_finished

    def _is_warm(self) -> bool:
        folder = Path(self.instance.root_directory) / "run_launcher"
        try:
            with socket.socket(socket.AF_UNIX) as connection, address(folder) as where:
                connection.connect(where)
        except OSError:
            return False
        return True


@contextmanager
def launching(folder: Path) -> Iterator[Launching]:
    """Serve the code in a folder, which is made, with an instance of its own."""
    home = folder / "home"
    home.mkdir()
    for name, file in ((WARM, "definitions.py"), (OTHER, "__init__.py")):
        (folder / name).mkdir()
        (folder / name / "__init__.py").touch()
        (folder / name / file).write_text(CODE)
    settings = yaml.safe_load(_INSTANCE.read_text())
    settings["run_launcher"]["config"] = {"module": f"{WARM}.definitions", "packages": [WARM]}
    (home / "dagster.yaml").write_text(yaml.safe_dump(settings))
    workspace = folder / "workspace.yaml"
    modules = {WARM: f"{WARM}.definitions", OTHER: OTHER}
    workspace.write_text(
        yaml.safe_dump(
            {
                "load_from": [
                    {"python_module": {"module_name": module, "location_name": name}}
                    for name, module in modules.items()
                ]
            }
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))  # for the processes that serve the code
        patch.syspath_prepend(str(folder))
        with (
            dg.DagsterInstance.from_config(str(home)) as instance,
            WorkspaceProcessContext(instance, WorkspaceFileTarget(paths=[str(workspace)])) as context,
        ):
            yield Launching(instance, context, folder)
