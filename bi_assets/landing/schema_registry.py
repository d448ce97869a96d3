"""The schema registry: what writer schema an Avro message's id stands for.

A schema never changes, so each is asked for once in a process's life. A registry that does not answer
is not the message's fault: whoever asks is told to wait. One that answers that it knows no such
schema is: nobody will ever read that message.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from functools import cache
from typing import Any

from bi_assets.errors import UserError
from bi_assets.settings import Settings, read_properties

_ANSWER_SECONDS = 5.0
_ASK_AGAIN_SECONDS = 60.0
_NO_SUCH_SCHEMA = 40403
_OPTIONS = (
    "basic.auth.user.info",
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.key.password",
)
"""What the file SCHEMA_REGISTRY_CONFIG may hold, named as Confluent's clients name it."""

Schema = Any
"""An Avro schema, as `json` reads it."""


class UnknownSchemaError(Exception):
    """No message with this schema id can be read; the text says why."""


class RegistryAwayError(UserError):
    """The registry does not answer, or not as a registry: what waits for it waits in Kafka."""


class SchemaRegistry:
    """A registry that speaks Confluent's REST interface. Not thread-safe."""

    def __init__(self, settings: Settings) -> None:
        """Errors: `UserError` where SCHEMA_REGISTRY_CONFIG can't be used."""
        self._url = settings.schema_registry_url
        self._schemas: dict[int, Schema] = {}
        self._unknown: dict[int, tuple[float, str]] = {}
        options: dict[str, str] = {}
        if settings.schema_registry_config:
            options = read_properties(settings.schema_registry_config, "SCHEMA_REGISTRY_CONFIG")
        if unknown := options.keys() - set(_OPTIONS):
            raise UserError(
                f"{settings.schema_registry_config}: {', '.join(sorted(unknown))} is none of "
                f"{', '.join(_OPTIONS)}."
            )
        self._headers = {"Accept": "application/vnd.schemaregistry.v1+json, application/json"}
        if user := options.get("basic.auth.user.info"):
            self._headers["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=_tls(settings, options))
        )

    def schema(self, number: int) -> Schema:
        """Return the schema of an id.

        Errors: `UnknownSchemaError` where there will never be one, `RegistryAwayError` where the
        registry does not say.
        """
        if number in self._schemas:
            return self._schemas[number]
        asked_at, why = self._unknown.get(number, (0.0, ""))
        if not why or time.monotonic() - asked_at > _ASK_AGAIN_SECONDS:
            try:
                self._schemas[number] = self._ask(number)
            except UnknownSchemaError as error:
                self._unknown[number] = time.monotonic(), str(error)
                raise
            return self._schemas[number]
        raise UnknownSchemaError(why)

    def check(self) -> None:
        """Errors: `RegistryAwayError` where the registry does not answer."""
        if self._url:
            self._get("/subjects")

    def _ask(self, number: int) -> Schema:
        if not self._url:
            raise UnknownSchemaError(
                f"Avro with schema id {number}, and no schema registry is named; set SCHEMA_REGISTRY_URL"
            )
        try:
            answer = self._get(f"/schemas/ids/{number}")
        except urllib.error.HTTPError as error:
            raise UnknownSchemaError(
                f"the schema registry knows no schema {number}: it was deleted, or another registry wrote it"
            ) from error
        if not isinstance(answer, dict):
            raise self._away("sent no schema")
        kind = answer.get("schemaType", "AVRO")
        if kind != "AVRO":
            raise UnknownSchemaError(f"schema {number} is {kind}; only Avro and JSON are read")
        if answer.get("references"):
            raise UnknownSchemaError(f"schema {number} refers to other subjects, which is not supported")
        try:
            return json.loads(answer["schema"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._away("sent no schema") from error

    def _get(self, path: str) -> Any:
        """Return the answer; `HTTPError` is "no such schema", everything else that it is away."""
        request = urllib.request.Request(f"{self._url}{path}", headers=self._headers)
        try:
            with self._opener.open(request, timeout=_ANSWER_SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 404 and _error_code(error) == _NO_SUCH_SCHEMA:
                raise
            raise self._away(f"answers {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            raise self._away(f"does not answer: {getattr(error, 'reason', None) or error}") from error
        except ValueError as error:
            raise self._away("answers something that is not JSON") from error

    def _away(self, what: str) -> RegistryAwayError:
        return RegistryAwayError(
            f"The schema registry at {self._url} {what}. Avro messages wait in Kafka until it says what "
            "they are; nothing is lost. Start it, or correct SCHEMA_REGISTRY_URL (with its path: Apicurio's "
            "is /apis/ccompat/v7) or SCHEMA_REGISTRY_CONFIG."
        )


@cache
def registry(settings: Settings) -> SchemaRegistry:
    """Return the registry of these settings, with what it has told this process so far."""
    return SchemaRegistry(settings)


def _error_code(error: urllib.error.HTTPError) -> object:
    """Return the registry's own code: a web server that is none answers 404 as well."""
    try:
        told = json.loads(error.read())
    except (OSError, ValueError):
        return None
    return told.get("error_code") if isinstance(told, dict) else None


def _tls(settings: Settings, options: dict[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.get("ssl.ca.location"))
        if certificate := options.get("ssl.certificate.location"):
            context.load_cert_chain(
                certificate, options.get("ssl.key.location"), options.get("ssl.key.password")
            )
    except (OSError, ssl.SSLError) as error:
        raise UserError(
            f"{settings.schema_registry_config}: the certificates can't be used: {error}."
        ) from error
    return context
