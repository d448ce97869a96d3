"""Kafka Connect, one worker in standalone mode, with the Debezium connector."""

import json
import string
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from stack.errors import StackError
from stack.fetch import Fetched
from stack.kafka import java
from stack.process import LOCALHOST, Server

CONNECTORS = Path(__file__).with_name("connectors")
CONNECTOR_NAME = "shop"

# The worker is on this machine: a proxy from the environment could not reach it.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def connector_config(database: str, **values: str) -> dict[str, str]:
    """Return `connectors/DATABASE.json` ("mariadb" or "mysql") with its ${PLACEHOLDERS} filled.

    Raises KeyError for a placeholder without a value.
    """
    template = (CONNECTORS / f"{database}.json").read_text()
    filled: dict[str, str] = json.loads(string.Template(template).substitute(values))
    return filled


def connect_server(
    fetched: Fetched, folder: Path, port: int, bootstrap_servers: str, connector_file: Path
) -> Server:
    """Return a Connect worker with its REST interface on `port`.

    A standalone worker forgets its connectors when it ends; those of `connector_file`, if it
    exists at the time of the start, come back with it. Source offsets are kept in
    `folder`/connect.offsets, written every 5 s: a killed worker sends what came after that again.
    """
    properties = folder / "connect.properties"
    json_converter = "org.apache.kafka.connect.json.JsonConverter"
    properties.write_text(
        "\n".join(
            [
                f"bootstrap.servers={bootstrap_servers}",
                f"listeners=http://{LOCALHOST}:{port}",
                f"key.converter={json_converter}",
                "key.converter.schemas.enable=false",
                f"value.converter={json_converter}",
                "value.converter.schemas.enable=false",
                f"offset.storage.file.filename={folder / 'connect.offsets'}",
                "offset.flush.interval.ms=5000",
                f"plugin.path={fetched.plugins}",
                # Reading the plugins' manifests is enough, and saves scanning every class.
                "plugin.discovery=service_load",
                "",
            ]
        )
    )
    command = java(
        fetched,
        "org.apache.kafka.connect.cli.ConnectStandalone",
        str(properties),
        *([str(connector_file)] if connector_file.exists() else []),
    )

    def is_ready() -> bool:
        try:
            request(f"http://{LOCALHOST}:{port}/connectors")
        except StackError:
            return False
        return True

    return Server("connect", command, folder=folder, is_ready=is_ready)


def request(url: str, *, method: str = "GET", body: object = None) -> Any:
    """Ask Connect's REST interface and return the decoded JSON answer.

    Raises StackError with what it said if the answer is an error or there is none.
    """
    asked = urllib.request.Request(
        url,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with _OPENER.open(asked, timeout=10) as answer:
            return json.loads(answer.read() or "null")
    except urllib.error.HTTPError as error:
        raise StackError(f"{method} {url}: {error.code} {error.read().decode()}") from error
    except OSError as error:
        raise StackError(f"{method} {url}: {error}") from error
