"""The registry in a real process: its memory, its own thread, forks, and how it ends with the interpreter."""

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from modelmora import registry as package
from modelmora.errors import LoadFailed
from modelmora.registry import ModelRegistry
from tests.support.registries import DEADLINE_S, MB, Gate, Model, World, keys, references

THREADS_FORK = "ignore:This process:DeprecationWarning"  # newer Pythons warn of what is tested here
KEEPER = "modelmora registry keeper"


def keepers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == KEEPER]


def ended(thread: threading.Thread) -> bool:
    thread.join(DEADLINE_S)
    return not thread.is_alive()


@pytest.mark.req("SC-006", "US1-AS3", "FR-002")
def test_a_model_that_nobody_has_is_unloaded_by_itself() -> None:
    unloaded = threading.Event()
    registry = ModelRegistry(idle_s=0.02)
    with registry.get_or_load("a", Model, unload=lambda _: unloaded.set()) as handle:
        watch = weakref.ref(handle.model)
    assert unloaded.wait(DEADLINE_S)
    while registry.statistics().unloads and watch() is not None:
        time.sleep(0)  # the callback is called a moment before the object goes
    assert keys(registry) == []
    registry.close()


@pytest.mark.req("SC-006")
def test_a_handle_that_was_only_dropped_counts_as_released() -> None:
    unloaded = threading.Event()
    registry = ModelRegistry(idle_s=0.02)
    registry.get_or_load("a", Model, unload=lambda _: unloaded.set())
    assert unloaded.wait(DEADLINE_S)
    registry.close()


def test_a_registry_has_a_thread_from_its_first_load_until_it_is_closed() -> None:
    before = keepers()
    registry = World().registry()
    assert keepers() == before
    handle = registry.get_or_load("a", Model)
    [keeper] = [thread for thread in keepers() if thread not in before]
    registry.close()
    assert keeper.is_alive()  # a model is still held, and has to be unloaded some day
    handle.close()
    assert ended(keeper)


def test_a_registry_that_is_closed_while_it_loads_ends_with_that_load() -> None:
    before, gate = keepers(), Gate()
    gate.error = OSError("damaged")
    registry = ModelRegistry(policy="manual")
    registry.get_or_load("a", Model).close()
    [keeper] = [thread for thread in keepers() if thread not in before]
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(registry.get_or_load, "slow", gate)
        assert gate.begun.wait(DEADLINE_S)
        registry.close()
        assert keys(registry) == []
        gate.open()
        assert isinstance(slow.exception(DEADLINE_S), LoadFailed)
    assert ended(keeper)


def test_a_registry_that_is_dropped_ends_too() -> None:
    before, unloaded = keepers(), threading.Event()
    registry = ModelRegistry()
    registry.get_or_load("a", Model, unload=lambda _: unloaded.set()).close()
    [keeper] = [thread for thread in keepers() if thread not in before]
    watch = weakref.ref(registry)
    del registry
    gc.collect()
    assert watch() is None
    assert unloaded.wait(DEADLINE_S)
    assert ended(keeper)


def test_the_default_registry_is_one_for_the_process() -> None:
    registries: list[ModelRegistry] = []
    threads = [threading.Thread(target=lambda: registries.append(package.default())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert {id(each) for each in registries} == {id(package.default())}


# ---------------------------------------------------------------------------------------------------- memory


MEMORY = """
import numpy, psutil
from modelmora.registry import ModelRegistry

def synthetic():
    return numpy.ones(200_000_000, dtype=numpy.uint8)  # every page of it touched

def own_bytes():
    return psutil.Process().memory_full_info().uss

with ModelRegistry(policy="manual") as registry:
    registry.get_or_load("small", object).close()
    before = own_bytes()
    nodes = [registry.get_or_load("synthetic", synthetic) for _ in range(2)]
    print(own_bytes() - before)
    print(registry.list_models()[-1].measured_bytes)
    for node in nodes:
        node.close()
    registry.evict()
    print(own_bytes() - before)
"""


@pytest.mark.req("US1-IT", "US1-AS3", "FR-008a")
def test_two_nodes_take_the_memory_of_one_model_and_give_all_of_it_back() -> None:
    grown, measured, left = map(int, run(MEMORY).split())
    assert grown == pytest.approx(200 * MB, rel=0.1)
    assert measured == pytest.approx(grown, rel=0.1)
    assert left == pytest.approx(0, abs=2 * MB)


# ---------------------------------------------------------------------------------------------------- forks

FORKED = """
import os, threading
from modelmora.registry import ModelRegistry
from tests.support.registries import Gate, Model, references

registry = ModelRegistry(idle_s=0.02)
held = registry.get_or_load("held", Model)
gate = Gate()
threading.Thread(target=lambda: registry.get_or_load("slow", lambda: gate() and Model()).close()).start()
assert gate.begun.wait(20)

child = os.fork()
if child == 0:
    unloaded = threading.Event()
    assert registry.get_or_load("held", Model).model is held.model  # what was loaded is there
    own = registry.get_or_load("slow", Model, unload=lambda _: unloaded.set(), timeout_s=5)  # what was not, is loaded
    assert [thread.name for thread in threading.enumerate()].count("modelmora registry keeper") == 1
    own.close()
    assert unloaded.wait(20)  # by a thread of the child's own
    os._exit(references(registry, "held"))  # the parent's handle, which the child has too
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 1, status
gate.open()
assert references(registry, "held") == 1
"""

AT_THE_END = """
from modelmora import registry
from tests.support.registries import Model

registry.default().get_or_load("held", Model, unload=lambda _: print("held, unloaded"))
kept = registry.default().get_or_load("kept", Model)
registry.default().get_or_load("idle", Model, unload=lambda _: print("idle, unloaded")).close()
print("the end")
"""


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", THREADS_FORK, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_has_what_was_loaded_and_a_thread_and_locks_of_its_own() -> None:
    run(FORKED)


def test_a_program_ends_at_once_and_its_idle_models_are_unloaded() -> None:
    assert sorted(run(AT_THE_END).splitlines()) == ["held, unloaded", "idle, unloaded", "the end"]


@pytest.mark.filterwarnings(THREADS_FORK)
def test_a_fork_while_others_take_and_release_finds_the_counts_whole() -> None:
    registry, over = ModelRegistry(policy="manual"), threading.Event()
    held = registry.get_or_load("a", Model)

    def use() -> None:
        while not over.is_set():
            registry.get_or_load("a", Model).close()

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    exits = [_forked(registry) for _ in range(10)]
    over.set()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert exits == [0] * 10
    assert references(registry, "a") == 1
    held.close()
    registry.close()


def _forked(registry: ModelRegistry) -> int:
    child = os.fork()
    if child == 0:  # at most one handle of each of the three threads, which are not here
        before = references(registry, "a")
        with registry.get_or_load("a", Model):
            os._exit(not (1 <= before <= 4 and references(registry, "a") == before + 1))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
