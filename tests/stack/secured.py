"""A broker that asks for a login: TLS, SASL PLAIN, SCRAM and OAUTHBEARER, and client certificates."""

import base64
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._scram import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from stack.broker import Broker
from stack.process import LOCALHOST, free_ports

USER = "pharmacy-bi"
PASSWORD = "correct-horse-battery-staple"
_LOGIN = "org.apache.kafka.common.security"


class Certificates:
    """A certificate authority in a folder, with certificates for the broker and for a client.

    `stranger` is another authority, that nobody here trusts. All files are PEM.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.authority = self._authority("authority")
        self.stranger = self._authority("stranger")
        self.broker = self._issue("broker", f"subjectAltName=IP:{LOCALHOST}")
        self.client = self._issue("client", "extendedKeyUsage=clientAuth")

    def key(self, certificate: Path) -> Path:
        """Return the key of a certificate."""
        return certificate.with_suffix(".key")

    def store(self) -> Path:
        """Return the broker's key and certificate in one file, as Kafka's PEM key store wants them."""
        both = self.folder / "broker-store.pem"
        both.write_text(self.key(self.broker).read_text() + self.broker.read_text())
        return both

    def _authority(self, name: str) -> Path:
        certificate = self.folder / f"{name}.pem"
        self._openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
                      "-keyout", self.key(certificate), "-out", certificate)  # fmt: skip
        return certificate

    def _issue(self, name: str, extension: str) -> Path:
        certificate = self.folder / f"{name}.pem"
        request, extensions = certificate.with_suffix(".csr"), certificate.with_suffix(".ext")
        extensions.write_text(extension + "\n")
        self._openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
                      "-keyout", self.key(certificate), "-out", request)  # fmt: skip
        self._openssl("x509", "-req", "-days", "2", "-in", request, "-extfile", extensions,
                      "-CA", self.authority, "-CAkey", self.key(self.authority), "-CAcreateserial",
                      "-out", certificate)  # fmt: skip
        return certificate

    def _openssl(self, *arguments: str | Path) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)


class SecuredBroker(Broker):
    """Listens without login for the test itself, and with one for the platform."""

    def __init__(self, folder: Path) -> None:
        self.certificates = Certificates(folder / "certificates")
        login, client_certificate = free_ports(2)
        self.sasl_ssl = f"{LOCALHOST}:{login}"
        """TLS and a login by PLAIN, SCRAM or OAUTHBEARER."""
        self.mtls = f"{LOCALHOST}:{client_certificate}"
        """TLS and a client certificate."""
        sasl = "listener.name.sasl_ssl"
        super().__init__(
            folder,
            {
                "listeners": f"SASL_SSL://{self.sasl_ssl},SSL://{self.mtls}",
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(self.certificates.store()),
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(self.certificates.authority),
                "listener.name.ssl.ssl.client.auth": "required",
                # Everyone may do everything, but where a topic has rules of its own.
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "allow.everyone.if.no.acl.found": "true",
                "super.users": "User:ANONYMOUS",
                f"{sasl}.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512,OAUTHBEARER",
                f"{sasl}.plain.sasl.jaas.config": (
                    f'{_LOGIN}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
                ),
                f"{sasl}.scram-sha-512.sasl.jaas.config": f"{_LOGIN}.scram.ScramLoginModule required;",
                f"{sasl}.oauthbearer.sasl.jaas.config": (
                    f"{_LOGIN}.oauthbearer.OAuthBearerLoginModule required "
                    'unsecuredLoginStringClaim_sub="broker";'
                ),
            },
        )

    def start(self, *, port: int | None = None) -> None:
        """Start it; the SCRAM user is made when it is there for the first time."""
        super().start(port=port)
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers})
        login = UserScramCredentialUpsertion(
            USER, ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), PASSWORD.encode()
        )
        for future in admin.alter_user_scram_credentials([login]).values():
            future.result()


@contextmanager
def token_server(secret: str) -> Iterator[str]:
    """Run an OpenID Connect token endpoint that knows one client, `USER`; yields its address.

    Its tokens are unsigned (`alg: none`), as the broker's unsecured validator takes them.
    """
    wanted = "Basic " + base64.b64encode(f"{USER}:{secret}".encode()).decode()

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            known = self.headers.get("Authorization") == wanted
            told = {"access_token": _token()} if known else {"error": "invalid_client"}
            body = json.dumps({**told, "token_type": "Bearer", "expires_in": 600}).encode()
            self.send_response(200 if known else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with HTTPServer((LOCALHOST, 0), Endpoint) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://{LOCALHOST}:{server.server_port}/token"
        finally:
            server.shutdown()
            thread.join()


def _token() -> str:
    now = int(time.time())
    claims = {"sub": USER, "iat": now, "exp": now + 600}
    return ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
        for part in ({"alg": "none"}, claims)
    ) + "."  # fmt: skip
