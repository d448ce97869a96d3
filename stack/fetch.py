"""Brings what the servers are made of into `.stack/`, once per version of `pom.xml`."""

import hashlib
import shutil
import subprocess
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stack.errors import StackError

POM = Path(__file__).with_name("pom.xml")
HOME = POM.parent.parent / ".stack"
"""Where everything fetched lives: the project root's `.stack/`, ignored by git."""

AVRO_CONVERTER = "io.apicurio.registry.utils.converter.AvroConverter"

INSTALLED_BY_HAND = {
    "java": "a Java 17 runtime (Debian: openjdk-17-jre-headless)",
    "mvn": "Maven (Debian: maven)",
    "mariadbd": "a MariaDB server (Debian: mariadb-server)",
    "mariadb-install-db": "a MariaDB server (Debian: mariadb-server)",
}


@dataclass(frozen=True)
class Fetched:
    """Folders that `fetch` filled."""

    kafka: Path
    """Jars of the Kafka broker and of Connect, one flat class path."""
    plugins: Path
    """Connect's `plugin.path`: the Debezium connector and the Avro converter in folders of their own."""
    registry: Path
    """The schema registry's jar, with what it needs beside it."""


def fetch(home: Path = HOME, *, tools: Iterable[str] = tuple(INSTALLED_BY_HAND)) -> Fetched:
    """Fill `home` through Maven, unless done before, and return where things are.

    Raises StackError when one of the `tools` that the caller is going to run is missing, or Maven
    fails.
    """
    for tool in tools:
        find_tool(tool)
    fetched = Fetched(kafka=home / "kafka", plugins=home / "plugins", registry=home / "registry")
    run_maven_once(POM, [POM], home, "fetched", [f"-Dstack.home={home}", "prepare-package"])
    _announce(fetched.plugins / "avro-converter" / "services.jar", AVRO_CONVERTER)
    return fetched


def _announce(jar: Path, converter: str) -> None:
    """Write the manifest by which Connect finds a converter, and which Apicurio's jars lack."""
    with zipfile.ZipFile(jar, "w") as manifest:
        manifest.writestr("META-INF/services/org.apache.kafka.connect.storage.Converter", converter)


def run_maven_once(
    pom: Path, sources: Iterable[Path], home: Path, marker: str, arguments: Iterable[str]
) -> None:
    """Have Maven fill `home`, unless the file `marker` there tells that it has, of these sources.

    Raises StackError when Maven fails.
    """
    version = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    done = home / marker
    if done.exists() and done.read_text() == version:
        return

    # Jars of an older version beside the new ones would both be on the class path.
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    maven = subprocess.run(
        [find_tool("mvn"), "-B", "-q", "-f", pom, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if maven.returncode != 0:
        raise StackError(f"Maven failed on {pom}:\n{maven.stdout[-4000:]}")
    done.write_text(version)


def find_tool(name: str, package: str | None = None) -> str:
    """Return the path of a program, looked for where servers are installed, too.

    Raises StackError naming `package`, what to install.
    """
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        wanted = package or INSTALLED_BY_HAND[name]
        raise StackError(f"`{name}` is not on this machine: install {wanted}.")
    return path
