from modelmora.errors import LoadFailed
from modelmora.v1 import worker_pb2
from modelmora_worker.lifecycle import (
    DRAINING,
    LOADING,
    SERVING,
    STARTING,
    Artifact,
    Failure,
    Lifecycle,
    WorkerState,
    to_update,
)


def test_moves_forward_only() -> None:
    life = Lifecycle()
    life.advance(SERVING)
    life.advance(LOADING)
    assert life.state.phase == SERVING
    life.advance(DRAINING)
    assert life.state.name == "DRAINING"


def test_the_peak_is_the_largest_that_was_seen() -> None:
    life = Lifecycle()
    for used in (5, 9, 7):
        life.measured(used=used, vram=1)
    assert (life.state.memory.used, life.state.memory.peak, life.state.memory.vram) == (7, 9, 1)


async def test_every_watch_ends_with_the_last_state() -> None:
    life = Lifecycle()
    watch = life.watch()
    assert (await anext(watch)).phase == STARTING
    failure = Failure.of(LoadFailed("no weights", remedy="fetch them"), "load")
    life.fail(failure)
    life.end()
    assert [state.failure async for state in watch] == [failure]
    assert [state.failure async for state in life.watch()] == [failure]


def test_the_message_tells_everything() -> None:
    life = Lifecycle()
    life.took("import", 0.5)
    life.loaded(artifact=Artifact("sha256:1", "r", 10, 2), device="cpu")
    life.fail(Failure("LoadFailed", "what", "do", "load"))
    update = to_update(life.state, pid=7)
    assert (update.pid, dict(update.phase_seconds), update.device) == (7, {"import": 0.5}, "cpu")
    assert (update.artifact.digest, update.artifact.files) == ("sha256:1", 2)
    assert update.failure == worker_pb2.Failure(reason="LoadFailed", message="what", remedy="do", where="load")


def test_a_new_state_has_no_artifact_and_no_failure() -> None:
    update = to_update(WorkerState(), pid=1)
    assert not update.HasField("artifact")
    assert not update.HasField("failure")
