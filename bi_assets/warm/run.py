"""What the warm process has ready for a run; the run itself, in the forked process; and its death."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Collection

import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.events import EngineEventData
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.dagster_run import DagsterRun
from dagster._grpc.impl import core_execute_run
from dagster._grpc.utils import get_loadable_targets
from dagster._serdes import deserialize_value
from dagster._utils import get_run_crash_explanation
from dagster._utils.hosted_user_process import recon_job_from_origin
from dagster._utils.interrupts import capture_interrupts

from bi_assets.warm.rehearsal import rehearse

_DESCRIPTORS = 256  # more than a run has open


def instance_of(serialized_ref: str) -> dg.DagsterInstance:
    """Return the instance that a launcher serves."""
    return dg.DagsterInstance.from_ref(deserialize_value(serialized_ref, InstanceRef))


def warm_up(instance: dg.DagsterInstance, module: str) -> None:
    """Import a module with definitions, build everything that it defines, and rehearse a run.

    Errors: whatever the module raises.
    """
    for target in get_loadable_targets(
        python_file=None,
        module_name=module,
        package_name=None,
        autoload_defs_module_name=None,
        working_directory=None,
        attribute=None,
        resolve_lazy_defs=False,
    ):
        repository = ReconstructableRepository.for_module(module, target.attribute).get_definition()
        repository.load_all_definitions()
        # Here a run looks for it, and finds it built.
        setattr(sys.modules[module], target.attribute, repository)
    rehearse(instance.root_directory)
    instance.get_runs_count()
    instance.get_latest_materialization_event(dg.AssetKey("rehearsed"))


def execute(instance: dg.DagsterInstance, run: DagsterRun, host: int) -> None:
    """Execute a run in this process, to its end, good or bad; interrupt it when the host is gone.

    Errors: what could not be told in the run's own events.
    """
    origin, process = run.job_code_origin, os.getpid()
    assert origin
    with capture_interrupts(), instance:
        threading.Thread(target=_end_with, args=(host, instance, run.run_id), daemon=True).start()
        instance.report_engine_event(
            f"Started process for run (pid: {process}).", run, EngineEventData.in_process(process)
        )
        for _ in core_execute_run(recon_job_from_origin(origin), run, instance, inject_env_vars=False):
            pass


def report_death(instance: dg.DagsterInstance, run_id: str, exit_code: int | None) -> None:
    """Mark a run as failed whose process is gone, unless it had ended."""
    run = instance.get_run_by_id(run_id)
    if run and not run.is_finished:
        subject = f"Process of run {run_id}"
        message = (
            f"{subject} is gone; it ended together with what had started it, or with the machine."
            if exit_code is None
            else get_run_crash_explanation(subject, exit_code)
        )
        instance.report_run_failed(run, message)


def _end_with(host: int, instance: dg.DagsterInstance, run_id: str) -> None:
    """Cancel the run of this process when the other end of the host's pipe is closed."""
    terminal = {_file(1), _file(2)} - {None}
    poll = select.poll()
    poll.register(host, select.POLLIN)
    poll.poll()
    run = instance.get_run_by_id(run_id)
    if run and not run.is_finished:
        _leave(terminal)
        instance.report_run_canceling(run, "Dagster is being stopped, and this run with it.")
        os.kill(os.getpid(), signal.SIGINT)


def _leave(terminal: Collection[tuple[int, int] | None]) -> None:
    """Write nothing to the terminal any more: who has stopped Dagster need not read how a run ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in range(_DESCRIPTORS):
        if _file(descriptor) in terminal:
            os.dup2(nowhere, descriptor)


def _file(descriptor: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino
