"""The Kafka client: its settings, made here and nowhere else, and why it can't reach the broker."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._metadata import ClusterMetadata

from bi_assets.errors import UserError
from bi_assets.settings import CONSUMER_GROUP, Settings, read_properties

log = logging.getLogger(__name__)

_LOOK_EVERY_SECONDS = 0.5

REFUSED = {
    "enable.auto.commit": "what has landed is known from the warehouse, not from the consumer group",
    "enable.auto.offset.store": "what has landed is known from the warehouse, not from the consumer group",
    "auto.commit.interval.ms": "what has landed is known from the warehouse, not from the consumer group",
    "auto.offset.reset": "offsets that the broker has dropped are reported as a loss, never skipped",
    "isolation.level": "changes of a transaction that was taken back never happened",
    "enable.partition.eof": "it is how the end of a partition is known",
    "group.id": f"the group is {CONSUMER_GROUP}, and only lag tools look at it",
    "group.instance.id": "partitions are assigned by the platform, not by the group",
    "group.protocol": "partitions are assigned by the platform, not by the group",
    "allow.auto.create.topics": "topics are the connector's to make",
    "test.mock.num.brokers": "it would read from an empty broker of its own",
}
"""Settings that KAFKA_CONFIG may not change, and why."""

_OURS: Mapping[str, str | int | bool] = {
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "group.id": CONSUMER_GROUP,
}
_LASTING = (KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.TOPIC_AUTHORIZATION_FAILED)
_SECRET = re.compile(r"password|secret|\.pem$|assertion|jaas|oauthbearer\.config")


class Refused(UserError):
    """Trying again does not help: a login, a certificate, a right or a limit has to be mended."""


class KafkaClient:
    """Makes consumers and admin clients of one cluster, and remembers what they complain of.

    Errors: `UserError` where KAFKA_CONFIG can't be used, or holds what would break the platform's
    promises. No error holds a secret of it.
    """

    def __init__(self, settings: Settings) -> None:
        self._file = settings.kafka_config
        given = read_properties(self._file) if self._file else {}
        self._secrets = [value for name, value in given.items() if value and _SECRET.search(name)]
        for name in given:
            if why := REFUSED.get(name):
                raise UserError(f"{self._named} may not set {name}: {why}. Take the line out.")
        self.address = given.setdefault("bootstrap.servers", settings.bootstrap_servers)
        """The brokers that are asked first."""
        default = Settings.bootstrap_servers
        if settings.bootstrap_servers not in (default, self.address):
            raise UserError(
                f"KAFKA_BOOTSTRAP_SERVERS is {settings.bootstrap_servers}, and {self._named} says "
                f"bootstrap.servers={self.address}: take one of the two out."
            )
        self._given = given
        self._complaint: KafkaError | None = None
        self._topic: str | None = None

    def consumer(self, **settings: str | int) -> Consumer:
        """Return a consumer that reads nothing by itself; `settings` have `_` for `.`."""
        wanted = {name.replace("_", "."): value for name, value in settings.items()}
        try:
            return Consumer({**wanted, **self._config, **_OURS}, logger=log)
        except KafkaException as error:
            raise self._unusable(error) from None

    def admin(self) -> AdminClient:
        """Return a client that asks the cluster about itself."""
        try:
            return AdminClient(self._config, logger=log)
        except KafkaException as error:
            raise self._unusable(error) from None

    def send(self, topic: str, key: bytes, value: bytes, timeout: float) -> None:
        """Send one message to a topic's first partition, and wait until it is there.

        Errors: `UserError` where Kafka does not take it, or does not answer for `timeout` seconds.
        """
        failed: list[KafkaError] = []
        try:
            producer = Producer({**self._config, "message.timeout.ms": int(timeout * 1000)}, logger=log)
        except KafkaException as error:
            raise self._unusable(error) from None
        producer.produce(
            topic, value, key, 0, on_delivery=lambda error, _: failed.append(error) if error else None
        )
        if producer.flush(2 * timeout) or failed:
            because = f" ({self._told(failed[0])})" if failed else ""
            raise UserError(
                f"Kafka at {self.address} does not take a message on {topic}{because}: give the login of "
                "KAFKA_CONFIG Write on it."
            )

    @property
    def _config(self) -> dict[str, Any]:
        return {
            "log_level": 2,
            "reconnect.backoff.max.ms": 1000,  # the default of 10 s is long for a broker that is back
            **self._given,
            "error_cb": self.complain,
        }

    @property
    def _named(self) -> str:
        return f"KAFKA_CONFIG={self._file}"

    def complain(self, error: KafkaError, topic: str | None = None) -> None:
        """Remember what is wrong; what has to be mended is not forgotten for what may pass."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN and self._complaint:
            return
        if not self._complaint or _is_lasting(error) or not _is_lasting(self._complaint):
            self._complaint, self._topic = error, topic

    def answered(self) -> None:
        """Forget that brokers were away; what has to be mended is not forgotten."""
        if self._complaint and not _is_lasting(self._complaint):
            self._complaint = None

    @property
    def hindrance(self) -> Refused | None:
        """What keeps messages from coming however long one waits, and what to do."""
        complaint = self._complaint
        if not complaint or not _is_lasting(complaint):
            return None
        cause = self._told(complaint)
        if complaint.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            return Refused(
                f"Kafka at {self.address} does not let this login read {self._topic or 'a topic'} ({cause}): "
                "give its user Read and Describe on the topics; it lands then."
            )
        if _is_too_large(complaint):
            return Refused(
                f"Kafka at {self.address} holds a message larger than the client takes ({cause}): set "
                "receive.message.max.bytes higher in KAFKA_CONFIG; it lands then, and what is behind it."
            )
        if not self._file:
            return Refused(
                f"Kafka at {self.address} asks for a login or a certificate ({cause}): set KAFKA_CONFIG "
                "to a file that has it; docs/kafka.md has examples."
            )
        return Refused(
            f"Kafka at {self.address} and {self._named} don't agree ({cause}): mend the login, the "
            "certificates or security.protocol in that file; docs/kafka.md has examples."
        )

    def reach(self, consumer: Consumer, timeout: float) -> ClusterMetadata:
        """Return what the cluster says of its topics; messages that come meanwhile are dropped.

        Errors: `UserError` with the cause: at once where a login or a certificate is refused, else
        after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        self._complaint = None
        while True:
            consumer.poll(0)  # also hands out a token, where one is needed
            try:
                metadata: ClusterMetadata = consumer.list_topics(timeout=_LOOK_EVERY_SECONDS)
            except KafkaException as error:
                consumer.poll(0)  # hands the reasons to `complain`
                if self.hindrance or time.monotonic() > deadline:
                    raise self.unreachable() from error
            else:
                self._complaint = None
                return metadata

    def unreachable(self) -> UserError:
        """Return the one sentence that says why there is no way to the broker, and what to do."""
        if hindrance := self.hindrance:
            return hindrance
        because = ""
        if self._complaint:
            because = f" ({self._told(self._complaint)})"
            if self._complaint.code() == KafkaError._ALL_BROKERS_DOWN:
                because = " (something hangs up at once there, as a broker does that wants TLS)"
        return UserError(
            f"No Kafka broker answers at {self.address}{because}. Start it, or set "
            "KAFKA_BOOTSTRAP_SERVERS (and KAFKA_CONFIG for a secured cluster)."
        )

    def _unusable(self, error: KafkaException) -> UserError:
        return UserError(f"{self._named} can't be used: {self._told(error.args[0])}.")

    def _told(self, error: KafkaError) -> str:
        """Return an error's cause without the client's own talk, and without secrets."""
        text = error.str()
        text = re.sub(r"^\S+://?\S*: |^\S+:\d+/\S+: ", "", text)
        text = re.sub(
            r"^Connect to \S+ failed: | \(after \d+ms in state \w+\)|Failed to create \w+: ", "", text
        )
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text.strip().rstrip(".")


def _is_lasting(error: KafkaError) -> bool:
    """Tell whether trying again would not help."""
    # A broker that misses a certificate says so in an alert, which the client takes for a lost connection.
    return error.code() in _LASTING or "SSL" in error.str() or _is_too_large(error)


def _is_too_large(error: KafkaError) -> bool:
    return error.code() == KafkaError._BAD_MSG and "receive.message.max.bytes" in error.str()
