"""Real processes that do not serve, but end in every way: who is started again, who is killed, and ports in use."""

import asyncio
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

import pytest

from modelmora.errors import AddressInUse
from modelmora_router import ports
from modelmora_router.processes import Processes
from tests.support.waiting import eventually

SLEEPS = "import time; time.sleep(60)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"


class Launched:
    """Starts the script that a function gives for a number and how often it was started before."""

    def __init__(self, script: Callable[[int, int], str]) -> None:
        self._script = script
        self.started: list[tuple[int, Process]] = []

    def __call__(self, number: int) -> Awaitable[Process]:
        return self._launch(number)

    async def _launch(self, number: int) -> Process:
        script = self._script(number, self.times(number))
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
        if script == DEAF:
            assert process.stdout
            await process.stdout.readline()
        self.started.append((number, process))
        return process

    def times(self, number: int) -> int:
        return sum(one == number for one, _ in self.started)

    @property
    def running(self) -> list[Process]:
        return [process for _, process in self.started if process.returncode is None]


async def test_who_ends_is_started_again_and_the_others_are_left_alone() -> None:
    launched, stopping = Launched(lambda number, _: SLEEPS if number == 1 else "raise SystemExit(3)"), asyncio.Event()
    running = asyncio.create_task(Processes(launched, count=2, stop_s=20).run(stopping))
    await eventually(lambda: launched.times(2) >= 3, what="the second to be started again twice")
    assert launched.times(1) == 1
    stopping.set()
    assert await running == 0
    assert not launched.running


async def test_if_none_can_even_begin_all_end_by_that_code() -> None:
    launched, stopping = Launched(lambda *_: "raise SystemExit(2)"), asyncio.Event()
    async with asyncio.timeout(30):
        assert await Processes(launched, count=2, stop_s=20).run(stopping) == 2
    assert not launched.running


async def test_one_that_cannot_begin_is_tried_again_while_another_has_begun() -> None:
    ends = ["raise SystemExit(2)", SLEEPS]
    launched, stopping = Launched(lambda number, times: SLEEPS if number == 1 else ends[times]), asyncio.Event()
    running = asyncio.create_task(Processes(launched, count=2, stop_s=20).run(stopping))
    await eventually(lambda: launched.times(2) == 2 and len(launched.running) == 2, what="both to run")
    stopping.set()
    assert await running == 0


async def test_one_that_no_longer_can_begin_is_tried_again_while_the_others_go_on() -> None:
    ends = ["raise SystemExit(1)", "raise SystemExit(2)", SLEEPS]
    launched, stopping = Launched(lambda number, times: SLEEPS if number == 1 else ends[times]), asyncio.Event()
    running = asyncio.create_task(Processes(launched, count=2, stop_s=20).run(stopping))
    await eventually(lambda: launched.times(2) == 3 and len(launched.running) == 2, what="both to run")
    assert launched.times(1) == 1
    stopping.set()
    assert await running == 0


async def test_one_that_does_not_end_in_time_is_killed_and_that_shows() -> None:
    launched, stopping = Launched(lambda number, _: SLEEPS if number == 1 else DEAF), asyncio.Event()
    running = asyncio.create_task(Processes(launched, count=2, stop_s=0.2).run(stopping))
    await eventually(lambda: len(launched.started) == 2, what="both to run")
    stopping.set()
    assert await running == 1
    assert sorted(process.returncode or 0 for _, process in launched.started) == [-15, -9]


async def test_one_that_cannot_be_started_is_tried_again() -> None:
    scripts = [OSError("no more processes"), OSError("no memory")]
    launched, stopping = Launched(lambda _number, _times: SLEEPS), asyncio.Event()

    async def launch(number: int) -> Process:
        if scripts:
            raise scripts.pop()
        return await launched(number)

    running = asyncio.create_task(Processes(launch, count=1, stop_s=20).run(stopping))
    await eventually(lambda: launched.running, what="it to run")
    stopping.set()
    assert await running == 0


async def test_one_that_was_just_being_started_hears_the_wish_to_end_too() -> None:
    launched, stopping = Launched(lambda _number, _times: SLEEPS), asyncio.Event()

    async def launch(number: int) -> Process:
        process = await launched(number)
        stopping.set()
        await asyncio.sleep(0)  # the others are told in between
        return process

    assert await Processes(launch, count=1, stop_s=20).run(stopping) == 0


# ---------------------------------------------------------------------------------------------------- ports


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1"])
def test_a_port_that_is_held_is_shared_by_those_who_join_and_by_nobody_else(host: str) -> None:
    with ExitStack() as stack:
        held = stack.enter_context(ports.reserve(host, 0, "rest_port"))
        port = held.getsockname()[1]
        for joined in (0, 1, 2):  # before anybody listens, and after
            for alone in (ports.bind, ports.reserve):
                with pytest.raises(AddressInUse) as refused:
                    alone(host, port, "rest_port").close()
                assert refused.value.context.field == "rest_port"
            if joined < 2:
                stack.enter_context(ports.join(host, port, "rest_port"))


def test_a_held_port_takes_no_connection_itself() -> None:
    with ports.reserve("127.0.0.1", 0, "rest_port") as held:
        address: tuple[str, int] = held.getsockname()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=30)
        with ports.join(*address, "rest_port") as joined, socket.create_connection(address, timeout=30):
            joined.settimeout(5)
            joined.accept()[0].close()


def test_a_port_can_be_held_beside_connections_of_the_program_before() -> None:
    with ports.bind("127.0.0.1", 0, "rest_port") as before:
        address: tuple[str, int] = before.getsockname()
        with socket.create_connection(address, timeout=30):
            accepted, _ = before.accept()
            accepted.close()  # this side closes first: it is the one that lingers
    ports.reserve(*address, "rest_port").close()
