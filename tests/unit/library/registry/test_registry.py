"""One model for many callers: shared, counted, unloaded when nobody has it, and refused when it does not fit."""

import gc
import logging
import math
import pickle
import weakref
from collections.abc import Callable
from typing import assert_type

import numpy as np
import pytest

from modelmora.errors import (
    InsufficientMemory,
    InvalidRequest,
    InvalidSettings,
    LoadFailed,
    ModelBusy,
    ModelNotFound,
)
from modelmora.registry import ModelHandle, ModelRegistry
from tests.support.registries import MB, Model, World, keys, references


@pytest.fixture
def world() -> World:
    return World()


# ---------------------------------------------------------------------------------------------------- sharing


@pytest.mark.req("US1", "US1-AS1", "US1-AS2", "FR-001", "FR-003", "S3-7", "NUM-22")
def test_the_second_to_ask_gets_the_model_of_the_first(world: World) -> None:
    registry = world.registry()
    nodes = [registry.get_or_load("encoder", world.loader("encoder")) for _ in range(3)]
    assert nodes[0].model is nodes[1].model is nodes[2].model
    assert world.loaded == ["encoder"]
    statistics = registry.statistics()
    assert (statistics.hits, statistics.misses) == (2, 1)
    assert statistics.hit_rate == pytest.approx(2 / 3)


@pytest.mark.req("NUM-31", "US1-AS1")
def test_a_pipeline_whose_nodes_come_and_go_loads_each_model_once(world: World) -> None:
    registry = world.registry()

    def node(key: str) -> object:
        with registry.get_or_load(key, world.loader(key)) as handle:
            return handle.model

    first = [node("encoder"), node("decoder")]
    assert [[node("encoder"), node("decoder")] for _ in range(5)] == [first] * 5
    assert world.loaded == ["encoder", "decoder"]


@pytest.mark.req("ENT-1", "ENT-5")
def test_the_list_shows_every_model_with_its_device_its_bytes_and_its_references(world: World) -> None:
    class Configured(Model):
        config = ("layers", 2)

    def load() -> Configured:
        world.memory.own = 250 * MB
        return Configured(device="cuda:0")

    registry = world.registry()
    with registry.get_or_load(("encoder", 1), load, size_bytes=180 * MB) as handle, handle.clone():
        [model] = registry.list_models()
        assert (model.key, model.kind, model.device, model.config) == (
            ("encoder", 1),
            "Configured",
            "cuda:0",
            ("layers", 2),
        )
        assert (model.size_bytes, model.measured_bytes) == (200 * MB, 200 * MB)
        assert (model.references, model.hits, model.idle_s) == (2, 0, None)
    world.clock.go(3)
    [model] = registry.list_models()
    assert (model.references, model.idle_s) == (0, 3.0)


def test_a_torch_module_is_where_its_first_parameter_is() -> None:
    class Parameter:
        device = "mps:0"

    class Module:
        def parameters(self) -> list[Parameter]:
            return [Parameter()]

    registry = World().registry()
    with registry.get_or_load("module", Module), registry.get_or_load("plain", dict):
        assert [model.device for model in registry.list_models()] == ["mps:0", ""]


def test_the_declared_size_counts_where_it_is_the_larger_one(world: World) -> None:
    registry = world.registry()
    with registry.get_or_load("on a gpu", world.loader("on a gpu", grows=1 * MB), size_bytes=900 * MB):
        [model] = registry.list_models()
        assert (model.size_bytes, model.measured_bytes) == (900 * MB, 1 * MB)


# ---------------------------------------------------------------------------------------------------- handles


@pytest.mark.req("ENT-2", "FR-002")
def test_references_go_up_and_down_by_clone_close_with_and_garbage_collection(world: World) -> None:
    registry = world.registry()
    first = registry.get_or_load("a", world.loader("a"))
    second = first.clone()
    with second.clone():
        assert references(registry, "a") == 3
    assert references(registry, "a") == 2
    second.close()
    second.close()
    assert references(registry, "a") == 1
    del first
    assert references(registry, "a") == 0


@pytest.mark.req("ENT-2")
def test_handles_in_a_cycle_are_given_back_by_the_collector(world: World) -> None:
    class Node:
        def __init__(self, handle: ModelHandle[Model]) -> None:
            self.handle, self.itself = handle, self

    registry = world.registry()
    Node(registry.get_or_load("a", world.loader("a")))
    gc.collect()
    assert references(registry, "a") == 0


@pytest.mark.req("ENT-2")
def test_a_closed_handle_says_so_and_an_open_one_is_typed(world: World) -> None:
    handle = world.registry().get_or_load("a", world.loader("a"))
    assert_type(handle.model, Model)
    assert (handle.key, handle.closed, repr(handle)) == ("a", False, "<ModelHandle of 'a'>")
    handle.close()
    assert (handle.closed, repr(handle)) == (True, "<ModelHandle, closed>")
    uses: list[Callable[[], object]] = [lambda: handle.model, lambda: handle.key, handle.clone, handle.__enter__]
    for use in uses:
        with pytest.raises(InvalidRequest, match="the handle is closed"):
            use()


def test_a_handle_is_cloned_not_copied(world: World) -> None:
    handle = world.registry().get_or_load("a", world.loader("a"))
    with pytest.raises(InvalidRequest, match="cannot be copied"):
        pickle.dumps(handle)


# ---------------------------------------------------------------------------------------------------- leaving


@pytest.mark.req("US1-AS3", "SC-006", "FR-002")
def test_after_the_last_release_a_model_is_unloaded_within_30_s_and_the_object_is_gone(world: World) -> None:
    registry = world.registry()
    first = registry.get_or_load("a", world.loader("a"), unload=world.unload)
    second = first.clone()
    watch = weakref.ref(first.model)
    first.close()
    world.clock.go(1000)
    registry.sweep()
    assert watch() is not None  # it is held
    second.close()
    world.clock.go(10)
    registry.sweep()
    assert keys(registry) == ["a"]
    world.clock.go(19)
    registry.sweep()
    assert watch() is None
    assert (world.unloaded, registry.list_models(), registry.statistics().unloads) == (["a"], [], 1)
    assert registry.statistics().evictions == 0


def test_a_model_that_is_used_again_in_time_stays(world: World) -> None:
    registry = world.registry(idle_s=10)
    for _ in range(5):
        world.use(registry, "a")
        world.clock.go(9)
        registry.sweep()
    assert world.loaded == ["a"]


def test_a_model_that_refers_to_itself_is_gone_too(world: World) -> None:
    class Cyclic:
        def __init__(self) -> None:
            self.itself = self

    registry = world.registry()
    handle = registry.get_or_load("a", Cyclic)
    watch = weakref.ref(handle.model)
    handle.close()
    gc.disable()
    try:
        registry.evict()
        assert watch() is None
    finally:
        gc.enable()


def test_a_model_that_somebody_kept_is_told_of(world: World, caplog: pytest.LogCaptureFixture) -> None:
    registry = world.registry()
    with registry.get_or_load("a", world.loader("a")) as handle:
        kept = handle.model
    registry.evict("a")
    assert kept.name == "a"
    assert "'a' was unloaded, but is still referenced" in caplog.text


def test_an_unload_callback_that_fails_is_logged_and_the_model_goes(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: Model) -> None:
        raise OSError("the device does not answer")

    registry = world.registry()
    registry.get_or_load("a", world.loader("a"), unload=fails).close()
    with caplog.at_level(logging.ERROR):
        assert registry.evict("a") == 1
    assert "the device does not answer" in caplog.text
    assert keys(registry) == []
    world.use(registry, "a")
    assert world.loaded == ["a", "a"]


@pytest.mark.req("FR-010c")
def test_under_manual_a_model_leaves_when_it_is_told_to_and_not_before(world: World) -> None:
    registry = world.registry(policy="manual", limit_bytes=100)
    world.use(registry, "a", 60)
    world.clock.go(1e9)
    registry.sweep()
    with pytest.raises(InsufficientMemory):
        world.use(registry, "b", 60)
    assert keys(registry) == ["a"]
    assert registry.evict() == 1
    assert world.unloaded == ["a"]
    world.use(registry, "b", 60)


def test_what_is_held_or_not_there_is_not_evicted_and_nothing_else_with_it(world: World) -> None:
    registry = world.registry()
    world.use(registry, "idle")
    with registry.get_or_load("held", world.loader("held")):
        with pytest.raises(ModelBusy, match="'held' is in use, references: 1"):
            registry.evict("idle", "held")
        with pytest.raises(ModelNotFound):
            registry.evict("idle", "nobody knows this")
        assert keys(registry) == ["idle", "held"]
        assert registry.evict() == 1
        assert keys(registry) == ["held"]


def test_a_closed_registry_unloads_what_is_idle_now_and_the_rest_as_it_is_given_back(world: World) -> None:
    with world.registry(policy="manual") as registry:
        world.use(registry, "idle")
        handle = registry.get_or_load("held", world.loader("held"), unload=world.unload)
    assert world.unloaded == ["idle"]
    with pytest.raises(InvalidRequest, match="the registry is closed"):
        registry.get_or_load("new", world.loader("new"))
    handle.close()
    registry.sweep()
    assert sorted(world.unloaded) == ["held", "idle"]  # type: ignore[type-var]


# ---------------------------------------------------------------------------------------------------- room


@pytest.mark.req("FR-010a")
def test_under_a_limit_models_leave_in_the_order_in_which_they_were_used(world: World) -> None:
    registry = world.registry(policy="lru", limit_bytes=400)
    for key in "abcd":
        world.use(registry, key, 100)
    for key in "badc":
        world.use(registry, key)
    for key in "wxyz":
        world.use(registry, key, 100)
    assert world.unloaded == list("badc")
    assert registry.statistics().evictions == 4


@pytest.mark.req("FR-010b")
def test_by_reference_count_only_those_leave_that_nobody_holds_the_least_used_first(world: World) -> None:
    registry = world.registry(policy="reference-count", limit_bytes=400)
    for key, uses in (("a", 3), ("b", 1), ("c", 2)):
        for _ in range(uses):
            world.use(registry, key, 100)
    held = [registry.get_or_load(key, world.loader(key), size_bytes=100) for key in "wxyz"]
    assert world.unloaded == ["b", "c", "a"]
    with pytest.raises(InsufficientMemory):
        world.use(registry, "one more", 100)
    assert keys(registry) == [handle.key for handle in held]


def test_the_most_frequent_stay_under_lfu(world: World) -> None:
    registry = world.registry(policy="lfu", limit_bytes=200)
    for key in "abaa":
        world.use(registry, key, 100)
    world.use(registry, "b", 100)
    world.use(registry, "c", 100)
    assert world.unloaded == ["b"]


def test_under_ttl_a_model_has_its_time_and_then_gives_way(world: World) -> None:
    registry = world.registry(policy="ttl", idle_s=20, limit_bytes=100)
    world.use(registry, "a", 60)
    with pytest.raises(InsufficientMemory):
        world.use(registry, "b", 60)
    world.clock.go(20)
    world.use(registry, "b", 60)
    assert world.unloaded == ["a"]


@pytest.mark.req("EDGE-1")
def test_what_cannot_fit_is_refused_before_its_loader_runs_and_nothing_is_evicted_for_it(world: World) -> None:
    registry = world.registry(limit_bytes=100 * MB)
    world.use(registry, "idle", 30 * MB)
    with registry.get_or_load("held", world.loader("held"), size_bytes=40 * MB) as held:
        with pytest.raises(InsufficientMemory, match="'big' needs 70 MB and 30 MB are free: the limit is 100 MB"):
            registry.get_or_load("big", world.loader("big"), size_bytes=70 * MB)
        assert (keys(registry), world.loaded, world.unloaded) == (["idle", "held"], ["idle", "held"], [])
        assert held.model.name == "held"
        with registry.get_or_load("fits", world.loader("fits"), size_bytes=60 * MB):
            assert world.unloaded == ["idle"]


@pytest.mark.req("EDGE-1")
def test_a_real_allocation_beyond_the_limit_is_never_tried() -> None:
    def allocate() -> np.ndarray:
        return np.ones(10**15, dtype=np.uint8)  # would end this process, or fail here

    with ModelRegistry(memory_limit_bytes=500 * MB) as registry, registry.get_or_load("small", Model) as small:
        with pytest.raises(InsufficientMemory):
            registry.get_or_load("a petabyte", allocate, size_bytes=10**15)
        assert small.model.name == "model"
    with ModelRegistry() as registry, pytest.raises(InsufficientMemory, match="the machine has"):
        registry.get_or_load("a petabyte", allocate, size_bytes=10**15)


@pytest.mark.req("EDGE-1")
def test_a_machine_without_room_refuses_too_unless_idle_models_make_it(world: World) -> None:
    registry = world.registry()
    world.use(registry, "idle", 30 * MB)
    world.memory.free = 50 * MB
    with pytest.raises(InsufficientMemory, match="the machine has 50 MB free"):
        world.use(registry, "big", 90 * MB)
    assert world.unloaded == []
    world.use(registry, "smaller", 80 * MB)
    assert world.unloaded == ["idle"]


def test_a_model_that_was_larger_than_declared_counts_as_it_is_and_idle_ones_make_up_for_it(world: World) -> None:
    registry = world.registry(limit_bytes=100 * MB)
    world.use(registry, "idle", 40 * MB)
    with registry.get_or_load("modest", world.loader("modest", grows=90 * MB), size_bytes=10 * MB):
        assert (keys(registry), registry.statistics().size_bytes) == (["modest"], 90 * MB)
        with pytest.raises(InsufficientMemory):
            world.use(registry, "next", 20 * MB)


def test_the_size_of_last_time_is_what_a_model_is_admitted_with(world: World) -> None:
    registry = world.registry(limit_bytes=100 * MB)
    registry.get_or_load("a", world.loader("a", grows=70 * MB)).close()
    registry.evict("a")
    _b = registry.get_or_load("b", world.loader("b"), size_bytes=50 * MB)
    with pytest.raises(InsufficientMemory, match="'a' needs 70 MB"):
        registry.get_or_load("a", world.loader("a"))
    assert world.loaded == ["a", "b"]


# ---------------------------------------------------------------------------------------------------- failures


def test_a_failure_names_the_model_and_its_cause_and_is_not_kept(world: World) -> None:
    def broken() -> Model:
        raise OSError("no such file")

    registry = world.registry(limit_bytes=100)
    with pytest.raises(LoadFailed, match="the loader of 'a' failed: OSError: no such file") as caught:
        registry.get_or_load("a", broken, size_bytes=100)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.context.model_id == "a"
    assert (registry.statistics().failures, registry.statistics().size_bytes) == (1, 0)
    world.use(registry, "a", 100)
    assert world.loaded == ["a"]


def test_errors_of_our_own_pass_as_they_are(world: World) -> None:
    original = ModelNotFound("no such model", model_id="a")

    def absent() -> Model:
        raise original

    with pytest.raises(ModelNotFound) as caught:
        world.registry().get_or_load("a", absent)
    assert caught.value is original


def test_an_interruption_ends_the_load_and_goes_on_to_whoever_interrupted(world: World) -> None:
    def interrupted() -> Model:
        raise KeyboardInterrupt

    registry = world.registry()
    with pytest.raises(KeyboardInterrupt):
        registry.get_or_load("a", interrupted)
    world.use(registry, "a")
    assert world.loaded == ["a"]


def test_a_loader_that_returns_nothing_has_failed(world: World) -> None:
    with pytest.raises(LoadFailed, match="returned None"):
        world.registry().get_or_load("a", lambda: None)


def test_a_loader_that_asks_for_its_own_key_is_told_so(world: World) -> None:
    registry = world.registry()

    def inner() -> object:
        return registry.get_or_load("a", world.loader("a"))

    def outer() -> object:
        return registry.get_or_load("b", inner)

    with pytest.raises(InvalidRequest, match=r"the loader of 'a'.* asks for 'a' itself"):
        registry.get_or_load("a", outer)
    assert keys(registry) == []
    world.use(registry, "a")


def test_a_loader_may_load_what_its_model_is_made_of(world: World) -> None:
    registry = world.registry()

    def load() -> tuple[str, object]:
        return "wrapped", registry.get_or_load("part", world.loader("part"))

    with registry.get_or_load("whole", load):
        assert references(registry, "part") == 1
    registry.evict("whole")
    assert references(registry, "part") == 0


def test_settings_that_make_no_sense_are_refused(world: World) -> None:
    with pytest.raises(InvalidSettings):
        ModelRegistry(memory_limit_bytes=-1)
    with pytest.raises(InvalidRequest):
        world.registry().get_or_load("a", world.loader("a"), size_bytes=-1)
    assert world.registry(timeout_s=math.inf).get_or_load("a", world.loader("a")).key == "a"
