"""Apicurio's schema registry, which also speaks Confluent's REST interface."""

from pathlib import Path

from stack import connect
from stack.errors import StackError
from stack.fetch import AVRO_CONVERTER, Fetched, find_tool
from stack.kafka import JVM_OPTIONS
from stack.process import LOCALHOST, Server


def registry_server(fetched: Fetched, folder: Path, port: int) -> Server:
    """Return a registry on `port`, its schemas in `folder`."""
    (jar,) = fetched.registry.glob("apicurio-registry-app-*-runner.jar")
    command = [
        find_tool("java"),
        *JVM_OPTIONS,
        f"-Dquarkus.http.host={LOCALHOST}",
        f"-Dquarkus.http.port={port}",
        # In memory, as it comes, it would forget what ids stand for.
        f"-Dquarkus.datasource.jdbc.url=jdbc:h2:file:{folder / 'registry'}",
        "-jar",
        str(jar),
    ]

    def is_ready() -> bool:
        try:
            connect.request(f"{confluent_url(port)}/subjects")
        except StackError:
            return False
        return True

    return Server("registry", command, folder=folder, is_ready=is_ready)


def confluent_url(port: int) -> str:
    """Return the URL at which the registry is like Confluent's."""
    return f"http://{LOCALHOST}:{port}/apis/ccompat/v7"


def avro_settings(port: int) -> dict[str, str]:
    """Return what a connector's configuration needs for keys and values in Avro."""
    settings = {"schema.name.adjustment.mode": "avro", "field.name.adjustment.mode": "avro"}
    for part in ("key", "value"):
        settings |= {
            f"{part}.converter": AVRO_CONVERTER,
            f"{part}.converter.apicurio.registry.url": f"http://{LOCALHOST}:{port}/apis/registry/v2",
            f"{part}.converter.apicurio.registry.auto-register": "true",
            f"{part}.converter.apicurio.registry.find-latest": "true",
            f"{part}.converter.apicurio.registry.as-confluent": "true",
            f"{part}.converter.apicurio.registry.headers.enabled": "false",
        }
    return settings
