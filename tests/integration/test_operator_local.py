"""The operator of one machine with real processes: manifests in, workers that wake, rest, fail and end."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from modelmora.control import Demand, Key
from modelmora.control.local import LocalControl
from modelmora.errors import AlreadyRunning, InvalidManifest
from modelmora.spec import ModelDeployment
from modelmora_operator import local
from modelmora_operator.backends.launching import WorkerProgram
from modelmora_operator.settings import OperatorSettings
from tests.support.manifests import manifest
from tests.support.waiting import eventually

PROGRAM = WorkerProgram("tests.support.dummy_worker:run", "tests.support.dummy_worker", "tests.support.dummy_preload")
KEY = Key("default", "minilm")


@dataclass
class Machine:
    """A folder of manifests, the operator that serves it, and a router's voice."""

    root: Path
    control: LocalControl = field(default_factory=LocalControl)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def state_dir(self) -> Path:
        return self.root / "state"

    def write(
        self, *, behaviour: str = "serve", name: str = "minilm", told: dict[str, str] | None = None, **spec: Any
    ) -> None:
        parameters = {"behaviour": behaviour, **(told or {})}
        model = {"config": {"parameters": parameters}} | spec.pop("model", {})
        folder = self.root / "models"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(manifest(name, model=model, **spec)))

    def want(self, *keys: Key) -> None:
        self.control.demands.set({key: Demand(1, 0.0) for key in keys})

    async def run(self, ready: asyncio.Event | None = None) -> None:
        environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}  # noqa: TID251 - for workers of the test
        settings = OperatorSettings(
            state_dir=self.state_dir,
            cache_dir=self.root / "cache",
            drain_timeout_s=2,
            rescan_s=0.5,
            load_backoff_first_s=0.05,
            **self.more,
        )
        await local.run(
            settings,
            self.control,
            environment=environment,
            paths=[self.root / "models"],
            program=PROGRAM,
            ready=ready,
            stop=self.stop,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        ready = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.run(ready), name="operator")
            await ready.wait()
            yield
            self.stop.set()

    def deployment(self, key: Key = KEY) -> ModelDeployment | None:
        return (self.control.deployments.value or {}).get(key)

    def ready(self, key: Key = KEY) -> tuple[str, str]:
        deployment = self.deployment(key)
        found = deployment.status.condition("Ready") if deployment else None
        return (str(found.status), found.reason) if found else ("", "")

    async def becomes(self, status: str, reason: str, key: Key = KEY) -> None:
        try:
            await eventually(lambda: self.ready(key) == (status, reason), what=f"Ready to be {status}/{reason}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.ready(key)}") from None

    def sockets(self) -> list[Path]:
        return [path for path in self.root.rglob("*") if path.is_socket()]


def descendants() -> list[psutil.Process]:
    """What this process has started for workers, directly or through the fork server."""
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE and "resource_tracker" not in " ".join(process.cmdline())
    ]


@pytest.fixture(params=[True, False], ids=["forked", "fresh"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    return Machine(tmp_path, more={"warm_parent": request.param})


@pytest.fixture
def forking(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.req("REQ-LIFE-001a", "REQ-LIFE-005b", "RM-1.3d", "RM-1.3e", "IMP-1")
async def test_a_model_wakes_when_it_is_wanted_and_rests_when_not(machine: Machine) -> None:
    machine.write()
    async with machine.running():
        await machine.becomes("Unknown", "Unverified")
        assert not machine.control.workers.value
        machine.want(KEY)
        await machine.becomes("True", "Serving")
        (worker,) = (machine.control.workers.value or {}).values()
        assert worker.key == KEY
        assert worker.address.removeprefix("unix:") in {str(path) for path in machine.sockets()}
        deployment = machine.deployment()
        assert deployment is not None
        assert deployment.status.last_load is not None
        assert deployment.status.last_load.kind == ("Warm" if machine.more["warm_parent"] else "Cold")
        machine.want()
        await machine.becomes("True", "ScaledToZero")
        await eventually(lambda: not machine.control.workers.value, what="the worker to be gone")
        machine.want(KEY)
        await machine.becomes("True", "Serving")
    assert machine.sockets() == []
    assert descendants() == []


@pytest.mark.req("REQ-LIFE-010a", "REQ-LIFE-011", "REQ-REL-002")
async def test_a_model_that_cannot_be_loaded_says_why_and_is_tried_again(machine: Machine) -> None:
    machine.write(behaviour="fail")
    machine.write(name="good", model={"id": "org/good"})
    good = Key("default", "good")
    async with machine.running():
        machine.want(KEY, good)
        await machine.becomes("False", "LoadFailed")
        await machine.becomes("True", "Serving", good)
        failed = machine.deployment()
        assert failed is not None
        assert failed.status.last_failure is not None
        assert failed.status.last_failure.message == "it was told to fail"
        machine.write(behaviour="serve")
        await machine.becomes("True", "Serving")
        mended = machine.deployment()
        assert mended is not None
        assert (mended.status.last_failure, mended.metadata.generation) == (None, 2)


@pytest.mark.req("EDGE-3", "US2-AS3")
async def test_a_killed_worker_is_replaced(machine: Machine) -> None:
    machine.write()
    async with machine.running():
        machine.want(KEY)
        await machine.becomes("True", "Serving")
        (before,) = (machine.control.workers.value or {}).values()
        victim = next(p for p in descendants() if str(p.pid) in pids_of(machine))
        victim.kill()
        await eventually(
            lambda: (
                machine.ready() == ("True", "Serving")
                and before.address not in {w.address for w in (machine.control.workers.value or {}).values()}
            ),
            what="another worker",
        )
    assert descendants() == []


def pids_of(machine: Machine) -> set[str]:
    """Of processes that hold a worker's socket."""
    sockets = {str(path) for path in machine.sockets() if path.suffix == ".s"}
    return {str(p.pid) for p in descendants() if sockets & {c.laddr for c in p.net_connections(kind="unix")}}


async def test_a_changed_spec_is_taken_over_without_a_moment_in_which_none_serves(machine: Machine) -> None:
    machine.write(scaling={"minReplicas": 1})
    async with machine.running():
        await machine.becomes("True", "Serving")
        (before,) = machine.control.workers.value or {}
        gate = machine.root / "gate"
        machine.write(scaling={"minReplicas": 1}, told={"gate": str(gate)})
        await machine.becomes("Unknown", "Unverified")
        await eventually(lambda: len(machine.control.workers.value or {}) == 2, what="the successor")
        assert before in (machine.control.workers.value or {})
        gate.touch()
        await machine.becomes("True", "Serving")
        await eventually(lambda: before not in (machine.control.workers.value or {}), what="the old one to go")


async def test_deleting_the_manifest_ends_the_worker(machine: Machine) -> None:
    machine.write(scaling={"minReplicas": 1})
    machine.write(name="other", model={"id": "org/other"})
    async with machine.running():
        await machine.becomes("True", "Serving")
        (machine.root / "models" / "minilm.yaml").unlink()
        await eventually(lambda: machine.deployment() is None, what="the deployment to go")
        await eventually(lambda: not machine.control.workers.value, what="the worker to go")


@pytest.mark.req("IMP-1")
async def test_a_worker_is_let_to_finish_when_it_is_stopped_and_when_the_server_is(machine: Machine) -> None:
    rested, ended = machine.root / "rested", machine.root / "ended"
    machine.write(told={"goodbye": str(rested)})
    machine.write(name="kept", model={"id": "org/kept"}, told={"goodbye": str(ended)}, scaling={"minReplicas": 1})
    async with machine.running():
        machine.want(KEY)
        await machine.becomes("True", "Serving")
        await machine.becomes("True", "Serving", Key("default", "kept"))
        machine.want()
        await eventually(rested.exists, what="the model that nobody wants to finish")
        assert not ended.exists()
    assert ended.exists()


async def test_a_worker_that_ignores_the_request_to_end_is_killed_when_its_time_is_over(forking: Machine) -> None:
    forking.write(behaviour="deaf", scaling={"minReplicas": 1})
    async with forking.running():
        await forking.becomes("True", "Serving")
    assert forking.sockets() == []
    assert descendants() == []


async def test_a_worker_that_never_comes_to_serve_is_ended_at_its_deadline(forking: Machine) -> None:
    forking.write(behaviour="hang", scaling={"minReplicas": 1}, rollout={"progressDeadlineSeconds": 1})
    async with forking.running():
        await forking.becomes("False", "ProgressDeadlineExceeded")


@pytest.mark.req("IMP-1")
async def test_a_cancellation_leaves_nothing_either(machine: Machine) -> None:
    machine.write(behaviour="deaf", scaling={"minReplicas": 1})
    running = asyncio.ensure_future(machine.run())
    await machine.becomes("True", "Serving")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert machine.sockets() == []
    assert descendants() == []


async def test_the_fork_server_may_be_killed_and_workers_live_on(forking: Machine) -> None:
    forking.write()
    forking.write(name="later", model={"id": "org/later"})
    later = Key("default", "later")
    async with forking.running():
        forking.want(KEY)
        await forking.becomes("True", "Serving")
        (worker,) = forking.control.workers.value or {}
        server = next(p for p in descendants() if "forkserver" in " ".join(p.cmdline()) and p.ppid() == os.getpid())
        server.send_signal(signal.SIGKILL)
        forking.want(KEY, later)
        await forking.becomes("True", "Serving", later)
        assert worker in (forking.control.workers.value or {})
        assert forking.ready() == ("True", "Serving")
    assert descendants() == []


async def test_a_model_that_sets_variables_gets_a_process_of_its_own(forking: Machine) -> None:
    forking.write(runtime={"env": [{"name": "SOME_VARIABLE", "value": "set"}]})
    async with forking.running():
        forking.want(KEY)
        await forking.becomes("True", "Serving")
        values = [process.environ().get("SOME_VARIABLE") for process in descendants()]
        assert "set" in values
        deployment = forking.deployment()
        assert deployment is not None
        assert deployment.status.last_load is not None
        assert deployment.status.last_load.kind == "Cold"


async def test_a_second_operator_on_the_same_state_is_refused(forking: Machine) -> None:
    forking.write()
    async with forking.running():
        with pytest.raises(AlreadyRunning):
            await forking.run()
        forking.want(KEY)
        await forking.becomes("True", "Serving")


async def test_a_start_without_one_good_manifest_is_refused_with_every_error(forking: Machine) -> None:
    forking.write(scaling={"minReplicas": -1})
    with pytest.raises(InvalidManifest) as caught:
        await forking.run()
    assert "spec.scaling.minReplicas" in caught.value.context.field


async def test_a_preload_that_cannot_be_imported_is_heard_and_workers_start_all_the_same(
    forking: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    forking.write()
    program = WorkerProgram(PROGRAM.entry, PROGRAM.module, "tests.support.no_such_module")
    settings = OperatorSettings(state_dir=forking.state_dir, cache_dir=forking.root)
    environment = {"PYTHONPATH": str(Path.cwd())}
    async with asyncio.TaskGroup() as tasks:
        running = local.run(
            settings,
            forking.control,
            environment=environment,
            paths=[forking.root / "models"],
            program=program,
            stop=forking.stop,
        )
        tasks.create_task(running, name="operator")
        forking.want(KEY)
        await forking.becomes("True", "Serving")
        forking.stop.set()
    assert "no_such_module" in capfd.readouterr().out


@pytest.mark.req("RM-1.3e", "IMP-1")
async def test_a_killed_operator_leaves_no_process_and_no_socket(forking: Machine) -> None:
    forking.write(scaling={"minReplicas": 1})
    arguments = ["-m", "tests.support.operator_program", str(forking.state_dir), str(forking.root / "models")]
    operator = await asyncio.create_subprocess_exec(sys.executable, *arguments)
    started = psutil.Process(operator.pid)

    def family() -> list[psutil.Process]:
        return started.children(recursive=True)

    await eventually(lambda: any(path.suffix == ".s" for path in forking.sockets()), what="a worker")
    orphans = family()
    assert len(orphans) >= 3  # the worker, the fork server, and the resource tracker of the standard library
    operator.kill()
    await operator.wait()
    await eventually(lambda: not any(orphan.is_running() for orphan in orphans), what="all to end")
    assert forking.sockets() == []
