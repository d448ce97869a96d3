"""The whole chain on loopback: MariaDB, Kafka, and Connect with the Debezium connector."""

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeVar

import pymysql  # type: ignore[import-untyped]

from shop.schema import mysql_ddl
from stack import connect, kafka, mariadb, registry
from stack.errors import StackError
from stack.fetch import Fetched, fetch
from stack.process import LOCALHOST, POLL_SECONDS, Server, free_ports

DELIVERY_SECONDS = 120

_Part = TypeVar("_Part")


class Stack:
    """MariaDB, Kafka and Connect, running from `with` to its end, however that comes.

    Data, configuration and logs are in `folder`; a second Stack on the same folder goes on with
    them, on other ports. The connector does not run before `start_connector`.
    """

    def __init__(self, folder: Path) -> None:
        """Take ports; start nothing. `folder` is made when entering."""
        self.folder = folder.resolve()
        ports = free_ports(5)
        self._mariadb_port, self._kafka_port, self._controller_port, self._connect_port = ports[:4]
        self._registry_port = ports[4]
        self.bootstrap_servers = f"{LOCALHOST}:{self._kafka_port}"
        """Kafka's address."""
        self.connect_url = f"http://{LOCALHOST}:{self._connect_port}"
        """Connect's REST interface."""
        self.mysql: dict[str, Any] = mariadb.connect_parameters(self._mariadb_port)
        """What pymysql.connect wants, to be the shop on its database."""
        self.registry_url = registry.confluent_url(self._registry_port)
        """The schema registry, once it has been started, as SCHEMA_REGISTRY_URL wants it."""
        self.avro = registry.avro_settings(self._registry_port)
        """What `start_connector` wants to have keys and values in Avro."""
        self._changes: Mapping[str, str] = {}
        self._connector_file = self.folder / "connector.json"
        self._fetched: Fetched | None = None
        self._mariadb: Server | None = None
        self._kafka: Server | None = None
        self._connect: Server | None = None
        self._registry: Server | None = None

    def __enter__(self) -> Self:
        """Fetch what is missing, start the three servers and wait until they answer.

        Raises StackError with the end of its log for a server that does not start; those that do
        are stopped.
        """
        try:
            self._fetched = fetch()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._mariadb = mariadb.mariadb_server(self.folder, self._mariadb_port)
            self._mariadb.start()
            self._kafka = kafka.kafka_server(
                self._fetched, self.folder, self._kafka_port, self._controller_port
            )
            self._kafka.start()
            self._kafka.wait_ready()
            self._mariadb.wait_ready()
            self.start_connect()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop everything."""
        self.stop()

    def stop(self) -> None:
        """Stop what runs, those that write to the others first."""
        # Each is stopped even if stopping another is interrupted.
        with ExitStack() as last_first:
            for server in (self._registry, self._mariadb, self._kafka, self._connect):
                if server is not None:
                    last_first.callback(server.stop)

    def create_shop_tables(self) -> None:
        """Create the shop's empty tables, unless there are any."""
        with pymysql.connect(**self.mysql) as database, database.cursor() as cursor:
            if cursor.execute("SHOW TABLES") == 0:
                for statement in mysql_ddl():
                    cursor.execute(statement)

    def start_registry(self) -> None:
        """Start the schema registry, and return once it answers; it knows what it knew before."""
        self._registry = registry.registry_server(_entered(self._fetched), self.folder, self._registry_port)
        self._registry.start()
        self._registry.wait_ready()

    def stop_registry(self) -> None:
        """Stop the schema registry."""
        _entered(self._registry).stop()

    def start_connector(self, changes: Mapping[str, str] = MappingProxyType({})) -> None:
        """Start the Debezium connector: first its snapshot of the shop, then every change.

        `changes` are settings that replace or join those of its configuration file; an empty one takes
        the setting out. A connector that runs already goes on with them. Returns once its task runs;
        see `wait_delivered`. The connector comes back with `start_connect`. Raises StackError if Connect
        refuses it or the task fails.
        """
        worker = _entered(self._connect)
        self._changes = changes
        config = self._write_connector()
        connect.request(f"{self._connector_url}/config", method="PUT", body=config)
        self._wait_connector(worker)

    def start_connect(self) -> None:
        """Start the Connect worker, and the connector if it has been started before.

        Returns once both run. Raises StackError with the end of the log, or with the task's error.
        """
        if self._connector_file.exists():
            # It may be from a run on other ports.
            self._write_connector()
        self._connect = connect.connect_server(
            _entered(self._fetched),
            self.folder,
            self._connect_port,
            self.bootstrap_servers,
            self._connector_file,
        )
        self._connect.start()
        self._connect.wait_ready()
        if self._connector_file.exists():
            self._wait_connector(self._connect)

    def stop_connect(self, *, kill: bool = False) -> None:
        """Stop the Connect worker; with `kill` by SIGKILL, so that it sends some changes again."""
        _entered(self._connect).stop(kill=kill)

    def wait_delivered(self) -> None:
        """Return once Kafka has every change that was committed in MariaDB before the call.

        The proof is the connector's own record: it stores a binlog position only after Kafka has
        confirmed all changes up to it. The record moves only as the binlog does, so a table that
        the connector does not capture is changed until it has passed the end. Takes up to 10 s.
        Raises StackError if the connector fails, or needs more than two minutes.
        """
        deadline = time.monotonic() + DELIVERY_SECONDS
        with (
            pymysql.connect(**self.mysql, autocommit=True) as database,
            database.cursor() as cursor,
        ):
            cursor.execute("SHOW MASTER STATUS")
            file, position, *_ = cursor.fetchone()
            wanted = (file, int(position))
            while (stored := self._stored_position()) is None or stored < wanted:
                if time.monotonic() > deadline:
                    raise StackError(
                        f"The connector is at {stored} after {DELIVERY_SECONDS} s, not at {wanted}."
                    )
                self._connector_parts()
                cursor.execute("UPDATE stack.nudge SET n = n + 1")
                time.sleep(5 * POLL_SECONDS)

    @property
    def _connector_url(self) -> str:
        return f"{self.connect_url}/connectors/{connect.CONNECTOR_NAME}"

    def _write_connector(self) -> dict[str, str]:
        """Write the file that brings the connector back, and return the configuration in it."""
        config = connect.connector_config(
            "mariadb",
            DATABASE_HOST=LOCALHOST,
            DATABASE_PORT=str(self._mariadb_port),
            DATABASE_USER=mariadb.DEBEZIUM_USER,
            DATABASE_PASSWORD=mariadb.DEBEZIUM_PASSWORD,
            DATABASE_SSL_MODE="disable",
            DATABASE_SERVER_ID="184054",
            CONNECT_BOOTSTRAP_SERVERS=self.bootstrap_servers,
        )
        config = {name: value for name, value in {**config, **self._changes}.items() if value}
        named = {"name": connect.CONNECTOR_NAME, "config": config}
        self._connector_file.write_text(json.dumps(named))
        return config

    def _stored_position(self) -> tuple[str, int] | None:
        """Binlog (file, position) that the connector has stored; None before its snapshot's end.

        Files of one server compare as text: their numbers have six digits.
        """
        offsets = connect.request(f"{self._connector_url}/offsets")["offsets"]
        if not offsets or "snapshot" in offsets[0]["offset"]:
            return None
        return offsets[0]["offset"]["file"], int(offsets[0]["offset"]["pos"])

    def _wait_connector(self, worker: Server) -> None:
        deadline = time.monotonic() + DELIVERY_SECONDS
        while [part["state"] for part in self._connector_parts()] != ["RUNNING", "RUNNING"]:
            # One that cannot start the connector of its command line ends after it has answered.
            if not worker.is_running:
                raise StackError(f"Connect ended. {worker.log_tail()}")
            if time.monotonic() > deadline:
                raise StackError(f"The connector does not run after {DELIVERY_SECONDS} s.")
            time.sleep(POLL_SECONDS)

    def _connector_parts(self) -> list[dict[str, Any]]:
        """Return the states of connector and task; none while the worker does not know them.

        Raises StackError with the cause if one has failed.
        """
        try:
            status = connect.request(f"{self._connector_url}/status")
        except StackError:
            return []
        parts = [status["connector"], *status["tasks"]]
        for part in parts:
            if part["state"] == "FAILED":
                raise StackError(f"The connector failed:\n{part['trace']}")
        return parts


def _entered(part: _Part | None) -> _Part:
    """Return what exists only inside `with`. Raises StackError outside."""
    if part is None:
        raise StackError("Enter the stack (`with Stack(...)`) before using parts of it.")
    return part
