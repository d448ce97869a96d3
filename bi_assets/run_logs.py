"""What runs print, in files for the UI, and on the terminal as well.

Dagster's own manager of these files starts four processes for each run to show them on the
terminal; here a thread does it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self

from dagster import DagsterInstance
from dagster._config.config_schema import UserConfigSchema
from dagster._core.execution.compute_logs import redirect_to_file
from dagster._core.storage.compute_log_manager import CapturedLogContext, ComputeIOType
from dagster._core.storage.local_compute_log_manager import IO_TYPE_EXTENSION, LocalComputeLogManager
from dagster._serdes import ConfigurableClassData
from dagster._utils import ensure_file, touch_file

_SHOW_EVERY_SECONDS = 0.2


class RunLogs(LocalComputeLogManager):
    """The files in the folder of the instance, wherever that is."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """Return the schema of the configuration in dagster.yaml: there is none."""
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        """Return the manager that dagster.yaml asks for."""
        return cls(inst_data)

    def register_instance(self, instance: DagsterInstance) -> None:
        """Take the folder of an instance."""
        super().__init__(instance.storage_directory(), inst_data=self._inst_data)
        super().register_instance(instance)

    @contextmanager
    def capture_logs(self, log_key: Sequence[str]) -> Generator[CapturedLogContext, None, None]:
        """Write standard output and error of this process to their files, and show them."""
        with (
            self._captured(sys.stdout, log_key, ComputeIOType.STDOUT),
            self._captured(sys.stderr, log_key, ComputeIOType.STDERR),
        ):
            yield CapturedLogContext(log_key)
        touch_file(self.get_captured_local_path(log_key, "complete"))

    @contextmanager
    def _captured(self, stream: IO[str], log_key: Sequence[str], kind: ComputeIOType) -> Iterator[None]:
        file = Path(self.get_captured_local_path(log_key, IO_TYPE_EXTENSION[kind]))
        ensure_file(str(file))
        with _shown(file, stream), redirect_to_file(stream, str(file)):
            yield


@contextmanager
def _shown(file: Path, stream: IO[str]) -> Iterator[None]:
    """Copy what is added to a file to where the stream has led until now."""
    terminal = os.dup(stream.fileno())
    ended = threading.Event()

    def show() -> None:
        with file.open("rb") as added, os.fdopen(terminal, "wb", buffering=0) as shown:
            added.seek(0, os.SEEK_END)
            last = False
            while not last:
                last = ended.wait(_SHOW_EVERY_SECONDS)
                shown.write(added.read())

    thread = threading.Thread(target=show, name="show-run-log", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
