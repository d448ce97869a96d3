"""One server process: started into a log file, waited for by polling, always stopped."""

import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from stack.errors import StackError

LOCALHOST = "127.0.0.1"
START_SECONDS = 90
STOP_SECONDS = 30
POLL_SECONDS = 0.1
LOG_TAIL_LINES = 40


class Server:
    """A child process with a log file.

    `is_ready` is asked every tenth of a second after a start. The child gets a session of its own,
    so that Ctrl-C in a terminal reaches only us, and the servers stop in the right order.
    """

    def __init__(
        self, name: str, command: Sequence[str], *, folder: Path, is_ready: Callable[[], bool]
    ) -> None:
        """`folder` becomes the working directory and holds the log, NAME.log."""
        self.name = name
        self.command = list(command)
        self.folder = folder
        self.log = folder / f"{name}.log"
        self._is_ready = is_ready
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """True from `start` until the process ends, by whatever cause."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process and return at once; the log is appended to.

        Raises StackError if it runs already.
        """
        if self.is_running:
            raise StackError(f"{self.name} is running already.")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Return once the server answers.

        Raises StackError with the end of its log if it dies before, or takes too long.
        """
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            if not self.is_running:
                raise StackError(f"{self.name} did not start. {self.log_tail()}")
            if time.monotonic() > deadline:
                raise StackError(f"{self.name} is not ready after {START_SECONDS} s. {self.log_tail()}")
            time.sleep(POLL_SECONDS)

    def stop(self, *, kill: bool = False) -> None:
        """End the process and wait for it: SIGTERM, after half a minute (`kill`: at once) SIGKILL.

        Nothing happens if it does not run.
        """
        if self._process is None:
            return
        if self.is_running:
            self._process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        finally:
            self._process.kill()  # no effect on an ended one
            self._process.wait()
        self._process = None

    def log_tail(self) -> str:
        """Return the last lines of the log, and where the whole is."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join([f"The end of {self.log}:", *lines[-LOG_TAIL_LINES:]])


def free_ports(count: int) -> list[int]:
    """Return different loopback TCP ports that nobody listens on.

    They are taken below the range that the system gives to outgoing connections, so that none of
    these occupies one before its server does.
    """
    held: list[socket.socket] = []
    try:
        while len(held) < count:
            candidate = socket.socket()
            try:
                candidate.bind((LOCALHOST, random.randrange(20_000, 30_000)))
            except OSError:
                candidate.close()
            else:
                held.append(candidate)
        return [port.getsockname()[1] for port in held]
    finally:
        for port in held:
            port.close()


def is_listening(port: int) -> bool:
    """Say whether something accepts a TCP connection on this loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOCALHOST, port)) == 0
