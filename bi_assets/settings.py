"""Every setting of the platform: its default, its environment variable, its meaning.

Settings come from the environment; a `.env` file in the working directory fills in what the
environment leaves out, and `demo.env` in the data directory what that leaves out: it is how the
commands find the demo's broker and key.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from bi_assets.errors import UserError

DEMO_FILE = "demo.env"
CONSUMER_GROUP = "pharmacy-bi"
"""Offsets are committed to this group as a courtesy to lag tools; they are never read back."""


@dataclass(frozen=True)
class Settings:
    """What the platform was told; see `from_environment` for the variable of each field."""

    bootstrap_servers: str = "localhost:9092"
    kafka_config: Path | None = None
    schema_registry_url: str | None = None
    schema_registry_config: Path | None = None
    topic_prefix: str = "shop.shop"
    data_dir: Path = Path("data")
    source_timezone: str = "UTC"
    business_timezone: str = "UTC"
    first_date: date = date(2010, 1, 1)
    linger_seconds: float = 5.0
    pseudonym_key: str | None = None
    quarantine_key: str | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the settings.

        Errors: `UserError` naming the variable whose value cannot be used, and how to mend it.
        """
        given = dict(environ if environ is not None else {**read_env_file(), **os.environ})
        data_dir = Path(given.get("BI_DATA_DIR") or cls.data_dir)
        demo = read_env_file(data_dir / DEMO_FILE)
        broker = given.get("KAFKA_BOOTSTRAP_SERVERS") or demo.get("KAFKA_BOOTSTRAP_SERVERS")
        if demo and broker != demo.get("KAFKA_BOOTSTRAP_SERVERS"):
            raise UserError(
                f"{data_dir} holds the data of the simulated shop, and KAFKA_BOOTSTRAP_SERVERS={broker} is "
                "another one: name a directory of its own for it, such as BI_DATA_DIR=data-own."
            )
        given = {**demo, **given}
        values: dict[str, object] = {}
        for field in fields(cls):
            variable = VARIABLES[field.name]
            text = given.get(variable, "").strip()
            if not text:
                continue
            try:
                values[field.name] = _PARSERS.get(field.name, str)(text)
            except (ValueError, ZoneInfoNotFoundError) as error:
                raise UserError(f"{variable}={text!r} can't be used: {error}.") from error
        return cls(**values)  # type: ignore[arg-type]

    @property
    def core_file(self) -> Path:
        """The writer's database."""
        return self.data_dir / "core.duckdb"

    @property
    def publish_dir(self) -> Path:
        """What analysts and owners open."""
        return self.data_dir / "publish"

    @property
    def published_file(self) -> Path:
        """The analysts' database."""
        return self.publish_dir / "marts.duckdb"

    @property
    def dagster_home(self) -> Path:
        """What Dagster remembers: its `DAGSTER_HOME`."""
        return self.data_dir / "dagster"

    @property
    def connector(self) -> str:
        """The connector's `topic.prefix`: the first part of ours."""
        return self.topic_prefix.rsplit(".", 1)[0]

    @property
    def heartbeat_topic(self) -> str:
        """Debezium's heartbeat topic."""
        return "__debezium-heartbeat." + self.connector

    @property
    def transaction_topic(self) -> str:
        """Debezium's topic of transactions, where it is told to write one."""
        return self.connector + ".transaction"

    @property
    def signal_topic(self) -> str:
        """The topic on which the connector is asked for snapshots, unless another one is named."""
        return self.connector + ".signals"

    @property
    def notification_topic(self) -> str:
        """The topic on which the connector says how far these are, where it is told to."""
        return self.connector + ".notifications"

    def topic(self, table: str) -> str:
        """The topic that carries the changes of a source table."""
        return f"{self.topic_prefix}.{table}"


VARIABLES = {
    "bootstrap_servers": "KAFKA_BOOTSTRAP_SERVERS",
    "kafka_config": "KAFKA_CONFIG",
    "schema_registry_url": "SCHEMA_REGISTRY_URL",
    "schema_registry_config": "SCHEMA_REGISTRY_CONFIG",
    "topic_prefix": "BI_TOPIC_PREFIX",
    "data_dir": "BI_DATA_DIR",
    "source_timezone": "BI_SOURCE_TIMEZONE",
    "business_timezone": "BI_TIMEZONE",
    "first_date": "BI_FIRST_DATE",
    "linger_seconds": "BI_LINGER_SECONDS",
    "pseudonym_key": "BI_PSEUDONYM_KEY",
    "quarantine_key": "BI_QUARANTINE_KEY",
}


def _zone(name: str) -> str:
    try:
        return ZoneInfo(name).key
    except ValueError as error:
        raise ValueError("not an IANA time zone such as Europe/Berlin") from error
    except ZoneInfoNotFoundError as error:
        raise ValueError("no such IANA time zone; one is for example Europe/Berlin") from error


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError("not a URL such as http://localhost:8081")
    return text.rstrip("/")


_PARSERS: dict[str, Callable[[str], object]] = {
    "kafka_config": Path,
    "schema_registry_url": _url,
    "schema_registry_config": Path,
    "data_dir": Path,
    "source_timezone": _zone,
    "business_timezone": _zone,
    "first_date": date.fromisoformat,
    "linger_seconds": float,
}


def read_env_file(path: Path = Path(".env")) -> dict[str, str]:
    """Read `NAME=value` lines of a `.env` file; blank lines and # comments are skipped."""
    if not path.is_file():
        return {}
    pairs: dict[str, str] = {}
    for line in path.read_text().splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and not name.startswith("#"):
            pairs[name.strip()] = value.strip().strip("'\"")
    return pairs


def read_properties(path: Path, variable: str = "KAFKA_CONFIG") -> dict[str, str]:
    """Read the properties file that a variable names (`name=value` lines, # comments).

    Errors: `UserError` when the file is missing or a line is not of that form.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise UserError(f"{variable}={path} can't be read: {error.strerror}.") from error
    properties: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith(("#", "!")):
            continue
        name, equals, value = stripped.partition("=")
        if not equals:
            # What is there instead may be a password.
            raise UserError(f"KAFKA_CONFIG={path}, line {number}: expected name=value, found no =.")
        properties[name.strip()] = value.strip()
    return properties
