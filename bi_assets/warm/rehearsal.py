"""A run of one empty asset, to import and to build what Dagster does when it runs something first."""

from __future__ import annotations

from tempfile import TemporaryDirectory

import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.instance.ref import InstanceRef
from dagster._grpc.impl import core_execute_run


@dg.asset
def rehearsed() -> dg.MaterializeResult[None]:
    """Do nothing."""
    return dg.MaterializeResult()


definitions = dg.Definitions(
    assets=[rehearsed],
    jobs=[dg.define_asset_job("rehearsal", selection=[rehearsed])],
    executor=dg.in_process_executor,
    loggers={"console": dg.colored_console_logger},
)


def rehearse(home: str) -> None:
    """Run it, on an instance like the one in this folder, which is thrown away."""
    job = ReconstructableRepository.for_module(__name__, "definitions").get_reconstructable_job("rehearsal")
    with (
        TemporaryDirectory() as folder,
        dg.DagsterInstance.from_ref(InstanceRef.from_dir(folder, config_dir=home)) as instance,
    ):
        run = instance.create_run_for_job(
            job.get_definition(), run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        )
        for _ in core_execute_run(job, run, instance, inject_env_vars=False):
            pass
