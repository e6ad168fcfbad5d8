"""What workers say of themselves."""

import json
from pathlib import Path

import pytest

from modelmora.v1 import worker_pb2
from modelmora_operator.backends.worker_reports import updated, why_it_ended
from modelmora_operator.cluster import Failure, Phase
from tests.support.operator_values import NOW, deployment, reported, worker

LOADING = worker(deployment(), phase=Phase.LOADING)


def test_an_update_moves_phase_sizes_and_artifact() -> None:
    update = worker_pb2.StatusUpdate(
        phase=worker_pb2.WORKER_PHASE_SERVING,
        phase_seconds={"load": 0.5},
        memory_bytes=1000,
        artifact=worker_pb2.Artifact(digest="d1", bytes=7),
    )
    now = updated(LOADING, update, NOW)
    assert (now.phase, now.serving, now.phase_seconds, now.memory_bytes) == (Phase.SERVING, True, {"load": 0.5}, 1000)
    assert now.artifact is not None
    assert (now.artifact.digest, now.artifact.bytes) == ("d1", 7)
    assert updated(now, update, NOW + 9) == now


def test_noise_in_the_memory_is_no_change() -> None:
    before = updated(LOADING, worker_pb2.StatusUpdate(memory_bytes=1000), NOW)
    assert updated(before, worker_pb2.StatusUpdate(memory_bytes=1049), NOW) == before
    assert updated(before, worker_pb2.StatusUpdate(memory_bytes=1100), NOW).memory_bytes == 1100


def test_a_failed_worker_is_quoted() -> None:
    said = worker_pb2.Failure(reason="LoadFailed", message="broken", remedy="mend it", where="load")
    now = updated(LOADING, worker_pb2.StatusUpdate(phase=worker_pb2.WORKER_PHASE_FAILED, failure=said), NOW)
    assert now.failure == Failure("load", "LoadFailed", "broken", "mend it")


def test_what_a_worker_says_fits_a_status_however_long_it_is(tmp_path: Path) -> None:
    said = worker_pb2.Failure(reason="R" * 9_999, message="broken " * 9_999, remedy="mend it " * 9_999, where="w" * 999)
    now = updated(LOADING, worker_pb2.StatusUpdate(phase=worker_pb2.WORKER_PHASE_FAILED, failure=said), NOW)
    message = tmp_path / "termination.json"
    message.write_text(json.dumps({"reason": "R" * 9_999, "message": "broken " * 5_000, "where": "w" * 999}))
    loading = deployment()
    for failure in (now.failure, why_it_ended(LOADING, 1, message)):
        failed = worker(loading, phase=Phase.FAILED, failure=failure)
        assert reported(loading, failed).status.last_failure is not None


def test_the_termination_message_is_why_it_ended(tmp_path: Path) -> None:
    message = tmp_path / "termination.json"
    message.write_text(json.dumps({"reason": "SourceNotFound", "message": "no folder", "where": "fetch"}))
    assert why_it_ended(LOADING, 1, message) == Failure("fetch", "SourceNotFound", "no folder", exit_code=1)


@pytest.mark.parametrize("content", [None, "", "no json", "[]", '{"message": "no reason"}'], ids=repr)
def test_without_a_message_the_way_it_ended_says_why(tmp_path: Path, content: str | None) -> None:
    message = tmp_path / "termination.json"
    if content is not None:
        message.write_text(content)
    why = why_it_ended(LOADING, -9, message)
    assert (why.reason, why.where, why.exit_code, why.reported) == ("WorkerCrashed", "load", -9, False)
    assert "SIGKILL" in why.message
    assert LOADING.worker_id in why.message
    assert "memory" in why.remedy


def test_the_exit_code_of_a_silent_end_is_named(tmp_path: Path) -> None:
    assert "exit code 3" in why_it_ended(LOADING, 3, tmp_path / "none").message


def test_what_a_status_may_not_hold_is_cut_off() -> None:
    phases = {f"phase-{number}": 1.0 for number in range(100)} | {"endless": float("inf")}
    odd = worker_pb2.StatusUpdate(artifact=worker_pb2.Artifact(digest="x" * 10_000), phase_seconds=phases)
    seen = updated(LOADING, odd, NOW)
    assert seen.artifact is not None
    assert len(seen.artifact.digest) == 256
    assert updated(seen, odd, NOW + 1).artifact == seen.artifact
    assert len(seen.phase_seconds) == 32
    assert "endless" not in seen.phase_seconds
