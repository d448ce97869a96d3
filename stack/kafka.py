"""One Kafka broker in KRaft mode."""

import logging
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from stack.errors import StackError
from stack.fetch import Fetched, find_tool
from stack.process import LOCALHOST, Server, is_listening

# Any id will do, but it must outlive restarts: formatted storage belongs to it.
CLUSTER_ID = "pharmacy-bi-stack-0001"
PARTITIONS = 4
# Quick starts count here more than the last tenth of throughput.
JVM_OPTIONS = ["-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
LISTENER_PROTOCOLS = {
    "CONTROLLER": "PLAINTEXT",
    "PLAINTEXT": "PLAINTEXT",
    "SSL": "SSL",
    "SASL_SSL": "SASL_SSL",
}
LOG4J = Path(__file__).with_name("log4j2.properties")


def java(
    fetched: Fetched, main_class: str, *arguments: str, jvm_options: Sequence[str] = JVM_OPTIONS
) -> list[str]:
    """Return the command line that runs a class of Kafka's jars."""
    return [
        find_tool("java"),
        *jvm_options,
        f"-Dlog4j2.configurationFile={LOG4J.as_uri()}",
        "-cp",
        f"{fetched.kafka}/*",
        main_class,
        *arguments,
    ]


def kafka_server(
    fetched: Fetched,
    folder: Path,
    port: int,
    controller_port: int,
    *,
    jvm_options: Sequence[str] = JVM_OPTIONS,
    more: Mapping[str, str] | None = None,
) -> Server:
    """Return a broker on `port` with its log in `folder`, formatted if it is not there.

    Topics are made on first use, with 4 partitions. `more` are properties to add; further listeners
    among them (`listeners`) come beside the plain one on `port`. Raises StackError if formatting fails.
    """
    data = folder / "kafka"
    properties = folder / "kafka.properties"
    added = dict(more or {})
    listeners = [
        f"PLAINTEXT://{LOCALHOST}:{port}",
        f"CONTROLLER://{LOCALHOST}:{controller_port}",
        *filter(None, [added.pop("listeners", "")]),
    ]
    settings = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "listeners": ",".join(listeners),
        "controller.listener.names": "CONTROLLER",
        # Needed beside listeners with TLS; elsewhere it is the default.
        "listener.security.protocol.map": ",".join(
            f"{name}:{protocol}" for name, protocol in LISTENER_PROTOCOLS.items()
        ),
        "controller.quorum.voters": f"1@{LOCALHOST}:{controller_port}",
        "log.dirs": str(data),
        "num.partitions": str(PARTITIONS),
        "auto.create.topics.enable": "true",
        # One node: its internal topics have one replica; one partition starts faster.
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        **added,
    }
    properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    if not data.exists():
        storage = java(fetched, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID)
        formatted = subprocess.run(
            [*storage, "-c", str(properties)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if formatted.returncode != 0:
            raise StackError(f"Kafka's storage could not be formatted:\n{formatted.stdout[-4000:]}")

    def is_ready() -> bool:
        # The client retries noisily where nobody listens, so look first.
        if not is_listening(port):
            return False
        quiet = logging.getLogger("stack.kafka")
        quiet.setLevel(logging.CRITICAL)
        admin = AdminClient({"bootstrap.servers": f"{LOCALHOST}:{port}"}, logger=quiet)
        try:
            return len(admin.list_topics(timeout=2).brokers) == 1
        except KafkaException:
            return False

    command = java(fetched, "kafka.Kafka", str(properties), jvm_options=jvm_options)
    return Server("kafka", command, folder=folder, is_ready=is_ready)
