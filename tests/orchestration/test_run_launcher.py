"""How runs are launched: real processes, a real instance."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._core.launcher import WorkerStatus
from dagster._core.storage.dagster_run import DagsterRunStatus

from tests.orchestration.launching import CODE, OTHER, Launching, launching, until

pytestmark = pytest.mark.xdist_group("run_launcher")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launching]:
    """Return two code locations; starting what serves them takes seconds."""
    with launching(tmp_path_factory.mktemp("launching")) as served:
        served.launcher.warm_up()
        yield served


@pytest.fixture
def warm(served: Launching) -> Launching:
    """Return the locations with a warm process that is ready."""
    served.wait_until_warm()
    return served


def test_a_run_is_forked_from_a_process_that_has_imported_its_code(warm: Launching) -> None:
    told = warm.told(warm.launch("telling"))
    assert told["process"] != told["imported_by"] == told["parent"]


def test_what_a_run_and_its_children_print_is_kept(warm: Launching) -> None:
    run_id = warm.launch("telling")
    warm.told(run_id)
    (captured,) = warm.instance.all_logs(run_id, of_type=dg.DagsterEventType.LOGS_CAPTURED)
    event = captured.get_dagster_event()
    key = [run_id, "compute_logs", event.logs_captured_data.file_key]
    logs = warm.instance.compute_log_manager.get_log_data(key)
    assert (logs.stdout or b"").decode().split("\n")[:2] == ["to standard output", "from a child"]
    assert b"to standard error" in (logs.stderr or b"")
    assert warm.instance.compute_log_manager.is_capture_complete(key)


def test_the_events_of_a_run_can_be_watched_from_another_process(warm: Launching) -> None:
    run_id = warm.launch("staying")
    seen: list[str | None] = []
    warm.instance.watch_event_logs(
        run_id, None, lambda entry, _: seen.append(entry.get_dagster_event().event_type_value)
    )
    warm.process(run_id)
    warm.launcher.terminate(run_id)
    until(lambda: dg.DagsterEventType.RUN_CANCELED in seen, "event of the end")


def test_a_run_that_is_terminated_tidies_up_and_is_canceled(warm: Launching) -> None:
    run_id = warm.launch("staying")
    warm.process(run_id)
    assert warm.launcher.terminate(run_id)
    assert warm.end(run_id, seconds=2) == DagsterRunStatus.CANCELED
    assert warm.has_tidied(run_id)


def test_a_run_can_be_terminated_by_another_process_than_launched_it(warm: Launching) -> None:
    run_id = warm.launch("staying")
    warm.process(run_id)
    with dg.DagsterInstance.from_ref(warm.instance.get_ref()) as elsewhere:
        assert elsewhere.run_launcher.terminate(run_id)
    assert warm.end(run_id, seconds=2) == DagsterRunStatus.CANCELED


def test_a_run_that_has_ended_is_not_terminated(warm: Launching) -> None:
    run_id = warm.launch("telling")
    warm.told(run_id)
    assert not warm.launcher.terminate(run_id)


def test_a_run_that_is_killed_is_marked_as_failed_and_says_why(warm: Launching) -> None:
    run_id = warm.launch("staying")
    os.kill(warm.process(run_id), signal.SIGKILL)
    assert warm.end(run_id, seconds=2) == DagsterRunStatus.FAILURE
    assert "was terminated by signal 9 (SIGKILL)" in warm.messages(run_id)


def test_run_monitoring_learns_whether_a_run_lives(warm: Launching) -> None:
    run_id = warm.launch("staying")
    process = warm.process(run_id)
    run = warm.instance.get_run_by_id(run_id)
    assert run and warm.launcher.supports_check_run_worker_health
    assert warm.launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    os.kill(process, signal.SIGKILL)
    warm.end(run_id)


def test_a_run_outlives_the_warm_process_and_the_next_one_is_forked_from_another(warm: Launching) -> None:
    killed = warm.told(warm.launch("telling"))["parent"]
    run_id = warm.launch("staying")
    warm.process(run_id)
    os.kill(killed, signal.SIGKILL)
    at_once = warm.launch("telling")
    assert warm.told(at_once)["imported_by"] != killed
    warm.wait_until_warm()
    told = warm.told(warm.launch("telling"))
    assert told["parent"] == told["imported_by"] != killed
    assert warm.status(run_id) == DagsterRunStatus.STARTED
    warm.launcher.terminate(run_id)
    assert warm.end(run_id) == DagsterRunStatus.CANCELED


def test_a_run_that_dies_after_the_warm_process_is_marked_as_failed(warm: Launching) -> None:
    warm_process = warm.told(warm.launch("telling"))["parent"]
    run_id = warm.launch("staying")
    run_process = warm.process(run_id)
    os.kill(warm_process, signal.SIGKILL)
    os.kill(run_process, signal.SIGKILL)
    assert warm.end(run_id) == DagsterRunStatus.FAILURE
    assert "is gone" in warm.messages(run_id)


def test_the_next_run_has_the_code_that_was_written_before_it(warm: Launching) -> None:
    warm.write_code(CODE.replace("ANSWER = os.getpid(), 1", "ANSWER = os.getpid(), 2"))
    assert warm.told(warm.launch("telling"))["answer"] == 2
    warm.wait_until_warm()
    told = warm.told(warm.launch("telling"))
    assert told["answer"] == 2
    assert told["imported_by"] == told["parent"]


def test_code_that_can_not_be_loaded_fails_the_run_with_the_reason_until_it_is_mended(
    warm: Launching,
) -> None:
    warm.write_code(CODE.replace("import time", "import nothing_of_that_name"))
    run_id = warm.launch("telling")
    assert warm.end(run_id) == DagsterRunStatus.FAILURE
    assert "nothing_of_that_name" in warm.messages(run_id)
    warm.write_code(CODE)
    assert warm.told(warm.launch("telling"))["answer"] == 1


def test_runs_of_another_location_are_launched_as_ever_with_one_warning(
    warm: Launching, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        told = warm.told(warm.launch("telling", OTHER))
        assert told["imported_by"] == told["process"]
    warnings = [record.getMessage() for record in caplog.records if record.name == "bi_assets.run_launcher"]
    assert len([text for text in warnings if "only runs of the module" in text]) == 1


def test_nothing_is_left_when_the_host_is_gone(warm: Launching) -> None:
    warm_process = warm.told(warm.launch("telling"))["parent"]
    run_id = warm.launch("staying")
    run_process = warm.process(run_id)
    warm.launcher.dispose()
    for process in (warm_process, run_process):
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
    assert warm.status(run_id) == DagsterRunStatus.CANCELED
