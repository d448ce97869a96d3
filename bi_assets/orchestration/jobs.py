"""The jobs, and what runs by the clock."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from bi_assets import compaction
from bi_assets.orchestration import keys
from bi_assets.orchestration import retention as what_dagster_remembers
from bi_assets.refresh import refresh
from bi_assets.warehouse import Warehouse

MICRO_BATCH = "micro_batch"
RETENTION = "retention"
_AT_NIGHT = "30 3 * * *"
# The terminal shows what is wrong; everything else is in the UI.
_QUIET = {"loggers": {"console": {"config": {"log_level": "WARNING"}}}}


def micro_batch(change_data: dg.AssetsDefinition) -> UnresolvedAssetJobDefinition:
    """Return the job that the sensor launches."""
    return dg.define_asset_job(
        MICRO_BATCH,
        selection=dg.AssetSelection.assets(change_data),
        config=_QUIET,
        description="Land what Kafka has, bring history and marts up to date, publish; then linger.",
    )


def statistics(warehouse: Warehouse) -> list[dg.ScheduleDefinition]:
    """Return a schedule for each mart that has one; it runs only where the inputs have changed."""
    return [
        _schedule(warehouse, name, mart.schedule) for name, mart in warehouse.marts.items() if mart.schedule
    ]


def _schedule(warehouse: Warehouse, name: str, cron: str) -> dg.ScheduleDefinition:
    job = dg.define_asset_job(
        f"refresh_{name}", selection=dg.AssetSelection.assets(keys.mart(name)), config=_QUIET
    )

    @dg.schedule(
        name=f"{name}_schedule",
        job=job,
        cron_schedule=cron,
        execution_timezone=warehouse.settings.business_timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    def due(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        with warehouse.open() as con:
            stale = refresh.is_stale(con, warehouse.marts[name])
        return dg.RunRequest() if stale else dg.SkipReason("nothing that it is made of has changed")

    return due


def retention(warehouse: Warehouse) -> dg.ScheduleDefinition:
    """Return the nightly schedule of what keeps files from growing for ever."""

    @dg.op(description="Delete old runs with their events and logs; what tells the present stays.")
    def purge_dagster(context: dg.OpExecutionContext) -> None:
        purged = what_dagster_remembers.purge(context.instance, datetime.now(UTC))
        freed = what_dagster_remembers.give_back(context.instance)
        context.add_output_metadata({**asdict(purged), "bytes given back": sum(freed.values())})

    @dg.op(description="Rewrite core.duckdb where most of it is empty.")
    def compact_core(context: dg.OpExecutionContext) -> None:
        compacted = compaction.compact(warehouse)
        context.add_output_metadata(asdict(compacted) if compacted else {"left as it is": True})

    @dg.job(name=RETENTION, config=_QUIET, description="Purges and compacts: see docs/operations.md.")
    def nightly() -> None:
        purge_dagster()
        compact_core()

    @dg.schedule(
        name=RETENTION,
        job=nightly,
        cron_schedule=_AT_NIGHT,
        execution_timezone=warehouse.settings.business_timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    def due(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        # Dagster makes up for several missed nights at once; the last one does it for all.
        if datetime.now(UTC) - context.scheduled_execution_time > timedelta(days=1):
            return dg.SkipReason("a later night does it")
        return dg.RunRequest()

    return due
