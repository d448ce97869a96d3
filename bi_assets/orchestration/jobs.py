"""The jobs, and what runs by the clock."""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from bi_assets.orchestration import keys
from bi_assets.refresh import refresh
from bi_assets.warehouse import Warehouse

MICRO_BATCH = "micro_batch"
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
    """Return the nightly schedule of what keeps files from growing for ever; see docs/operations.md."""

    @dg.op(description="Delete old runs, their logs and events, and what was reported without a run.")
    def purge_dagster(context: dg.OpExecutionContext) -> None:
        instance = context.instance
        purged = purging.purge(instance, datetime.now(UTC))
        context.add_output_metadata(
            {**asdict(purged), "bytes given back": sum(purging.give_back(instance).values())}
        )

    @dg.job(
        name=RETENTION,
        config=_QUIET,
        description="Purges what Dagster need not remember.",
    )
    def nightly() -> None:
        purge_dagster()

    return dg.ScheduleDefinition(
        name=f"{RETENTION}_schedule",
        job=nightly,
        cron_schedule=_NIGHTLY,
        execution_timezone=warehouse.settings.business_timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
