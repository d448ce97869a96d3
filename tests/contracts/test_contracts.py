"""Contract files: what they say is believed, and a faulty one is left out with file, line and remedy."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pytest

from bi_assets.contracts.contract import CONTRACTS, load_contracts
from bi_assets.platform import warehouse
from bi_assets.settings import Settings
from shop.schema import TABLES
from tests.landing.messages import Log, user
from tests.platform import Platform

FAULTS = {
    "not TOML": ('\nkey == ["id"]', ["brands.toml", "line 2"]),
    "no key": ('[columns]\nid = { type = "bigint", privacy = "key" }\n', ["brands.toml, line 1", "no key"]),
    "a key that is no column": (
        'key = ["nr"]\n[columns]\nid = { type = "bigint", privacy = "key" }\n',
        ["brands.toml", "'nr'", "[columns]"],
    ),
    "an unknown type": (
        'key = ["id"]\n[columns]\nid = { type = "uuid", privacy = "key" }\n',
        ["brands.toml, line 3", "id", "'uuid'", "bigint"],
    ),
    "no type": (
        'key = ["id"]\n[columns]\nid = { privacy = "key" }\n',
        ["brands.toml, line 3", "id", "type"],
    ),
    "an unknown privacy class": (
        'key = ["id"]\n\n[columns]\nid = { type = "bigint", privacy = "secret" }\n',
        ["brands.toml, line 4", "privacy", "pseudonym"],
    ),
    "a misspelt setting": (
        'key = ["id"]\n[columns]\nid = { type = "bigint", privacy = "key", requird = true }\n',
        ["brands.toml, line 3", "requird"],
    ),
    "a name that SQL could not take": (
        'key = ["id"]\n[columns]\nid = { type = "bigint", privacy = "key" }\n'
        '"a b" = { type = "bigint", privacy = "key" }\n',
        ["brands.toml", "a b", "letters"],
    ),
    "a key that is excluded": (
        'key = ["id"]\n[columns]\nid = { type = "bigint", privacy = "excluded" }\n',
        ["brands.toml, line 3", "id"],
    ),
    "columns that are no table": ('key = ["id"]\ncolumns = 5\n', ["brands.toml", "columns"]),
    "a column that is no table": ('key = ["id"]\n[columns]\nid = "bigint"\n', ["brands.toml, line 3", "id"]),
    "a policy that is none": (
        'key = ["id"]\nschema_changes = "ignore"\n[columns]\nid = { type = "bigint", privacy = "key" }\n',
        ["brands.toml, line 2", "schema_changes", "report, accept, quarantine"],
    ),
    "a bound that is no number": (
        'key = ["id"]\n[columns]\nid = { type = "bigint", privacy = "key", min = "low" }\n',
        ["brands.toml, line 3", "id", "min"],
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the repository's contracts."""
    folder = tmp_path / "contracts"
    shutil.copytree(CONTRACTS, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    return folder


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_contract_is_left_out_and_named_and_the_others_work(fault: str, folder: Path) -> None:
    text, words = FAULTS[fault]
    (folder / "brands.toml").write_text(text)
    contracts, faults = load_contracts(folder)
    assert set(contracts) == set(TABLES) - {"brands"}
    (told,) = faults
    assert [word for word in words if word not in told] == [], told


def test_every_table_of_the_shop_has_a_contract() -> None:
    contracts, faults = load_contracts()
    assert not faults
    assert set(contracts) == set(TABLES)


@pytest.mark.parametrize("table", TABLES)
def test_a_contract_has_the_columns_types_and_key_of_the_shop(table: str) -> None:
    contract, source = load_contracts()[0][table], TABLES[table]
    assert contract.key == source.key
    assert contract.fields == {column.name for column in source.columns}
    types = {column.name: column.type for column in source.columns}
    for column in contract.columns:
        # the contract speaks of families: varchar(120), enums and text are texts
        declared = column.type.removesuffix("(1)")
        assert types[column.name].startswith(declared) or column.type == "varchar"


@pytest.mark.parametrize("table", TABLES)
def test_personal_columns_are_excluded_by_the_contract_too(table: str) -> None:
    assert set(TABLES[table].personal) == set(load_contracts()[0][table].excluded)


def test_only_what_every_answer_needs_is_required() -> None:
    required = {
        name: {column.name for column in contract.columns if column.required}
        for name, contract in load_contracts()[0].items()
    }
    assert required["users"] == {"id", "practitioner_discount"}
    assert required["orders"] == {"id", "user_id", "date", "amount_total"}


def test_marts_of_a_table_without_contract_are_left_out_the_others_work(folder: Path, tmp_path: Path) -> None:
    (folder / "order_items.toml").write_text("key = [")
    marts = tmp_path / "marts"
    marts.mkdir()
    (marts / "patients.sql").write_text(
        '/*\nquestion = "How many?"\ngrain = ["n"]\n[columns]\nn = "how many"\n*/\n'
        "SELECT count(*) AS n FROM state.users"
    )
    (marts / "items.sql").write_text(
        '/*\nquestion = "How many?"\ngrain = ["n"]\n[columns]\nn = "how many"\n*/\n'
        "SELECT count(*) AS n FROM state.order_items"
    )
    platform = warehouse(Settings(data_dir=tmp_path), folder, marts)
    assert set(platform.marts) == {"patients"}
    with duckdb.connect() as con:
        platform.prepare(con)


def test_a_new_contract_is_a_new_table(folder: Path, tmp_path: Path) -> None:
    (folder / "suppliers.toml").write_text(
        'key = ["id"]\n[columns]\nid = { type = "bigint", privacy = "key" }\n'
        'name = { type = "varchar", privacy = "business" }\n'
    )
    platform = warehouse(Settings(data_dir=tmp_path), folder)
    with duckdb.connect() as con:
        platform.prepare(con)
        for schema in ("cdc", "history", "state"):
            con.execute(f"SELECT id, name FROM {schema}.suppliers")


def test_the_other_tables_land_where_the_contract_of_orders_is_faulty() -> None:
    log = Log()
    log.change("users", "c", None, user(1))
    log.change("users", "u", user(1), user(1, -6.0))
    with Platform(tables=["users"], marts_of={}) as platform:
        assert platform.land(log.messages).tables == {"users": 2}
