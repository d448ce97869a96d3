"""The warm process: imports the platform, then forks a run whenever a launcher asks for one.

It has one thread and no open connection, so that a fork is safe. It ends when the process that
started it is gone, and starts itself anew, in the same process, when the code has changed.

Started as `python -m bi_assets.warm.server TASK`, with a pipe on standard input that nobody writes
to and whose other end is the host's.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from bi_assets.warm.run_mark import RunMark
from bi_assets.warm.watched_files import fingerprint

if TYPE_CHECKING:
    from dagster import DagsterInstance

log = logging.getLogger("bi_assets.run_launcher")

_LOOK_SECONDS = 1.0
_END_SECONDS = 10.0
_HOST = 0  # standard input


@dataclass(frozen=True)
class Task:
    """What a warm process is for: an instance, a folder, a module with definitions, packages to watch."""

    instance: str
    folder: str
    module: str
    packages: tuple[str, ...]

    def to_json(self) -> str:
        """Return the argument of the process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Task:
        """Return the task that an argument tells."""
        values = json.loads(text)
        return cls(**{**values, "packages": tuple(values["packages"])})


@contextmanager
def address(folder: Path) -> Iterator[str]:
    """Yield the address of the socket in a folder. Errors: `OSError` where there is no such folder."""
    name = "server.socket"
    opened = os.open(folder, os.O_RDONLY)
    try:
        # The path of a socket has room for some hundred bytes only.
        yield f"/proc/self/fd/{opened}/{name}" if sys.platform == "linux" else str(folder / name)
    finally:
        os.close(opened)


class Server:
    """Listens, forks, and looks after what it has forked."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._folder = Path(task.folder)
        self._files = fingerprint(task.packages)
        self._code_server: str | None = None
        self._fault: str | None = None
        self._exit_codes: dict[int, int] = {}

    def serve(self) -> None:
        """Serve until the host is gone and the runs have ended."""
        self._warm_up()
        self._report_deaths()
        listener, woken, waker = self._listen(), *socket.socketpair()
        waker.setblocking(False)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        with selectors.DefaultSelector() as selector:
            for source in (listener, woken, _HOST):
                selector.register(source, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select(_LOOK_SECONDS)}
                if _HOST in ready:
                    break
                if woken in ready:
                    woken.recv(1024)
                if listener in ready:
                    self._answer(listener)
                self._report_deaths()
                if self._has_changed():
                    self._start_anew()
        listener.close()
        self._wait_for_runs()

    @cached_property
    def _instance(self) -> DagsterInstance:
        from bi_assets.warm import run

        return run.instance_of(self._task.instance)

    def _warm_up(self) -> None:
        """Import and build all that a run needs; where that fails, keep the reason."""
        from bi_assets.warm import run

        gc.disable()
        try:
            run.warm_up(self._instance, self._task.module)
        except Exception as error:
            self._fault = f"{self._task.module} can't be loaded: {type(error).__name__}: {error}"
        threads = [thread.name for thread in threading.enumerate()[1:]]
        if threads:
            self._fault = f"{self._task.module} starts threads when it is loaded: {', '.join(threads)}"
        gc.collect()
        gc.freeze()

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        with address(self._folder) as where:
            Path(where).unlink(missing_ok=True)
            listener.bind(where)
            Path(where).chmod(0o600)
        listener.listen()
        return listener

    def _answer(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rw") as stream:
            asked = json.loads(stream.readline() or "{}")
            if not asked:
                return
            self._code_server = self._code_server or asked["code_server"]
            changed = asked["code_server"] != self._code_server or self._has_changed()
            if changed:
                answer: dict[str, Any] = {}  # ask the one that comes next
            elif self._fault:
                answer = {"fault": self._fault}
            else:
                answer = {"process": self._fork(asked["run"], asked["run_id"])}
            stream.write(json.dumps(answer) + "\n")
        if changed:
            self._start_anew()

    def _fork(self, run: str, run_id: str) -> int:
        mark = RunMark.of(self._folder, run_id)
        lock = mark.set()
        process = os.fork()
        if process == 0:
            self._run(run, mark)
        os.write(lock, str(process).encode())
        os.close(lock)
        return process

    def _run(self, serialized: str, mark: RunMark) -> NoReturn:
        """Be the forked process."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            gc.enable()
            from dagster._core.storage.dagster_run import DagsterRun
            from dagster._serdes import deserialize_value

            from bi_assets.warm import run

            run.execute(self._instance, deserialize_value(serialized, DagsterRun), _HOST)
            mark.remove()
            code = 0
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)

    def _report_deaths(self) -> None:
        """Report the runs that ended without saying so."""
        from bi_assets.warm import run

        while ended := _ended_child():
            self._exit_codes.update([ended])
        for mark in RunMark.left_in(self._folder):
            if mark.is_alive():
                continue
            exit_code = self._exit_codes.get(mark.process() or 0)
            try:
                run.report_death(self._instance, mark.run_id, exit_code)
            except Exception:
                log.exception("The death of run %s could not be reported", mark.run_id)
            mark.remove()
        self._exit_codes.clear()

    def _has_changed(self) -> bool:
        return fingerprint(self._task.packages) != self._files

    def _start_anew(self) -> NoReturn:
        """Become a fresh process with the same id, host and children."""
        os.execv(sys.executable, sys.orig_argv)

    def _wait_for_runs(self) -> None:
        """Wait for the runs, which end with the host; kill those that don't."""
        deadline = time.monotonic() + _END_SECONDS
        while any(mark.is_alive() for mark in RunMark.left_in(self._folder)):
            time.sleep(0.02)
            if time.monotonic() > deadline:
                for mark in RunMark.left_in(self._folder):
                    if process := mark.process():
                        os.kill(process, signal.SIGKILL)
        self._report_deaths()
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)  # for those that have ended and are not quite gone


def _ended_child() -> tuple[int, int] | None:
    """Return the id and exit code of a child that has ended, if there is one."""
    try:
        process, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (process, os.waitstatus_to_exitcode(status)) if process else None


def main() -> None:
    """Serve. Ctrl-C in the terminal is for the host and the runs; we end with the host."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Server(Task.from_json(sys.argv[1])).serve()
    os._exit(0)  # the extension modules that were imported only to be forked have much to tidy up


if __name__ == "__main__":
    main()
