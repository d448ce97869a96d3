"""The shop's thirteen source tables: columns, MySQL types, keys and what is personal."""

import re
from dataclasses import dataclass, field
from functools import cached_property

DATABASE = "shop"


@dataclass(frozen=True)
class Column:
    """One column of a source table.

    `type` is the MySQL type in lower case, `personal` says that Debezium's
    `column.exclude.list` keeps it out of Kafka.
    """

    name: str
    type: str
    nullable: bool = False
    personal: bool = False

    @cached_property
    def base_type(self) -> str:
        """The type's name without its arguments: `decimal` of `decimal(12,2)`."""
        return re.split(r"[( ]", self.type, maxsplit=1)[0]

    @cached_property
    def is_integer(self) -> bool:
        """Whether MySQL keeps a whole number here."""
        return self.base_type in ("bigint", "int", "tinyint")

    @cached_property
    def scale(self) -> int | None:
        """Digits after the point of a decimal column, None for every other type."""
        found = re.fullmatch(r"decimal\(\d+,(\d+)\)", self.type)
        return int(found[1]) if found else None


@dataclass(frozen=True)
class Table:
    """One source table: its columns in the order of MySQL, and its primary key."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ("id",)
    by_name: dict[str, Column] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {column.name: column for column in self.columns})

    @cached_property
    def personal(self) -> tuple[str, ...]:
        """Names of the columns that must never reach Kafka."""
        return tuple(column.name for column in self.columns if column.personal)

    @cached_property
    def public(self) -> tuple[Column, ...]:
        """The columns that Debezium sends, in the order of MySQL."""
        return tuple(column for column in self.columns if not column.personal)


def _table(name: str, columns: str, key: tuple[str, ...] = ("id",)) -> Table:
    """Read a table from lines of `[!]name type [null]`, the notation of the design."""
    parsed = []
    for line in columns.strip().splitlines():
        marked, _, kind = line.strip().partition(" ")
        kind, nullable = kind.removesuffix(" null"), kind.endswith(" null")
        parsed.append(Column(marked.lstrip("!"), kind, nullable, marked.startswith("!")))
    return Table(name, tuple(parsed), key)


_ALL = (
    _table(
        "clinics",
        """id bigint
        name varchar(120)""",
    ),
    _table(
        "practitioners",
        """id bigint
        clinic_id bigint
        practice_type varchar(60)
        modalities varchar(255)
        certifications varchar(255)
        !registration_number varchar(40)
        registered_at datetime(3)""",
    ),
    _table(
        "brands",
        """id bigint
        name varchar(120)
        supply_restriction varchar(60) null""",
    ),
    _table(
        "supply_restrictions",
        """id bigint
        practitioner_id bigint
        brand_id bigint
        allowed tinyint(1)""",
    ),
    _table(
        "products",
        """id bigint
        brand_id bigint
        name varchar(160)
        size varchar(40)
        availability enum('general','practitioner_only')
        wholesale_price decimal(12,2)
        rrp decimal(12,2)
        stock int""",
    ),
    _table(
        "shipping_methods",
        """id bigint
        name varchar(80)
        cost decimal(12,2)
        max_weight_g int
        max_order_value decimal(12,2)""",
    ),
    _table(
        "vouchers",
        """code varchar(40)
        shipping_method_id bigint null
        amount_off decimal(12,2)
        expires_at datetime(3)""",
        key=("code",),
    ),
    _table(
        "users",
        """id bigint
        practitioner_id bigint
        clinic_id bigint
        practitioner_discount double null
        register_date datetime(3)
        !first_name varchar(80)
        !last_name varchar(80)
        !email varchar(160)
        !phone varchar(40)
        !address varchar(200)
        !postcode varchar(20)
        !date_of_birth date""",
    ),
    _table(
        "favourite_products",
        """user_id bigint
        product_id bigint""",
        key=("user_id", "product_id"),
    ),
    _table(
        "prescriptions",
        """id bigint
        user_id bigint
        practitioner_id bigint
        issued_at datetime(3)
        valid_until date
        voided_at datetime(3) null""",
    ),
    _table(
        "prescription_items",
        """id bigint
        prescription_id bigint
        product_id bigint
        quantity int
        repeats int
        dosage_instructions varchar(200)
        removed_at datetime(3) null""",
    ),
    _table(
        "orders",
        """id bigint
        user_id bigint
        practitioner_id bigint
        clinic_id bigint
        transaction_id varchar(60) null
        date datetime(3)
        amount_total decimal(12,2)
        amount_subtotal decimal(12,2)
        amount_tax decimal(12,2)
        amount_shipping decimal(12,2)
        amount_refunded decimal(12,2)
        shipping_method_id bigint
        voucher_code varchar(40) null
        cancelled_at datetime(3) null""",
    ),
    _table(
        "order_items",
        """id bigint
        order_id bigint
        product_id bigint
        prescription_item_id bigint null
        quantity int
        unit_price decimal(12,2)
        tax decimal(12,2)
        refunded_quantity int
        refunded_amount decimal(12,2)""",
    ),
)

TABLES: dict[str, Table] = {table.name: table for table in _ALL}
"""Every source table by name, those that others refer to first."""


def mysql_ddl() -> list[str]:
    """Return one CREATE TABLE statement per table, for MySQL 8 and MariaDB."""
    return [_create(table, "`", "\n) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4") for table in _ALL]


def sqlite_ddl() -> list[str]:
    """Return one CREATE TABLE statement per table, for the simulated shop's SQLite.

    Column types stay MySQL's; SQLite only reads an affinity from them. Decimals
    and times are kept as text (see `store`), so their columns are TEXT.
    """
    return [_create(table, '"', "\n) WITHOUT ROWID", sqlite=True) for table in _ALL]


def _create(table: Table, quote: str, tail: str, *, sqlite: bool = False) -> str:
    lines = []
    for column in table.columns:
        kind = _sqlite_type(column) if sqlite else column.type
        null = "NULL" if column.nullable else "NOT NULL"
        lines.append(f"  {quote}{column.name}{quote} {kind} {null}")
    key = ", ".join(f"{quote}{name}{quote}" for name in table.key)
    lines.append(f"  PRIMARY KEY ({key})")
    return f"CREATE TABLE {quote}{table.name}{quote} (\n" + ",\n".join(lines) + tail


def _sqlite_type(column: Column) -> str:
    if column.is_integer:
        return "INTEGER"
    return "REAL" if column.base_type == "double" else "TEXT"
