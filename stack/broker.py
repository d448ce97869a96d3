"""A broker of its own, without database and connector; it can be stopped, moved and restarted."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from stack import kafka
from stack.fetch import fetch
from stack.process import LOCALHOST, Server, free_ports


class Broker:
    """Kafka, running from `with` to its end; what it holds is in `folder` and outlives a restart."""

    def __init__(self, folder: Path, properties: Mapping[str, str] | None = None) -> None:
        """Take ports; start nothing. `properties` are the broker's, beside those of `stack.kafka`."""
        self.folder = folder.resolve()
        self._properties = dict(properties or {})
        self._port, self._controller_port = free_ports(2)
        self._server: Server | None = None

    @property
    def bootstrap_servers(self) -> str:
        """Its address, without login."""
        return f"{LOCALHOST}:{self._port}"

    def __enter__(self) -> Self:
        """Start it and wait until it answers. Raises StackError with the end of its log if it does not."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop it."""
        self.stop(kill=True)

    def start(self, *, port: int | None = None) -> None:
        """Start it, on another `port` if one is given; returns once it answers."""
        self._port = port or self._port
        self._server = kafka.kafka_server(
            fetch(tools=["java"]), self.folder, self._port, self._controller_port, more=self._properties
        )
        try:
            self._server.start()
            self._server.wait_ready()
        except BaseException:
            self.stop(kill=True)
            raise

    def stop(self, *, kill: bool = False) -> None:
        """Stop it, with `kill` by SIGKILL; its clients see it go away."""
        if self._server:
            self._server.stop(kill=kill)
            self._server = None
