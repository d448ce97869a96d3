"""Every asset, from the shop's tables to the published file."""

# No postponed annotations here: Dagster reads the type of `context` as it stands.

from collections.abc import Iterator
from datetime import date

import dagster as dg

from bi_assets.contracts.contract import PATIENTS
from bi_assets.micro_batch import Pace, linger, recompute
from bi_assets.orchestration import keys, metadata
from bi_assets.orchestration.report import Reporter, check_result
from bi_assets.outputs.publish import publish
from bi_assets.refresh.mart import Mart
from bi_assets.refresh.refresh import COMPUTES
from bi_assets.warehouse import Warehouse

OWNERS = ["team:data"]
# What a change touches is computed again in the same run; Dagster would call every other day of the
# marts out of date, each time that a table changes.
_SAME = dg.DataVersion("kept up to date by the micro-batch")


def shop_tables(warehouse: Warehouse) -> list[dg.AssetSpec]:
    """Return the shop's own tables, upstream of everything; they are not ours to materialize."""
    return [
        dg.AssetSpec(
            keys.shop_table(contract.table),
            group_name="shop",
            description=f"{contract.meaning} Table `{contract.table}` of the shop's database.",
            kinds={"mysql"},
            metadata=metadata.source_schema(contract),
        )
        for contract in warehouse.contracts.values()
    ]


def topics(warehouse: Warehouse) -> list[dg.AssetSpec]:
    """Return the Kafka topics that Debezium fills."""
    return [
        dg.AssetSpec(
            keys.topic(contract.table),
            deps=[keys.shop_table(contract.table)],
            group_name="kafka",
            description=f"Changes of `{contract.table}`, as Debezium tells them: topic "
            f"`{warehouse.settings.topic(contract.table)}`.",
            kinds={"kafka"},
            metadata=metadata.source_schema(contract)
            | metadata.same_columns(contract, keys.shop_table(contract.table)),
        )
        for contract in warehouse.contracts.values()
    ]


def change_data(warehouse: Warehouse) -> dg.AssetsDefinition:
    """Return the micro-batch: the change logs and histories of all tables, in one step.

    The marts that it refreshes on the way are assets of their own; it reports their partitions.
    """
    specs = []
    key = warehouse.settings.pseudonym_key
    for contract in warehouse.contracts.values():
        table = contract.table
        log, versions = keys.change_log(table), keys.history(table)
        specs.append(
            dg.AssetSpec(
                log,
                deps=[keys.topic(table)],
                group_name="landing",
                description=f"Every change of `{table}`, exactly once, typed and de-identified: "
                f"`cdc.{table}`, append only.",
                kinds={"duckdb"},
                owners=OWNERS,
                skippable=True,
                metadata=metadata.stored_schema(contract, key)
                | metadata.same_columns(contract, keys.topic(table)),
            )
        )
        specs.append(
            dg.AssetSpec(
                versions,
                deps=[log],
                group_name="history",
                description=f"What was true of `{table}` when: `history.{table}`, one row per version "
                f"(slowly changing dimension, type 2), and `state.{table}`, the present.",
                kinds={"duckdb"},
                owners=OWNERS,
                skippable=True,
                metadata=metadata.stored_schema(contract, key) | metadata.same_columns(contract, log),
            )
        )
    if PATIENTS in warehouse.contracts:
        specs.append(
            dg.AssetSpec(
                keys.history(f"quarantined_{PATIENTS}"),
                deps=[keys.change_log(PATIENTS)],
                group_name="history",
                description="Patients of whom a change is in quarantine, and since when: "
                "`pharmacy-bi quarantine list`.",
                kinds={"duckdb"},
                owners=OWNERS,
                skippable=True,
                metadata=metadata.quarantined_schema(
                    warehouse.contracts[PATIENTS], key, keys.change_log(PATIENTS)
                ),
            )
        )

    @dg.multi_asset(name="change_data", specs=specs, can_subset=False)
    def change_data(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[None]]:
        reporter = Reporter(warehouse, context.instance, context.run.run_id)
        pace = Pace()
        outcome = linger(
            warehouse,
            reporter.report,
            progress=lambda done, left: context.log.info(pace.tell(done, left)),
        )
        reporter.finish()
        if outcome.published:
            reporter.published(outcome.published, outcome.took)
        rows: dict[str, int] = {}
        for batch in outcome.landed:
            for table, n in batch.tables.items():
                rows[table] = rows.get(table, 0) + n
        for table, n in rows.items():
            contract = warehouse.contracts[table]
            yield dg.MaterializeResult(
                asset_key=keys.change_log(table),
                data_version=_SAME,
                metadata={"rows_landed": n, **metadata.same_columns(contract, keys.topic(table))},
            )
            yield dg.MaterializeResult(
                asset_key=keys.history(table),
                data_version=_SAME,
                metadata={"changes": n, **metadata.same_columns(contract, keys.change_log(table))},
            )

    return change_data


def mart(warehouse: Warehouse, of: Mart) -> dg.AssetsDefinition:
    """Return a mart: the same function and checks as in the micro-batch, for any partitions."""
    key = keys.mart(of.name)

    @dg.asset(
        key=key,
        deps=[keys.of_input(name) for name in of.inputs],
        partitions_def=keys.partitions(of, warehouse.settings),
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name="marts",
        description=f"{of.question} Kept fresh by "
        + (
            "its schedule."
            if of.schedule
            else "the micro-batch: only what a change touches is computed again."
        ),
        kinds={"duckdb", "sql" if of.sql else "python"},
        owners=OWNERS,
        metadata=metadata.mart_schema(warehouse, of)
        | metadata.mart_lineage(warehouse, of)
        | {"dagster/table_name": of.table, "grain": ", ".join(of.grain)},
        check_specs=[
            dg.AssetCheckSpec(check.name, asset=key, description=check.sentence)
            for check in (COMPUTES, *of.checks)
        ],
    )
    def compute_mart(context: dg.AssetExecutionContext) -> dg.MaterializeResult:  # type: ignore[type-arg]
        days = None
        if of.partition:
            days = [date.fromisoformat(key) for key in context.partition_keys]
        refreshed = recompute(warehouse, of, days)
        return dg.MaterializeResult(
            metadata={"dagster/row_count": refreshed.rows, **metadata.mart_lineage(warehouse, of)},
            check_results=[check_result(of, result) for result in refreshed.checks],
        )

    return compute_mart


def published(warehouse: Warehouse) -> dg.AssetsDefinition:
    """Return the analysts' database file."""

    @dg.asset(
        key=keys.PUBLISHED,
        deps=[keys.mart(name) for name in warehouse.marts],
        group_name="outputs",
        description="What analysts open: `publish/marts.duckdb`, never locked, replaced as a whole.",
        kinds={"duckdb", "file"},
        owners=OWNERS,
    )
    def marts_duckdb() -> dg.MaterializeResult:  # type: ignore[type-arg]
        with warehouse.open() as con:
            result = publish(con, warehouse.marts, warehouse.settings)
        return dg.MaterializeResult(metadata=metadata.published(result))

    return marts_duckdb
