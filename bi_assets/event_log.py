"""Dagster's log of events, of all runs in one SQLite file.

By default each run has a file of its own, of 135 kB, and preparing it takes a tenth of a second of
each run's start. An event is written with what SQLAlchemy has learned from writing the one before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from dagster import DagsterInstance
from dagster._config.config_schema import UserConfigSchema
from dagster._core.storage.event_log import ConsolidatedSqliteEventLogStorage
from dagster._core.storage.sql import create_engine
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._serdes import ConfigurableClassData
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import NullPool


class EventLog(ConsolidatedSqliteEventLogStorage):
    """The log in the folder of its instance, wherever that is."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """Return the schema of the configuration in dagster.yaml: there is none."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        """Return the log that dagster.yaml asks for."""
        return cls(inst_data)

    def register_instance(self, instance: DagsterInstance) -> None:
        """Open the log of an instance; make it where there is none."""
        if not self.has_instance:
            folder = Path(instance.root_directory) / "history"
            super().__init__(str(folder), self._inst_data)
            super().register_instance(instance)

    @cached_property
    def _engine(self) -> Engine:
        return create_engine(
            self._conn_string, poolclass=NullPool, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS}
        )

    @contextmanager
    def _connect(self) -> Iterator[Connection]:
        with self._engine.connect() as connection, connection.begin():
            yield connection
