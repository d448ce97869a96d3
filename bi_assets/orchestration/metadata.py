"""What the Dagster UI shows of a table: columns with their meaning, and where they come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import dagster as dg

from bi_assets.contracts.contract import Contract
from bi_assets.landing.columns import stored_type
from bi_assets.orchestration import keys
from bi_assets.outputs.publish import Published
from bi_assets.refresh.lineage import Source, column_lineage
from bi_assets.refresh.mart import Mart
from bi_assets.warehouse import Warehouse


def source_schema(contract: Contract) -> dict[str, dg.TableSchema]:
    """Return the columns of a table of the shop, as the contract tells them."""
    columns = [dg.TableColumn(c.name, c.type, description=c.meaning) for c in contract.columns]
    return {"dagster/column_schema": dg.TableSchema(columns=columns)}


def stored_schema(contract: Contract, pseudonym_key: str | None) -> dict[str, dg.TableSchema]:
    """Return the columns of a table of ours that follows a contract."""
    columns = [
        dg.TableColumn(
            c.name,
            stored_type(c, pseudonym_key),
            description=c.meaning + (" (pseudonym)" if c.privacy == "pseudonym" else ""),
        )
        for c in contract.columns
    ]
    return {"dagster/column_schema": dg.TableSchema(columns=columns)}


def quarantined_schema(
    patients: Contract, pseudonym_key: str | None, log: dg.AssetKey
) -> dict[str, dg.TableSchema | dg.TableColumnLineage]:
    """Return the columns of `state.quarantined_users`; its patients are those of the `log`'s table."""
    (key,) = (c for c in patients.columns if c.name in patients.key)
    columns = [
        dg.TableColumn("id", stored_type(key, pseudonym_key), description=key.meaning),
        dg.TableColumn(
            "since", "TIMESTAMP", description="when the first change in quarantine was made [UTC]"
        ),
    ]
    return {"dagster/column_schema": dg.TableSchema(columns=columns), **_lineage({"id": [(log, key.name)]})}


def same_columns(contract: Contract, of: dg.AssetKey) -> dict[str, dg.TableColumnLineage]:
    """Return the lineage of a table whose contract columns are those of another one."""
    return _lineage({name: [(of, name)] for name in contract.names})


def mart_schema(warehouse: Warehouse, mart: Mart) -> dict[str, dg.TableSchema]:
    """Return the columns of a mart as its file declares them, and in words what they are made of.

    The open-source UI does not draw column lineage.
    """
    made_of = _made_of(warehouse, mart)
    columns = []
    for column in mart.columns:
        unit = f" [{column.unit}]" if column.unit else ""
        sources = ", ".join(f"{table}.{name}" for table, name in made_of.get(column.name, ()))
        source = f" (from {sources})" if sources else ""
        columns.append(dg.TableColumn(column.name, column.type or "", column.meaning + unit + source))
    return {"dagster/column_schema": dg.TableSchema(columns=columns)}


def mart_lineage(warehouse: Warehouse, mart: Mart) -> dict[str, dg.TableColumnLineage]:
    """Return which columns a mart's columns are made of; empty for a Python mart."""
    found = _made_of(warehouse, mart)
    if not found:
        return {}
    return _lineage(
        {
            column: [(keys.of_input(table), name) for table, name in sources]
            for column, sources in found.items()
        }
    )


def published(result: Published) -> dict[str, str | int | float]:
    """Return what there is to say of a publication."""
    return {
        "dagster/uri": str(result.path.resolve()),
        "bytes": result.size,
        "how": result.how,
        "seconds": round(result.seconds, 3),
    }


def _made_of(warehouse: Warehouse, mart: Mart) -> dict[str, list[Source]]:
    cache = warehouse.settings.data_dir / "lineage"
    return column_lineage(mart, warehouse.marts, warehouse.contracts, cache)


def _lineage(
    sources: Mapping[str, Iterable[tuple[dg.AssetKey, str]]],
) -> dict[str, dg.TableColumnLineage]:
    deps = {
        column: [dg.TableColumnDep(asset_key=key, column_name=name) for key, name in found]
        for column, found in sources.items()
    }
    return {"dagster/column_lineage": dg.TableColumnLineage(deps_by_column=deps)}
