"""The platform on one page: every asset, check, job, schedule and sensor."""

from __future__ import annotations

import warnings

import dagster as dg

from bi_assets.orchestration import assets, jobs
from bi_assets.platform import warehouse
from bi_assets.settings import Settings
from sensors.kafka_cdc import kafka_cdc

# Beta: the backfill policy and the asset's run-less reports; both are pinned with the version.
warnings.filterwarnings("ignore", category=dg.BetaWarning)


@dg.definitions
def definitions() -> dg.Definitions:
    """Return the code location."""
    platform = warehouse(Settings.from_environment())
    change_data = assets.change_data(platform)
    return dg.Definitions(
        assets=[
            *assets.shop_tables(platform),
            *assets.topics(platform),
            change_data,
            *(assets.mart(platform, mart) for mart in platform.marts.values()),
            assets.published(platform),
        ],
        jobs=[jobs.micro_batch(change_data)],
        schedules=[*jobs.statistics(platform), jobs.retention(platform)],
        sensors=[kafka_cdc(platform)],
        executor=dg.in_process_executor,
    )
