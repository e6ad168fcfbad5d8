"""One load for any number of callers, in threads and on event loops; waits that end, and failures that are shared."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from modelmora.errors import DeadlineExceeded, InsufficientMemory, InvalidRequest, LoadFailed
from modelmora.registry import ModelHandle, ModelRegistry
from tests.support.registries import DEADLINE_S, Gate, Model, World, keys, references
from tests.support.waiting import eventually

Handle = ModelHandle[object]


@pytest.fixture
def registry() -> ModelRegistry:
    return World().registry()


def in_threads(count: int, ask: Callable[[], Handle]) -> tuple[ThreadPoolExecutor, list[Future[Handle]]]:
    pool = ThreadPoolExecutor(count)
    return pool, [pool.submit(ask) for _ in range(count)]


def waiting(registry: ModelRegistry) -> int:
    return registry.statistics().references


@pytest.mark.req("EDGE-2", "FR-001", "S3-7")
async def test_fifty_threads_that_ask_at_once_make_one_load(registry: ModelRegistry) -> None:
    gate = Gate()
    pool, asked = in_threads(50, lambda: registry.get_or_load("a", gate))
    await eventually(lambda: waiting(registry) == 50, what="all to wait for the load")
    gate.open()
    handles = [future.result(DEADLINE_S) for future in asked]
    pool.shutdown()
    assert {id(handle.model) for handle in handles} == {id(gate.model)}
    assert (gate.calls, references(registry, "a")) == (1, 50)
    assert (registry.statistics().hits, registry.statistics().misses) == (49, 1)


@pytest.mark.req("EDGE-2")
async def test_threads_and_tasks_share_one_load_whoever_began_it(registry: ModelRegistry) -> None:
    gate = Gate()
    first = asyncio.create_task(registry.aget_or_load("a", gate))
    await eventually(gate.begun.is_set, what="the load to begin")
    pool, asked = in_threads(3, lambda: registry.get_or_load("a", gate))
    tasks = [asyncio.create_task(registry.aget_or_load("a", gate)) for _ in range(3)]
    await eventually(lambda: waiting(registry) == 7, what="all to wait for the load")
    gate.open()
    handles = [await first, *[await task for task in tasks], *[future.result(DEADLINE_S) for future in asked]]
    pool.shutdown()
    assert {id(handle.model) for handle in handles} == {id(gate.model)}
    assert (gate.calls, references(registry, "a")) == (1, 7)


async def test_a_coroutine_loads_on_the_loop_of_its_caller(registry: ModelRegistry) -> None:
    loaded_on = []

    async def load() -> Model:
        await asyncio.sleep(0)
        loaded_on.append(asyncio.get_running_loop())
        return Model("a")

    handles = await asyncio.gather(*[registry.aget_or_load("a", load) for _ in range(20)])
    assert loaded_on == [asyncio.get_running_loop()]
    assert len({id(handle.model) for handle in handles}) == 1
    again = await registry.aget_or_load("a", load)
    assert again.model.name == "a"  # its type is that of the model, not of the coroutine


async def test_a_plain_loader_does_not_stop_the_loop(registry: ModelRegistry) -> None:
    gate = Gate()
    task = asyncio.create_task(registry.aget_or_load("a", gate))
    await eventually(gate.begun.is_set, what="the load to begin")  # this loop goes on meanwhile
    gate.open()
    assert (await task).model is gate.model


async def test_cancelling_one_who_waits_does_not_cancel_the_load(registry: ModelRegistry) -> None:
    gate = Gate()
    began_it = asyncio.create_task(registry.aget_or_load("a", gate))
    await eventually(gate.begun.is_set, what="the load to begin")
    stays = asyncio.create_task(registry.aget_or_load("a", gate))
    await eventually(lambda: waiting(registry) == 2, what="both to wait")
    began_it.cancel()
    with pytest.raises(asyncio.CancelledError):
        await began_it
    gate.open()
    assert (await stays).model is gate.model
    assert references(registry, "a") == 1


async def test_a_coroutine_goes_on_when_the_caller_who_began_it_is_cancelled() -> None:
    world, go_on = World(), asyncio.Event()
    registry = world.registry()

    async def load() -> Model:
        await go_on.wait()
        return Model()

    began_it = asyncio.create_task(registry.aget_or_load("a", load))
    await eventually(lambda: waiting(registry) == 1, what="the load to begin")
    began_it.cancel()
    with pytest.raises(asyncio.CancelledError):
        await began_it
    go_on.set()
    await eventually(lambda: keys(registry) == ["a"], what="the load to end")
    assert references(registry, "a") == 0
    world.clock.go(29)
    registry.sweep()
    assert keys(registry) == []  # nobody wanted it any more, and nobody came


@pytest.mark.req("EDGE-2")
async def test_a_failure_is_shared_by_those_who_wait_and_the_next_tries_anew(registry: ModelRegistry) -> None:
    gate = Gate()
    gate.error = ValueError("damaged")
    pool, asked = in_threads(5, lambda: registry.get_or_load("a", gate))
    task = asyncio.create_task(registry.aget_or_load("a", gate))
    await eventually(lambda: waiting(registry) == 6, what="all to wait for the load")
    gate.open()
    with pytest.raises(LoadFailed, match="damaged") as last:
        await task
    failures = [last.value, *[future.exception(DEADLINE_S) for future in asked]]
    pool.shutdown()
    assert {type(failure) for failure in failures} == {LoadFailed}
    assert [failure.__cause__ for failure in failures if failure] == [gate.error] * 6
    assert len({id(failure) for failure in failures}) == 6
    assert (gate.calls, registry.statistics().failures, registry.statistics().hits) == (1, 1, 0)
    assert registry.get_or_load("a", Model).key == "a"


async def test_who_waits_longer_than_it_may_is_told_and_the_load_goes_on(registry: ModelRegistry) -> None:
    gate = Gate()
    pool, [first] = in_threads(1, lambda: registry.get_or_load("a", gate))
    await eventually(gate.begun.is_set, what="the load to begin")
    with pytest.raises(DeadlineExceeded, match="the wait for 'a'"):
        registry.get_or_load("a", gate, timeout_s=0)
    with pytest.raises(DeadlineExceeded, match="the wait for 'a'"):
        await registry.aget_or_load("a", gate, timeout_s=0)
    gate.open()
    assert first.result(DEADLINE_S).model is gate.model
    pool.shutdown()
    assert references(registry, "a") == 1


async def test_nobody_waits_for_a_loop_that_the_wait_itself_stops(registry: ModelRegistry) -> None:
    go_on = asyncio.Event()

    async def load() -> Model:
        await go_on.wait()
        return Model()

    task = asyncio.create_task(registry.aget_or_load("a", load))
    await eventually(lambda: waiting(registry) == 1, what="the load to begin")
    with pytest.raises(InvalidRequest, match="a blocking wait would stop"):
        registry.get_or_load("a", Model)
    go_on.set()
    await task
    assert references(registry, "a") == 1


async def test_a_coroutine_that_asks_for_its_own_key_is_told_so(registry: ModelRegistry) -> None:
    async def load() -> object:
        return await registry.aget_or_load("a", load)

    with pytest.raises(InvalidRequest, match="asks for 'a' itself"):
        await registry.aget_or_load("a", load)


def test_a_coroutine_function_needs_a_loop(registry: ModelRegistry) -> None:
    async def load() -> Model:
        return Model()

    with pytest.raises(InvalidRequest, match="is a coroutine function"):
        registry.get_or_load("a", load)


async def test_a_lambda_around_a_coroutine_is_told_of(registry: ModelRegistry) -> None:
    async def load() -> Model:
        return Model()

    with pytest.raises(LoadFailed, match="give the coroutine function itself"):
        await registry.aget_or_load("a", lambda: load())  # noqa: PLW0108 - that is the mistake
    assert keys(registry) == []


def test_a_loop_that_ends_fails_what_was_being_loaded_on_it(registry: ModelRegistry) -> None:
    async def never() -> Model:
        await asyncio.Event().wait()
        return Model()

    async def main() -> None:
        asyncio.create_task(registry.aget_or_load("a", never))  # noqa: RUF006 - it is to be left behind
        await eventually(lambda: waiting(registry) == 1, what="the load to begin")

    asyncio.run(main())
    asyncio.run(eventually(lambda: registry.statistics().failures == 1, what="the load to fail"))
    with registry.get_or_load("a", Model) as handle:
        assert isinstance(handle.model, Model)


async def test_a_coroutine_whose_load_fails_before_it_begins_is_never_called() -> None:
    world, called = World(), []
    registry = world.registry(limit_bytes=100, timeout_s=0.01)
    go_on, leaving = threading.Event(), threading.Event()

    def slowly(_: Model) -> None:
        leaving.set()
        assert go_on.wait(DEADLINE_S)

    async def load() -> Model:
        called.append("called")
        return Model()

    registry.get_or_load("old", world.loader("old"), size_bytes=100, unload=slowly).close()
    with ThreadPoolExecutor(1) as pool:
        evicted = pool.submit(registry.evict, "old")
        assert leaving.wait(DEADLINE_S)
        with pytest.raises(DeadlineExceeded):
            await registry.aget_or_load("new", load)
        await eventually(lambda: registry.statistics().failures == 1, what="the load to fail")
        go_on.set()
        assert evicted.result(DEADLINE_S) == 1
    await eventually(lambda: len(asyncio.all_tasks()) == 1, what="the task of the coroutine to end")
    assert called == []


async def test_a_model_that_is_leaving_is_loaded_again_only_when_it_has_left(registry: ModelRegistry) -> None:
    leaving, go_on, order = threading.Event(), threading.Event(), []

    def unload(_: Model) -> None:
        leaving.set()
        assert go_on.wait(DEADLINE_S)
        order.append("unloaded")

    def load() -> Model:
        order.append("loaded")
        return Model()

    registry.get_or_load("a", load, unload=unload).close()
    with ThreadPoolExecutor(2) as pool:
        evicted = pool.submit(registry.evict, "a")
        assert leaving.wait(DEADLINE_S)
        with pytest.raises(DeadlineExceeded):
            registry.get_or_load("a", load, timeout_s=0)
        again = pool.submit(registry.get_or_load, "a", load)
        go_on.set()
        assert (evicted.result(DEADLINE_S), again.result(DEADLINE_S).key) == (1, "a")
    assert order == ["loaded", "unloaded", "loaded"]


def test_an_unload_callback_that_asks_for_its_own_model_is_told_so(registry: ModelRegistry) -> None:
    told: list[Exception] = []

    def unload(_: Model) -> None:
        try:
            registry.get_or_load("a", Model)
        except InvalidRequest as error:
            told.append(error)

    registry.get_or_load("a", Model, unload=unload).close()
    registry.evict("a")
    assert len(told) == 1


@pytest.mark.req("EDGE-1")
async def test_a_load_waits_until_what_others_evict_has_left() -> None:
    world, go_on, leaving = World(), threading.Event(), threading.Event()
    registry = world.registry(limit_bytes=100)

    def slowly(_: Model) -> None:
        leaving.set()
        assert go_on.wait(DEADLINE_S)
        world.unloaded.append("old")

    registry.get_or_load("old", world.loader("old"), size_bytes=100, unload=slowly).close()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(registry.get_or_load, "first", world.loader("first"), size_bytes=50)
        assert leaving.wait(DEADLINE_S)
        with pytest.raises(DeadlineExceeded, match=r"waited .* for 'old' to be unloaded"):
            registry.get_or_load("second", world.loader("second"), size_bytes=50, timeout_s=0)
        assert world.loaded == ["old"]
        go_on.set()
        assert first.result(DEADLINE_S).key == "first"
    assert (world.unloaded, world.loaded) == (["old"], ["old", "first"])


@pytest.mark.req("EDGE-1")
async def test_what_is_promised_to_a_load_under_way_is_not_promised_twice() -> None:
    world, gate = World(), Gate()
    registry, world.memory.free = world.registry(), 100
    pool, [first] = in_threads(1, lambda: registry.get_or_load("first", gate, size_bytes=60))
    await eventually(gate.begun.is_set, what="the load to begin")
    with pytest.raises(InsufficientMemory):
        registry.get_or_load("second", world.loader("second"), size_bytes=60)
    gate.open()
    first.result(DEADLINE_S)
    pool.shutdown()
    assert world.loaded == []
