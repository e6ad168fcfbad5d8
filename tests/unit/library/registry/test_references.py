"""Counts are exact and nobody loses a model that it holds: against a model of the registry, and in many threads."""

import gc
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from modelmora.errors import InsufficientMemory, ModelBusy, ModelNotFound
from modelmora.registry import LRU, POLICIES, ModelHandle, ModelRegistry, Policy
from modelmora.registry.ledger import Ledger
from tests.support.registries import DEADLINE_S, Clock, Model, World

LIMIT = 100
IDLE_S = 20.0
KEYS = st.sampled_from("abcde")


class RegistryAgainstModel(RuleBasedStateMachine):
    """What is held stays and is the same object; counts are those of the handles; the limit holds."""

    handles = Bundle("handles")
    policy = "lru"

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.registry = self.world.registry(policy=self.policy, limit_bytes=LIMIT)
        self.held: list[ModelHandle[Model]] = []

    def counts(self) -> Counter[str]:
        return Counter(str(handle.key) for handle in self.held)

    @rule(target=handles, key=KEYS, size=st.integers(0, 60))
    def get(self, key: str, size: int) -> object:
        before = {model.key: model for model in self.registry.list_models()}
        idle = sum(model.size_bytes for model in before.values() if not model.references)
        taken = sum(model.size_bytes for model in before.values())
        try:
            handle = self.registry.get_or_load(key, self.world.loader(key), size_bytes=size, unload=self.world.unload)
        except InsufficientMemory:
            assert key not in before
            assert [model.key for model in self.registry.list_models()] == list(before)
            keeps = POLICIES[self.policy].keeps
            assert taken + size > LIMIT if keeps else taken - idle + size > LIMIT
            return multiple()
        self.held.append(handle)
        return handle

    @rule(target=handles, handle=handles)
    def clone(self, handle: ModelHandle[Model]) -> object:
        if handle.closed:
            return multiple()
        self.held.append(handle.clone())
        return self.held[-1]

    @rule(handle=handles)
    def close(self, handle: ModelHandle[Model]) -> None:
        handle.close()
        self.held = [other for other in self.held if other is not handle]

    @rule(handle=consumes(handles))
    def close_twice(self, handle: ModelHandle[Model]) -> None:
        handle.close()
        handle.close()
        self.held = [other for other in self.held if other is not handle]

    @rule(key=KEYS)
    def get_and_drop(self, key: str) -> None:
        if key in {model.key for model in self.registry.list_models()}:
            self.registry.get_or_load(key, self.world.loader(key))

    @rule(seconds=st.floats(0, 30))
    def wait(self, seconds: float) -> None:
        self.world.clock.go(seconds)
        self.registry.sweep()

    @rule(key=KEYS)
    def evict(self, key: str) -> None:
        there = {model.key for model in self.registry.list_models()}
        try:
            self.registry.evict(key)
        except ModelBusy:
            assert self.counts()[key]
        except ModelNotFound:
            assert key not in there
        else:
            assert not self.counts()[key]

    @invariant()
    def counts_are_exact_and_what_is_held_is_there(self) -> None:
        models = {model.key: model for model in self.registry.list_models()}
        counts = self.counts()
        assert {key: model.references for key, model in models.items() if model.references} == dict(counts)
        for key in counts:
            assert len({id(handle.model) for handle in self.held if handle.key == key}) == 1

    @invariant()
    def the_limit_holds_and_what_was_loaded_is_there_or_was_unloaded(self) -> None:
        models = [model.key for model in self.registry.list_models()]
        assert self.registry.statistics().size_bytes <= LIMIT
        assert Counter(self.world.loaded) == Counter(self.world.unloaded) + Counter(models)

    @invariant()
    def nothing_is_idle_for_longer_than_it_may(self) -> None:
        if self.policy != "manual":
            assert all((model.idle_s or 0) <= IDLE_S for model in self.registry.list_models())

    def teardown(self) -> None:
        for handle in self.held:
            handle.close()
        self.registry.close()
        assert Counter(self.world.loaded) == Counter(self.world.unloaded)


class UnderTtl(RegistryAgainstModel):
    policy = "ttl"


class UnderManual(RegistryAgainstModel):
    policy = "manual"


class ByReferenceCount(RegistryAgainstModel):
    policy = "reference-count"


BRIEF = settings(max_examples=25, stateful_step_count=30, deadline=None)
SHOWN = pytest.mark.req("FR-001", "FR-002", "FR-010a", "FR-010b", "FR-010c", "EDGE-1")
TestUnderLru = SHOWN(RegistryAgainstModel.TestCase)
TestUnderLru.settings = BRIEF
TestUnderTtl = SHOWN(UnderTtl.TestCase)
TestUnderTtl.settings = BRIEF
TestUnderManual = SHOWN(UnderManual.TestCase)
TestUnderManual.settings = BRIEF
TestByReferenceCount = SHOWN(ByReferenceCount.TestCase)
TestByReferenceCount.settings = BRIEF


# ---------------------------------------------------------------------------------------------------- threads


def acquire_and_release(registry: ModelRegistry, seed: int, times: int, held: Counter[str]) -> None:
    """At random: takes, clones, closes twice, or drops; what is left in the end is in `held`."""
    source = random.Random(seed)
    handles: list[ModelHandle[Model]] = []
    for _ in range(times):
        if handles and source.random() < 0.5:
            handle = handles.pop(source.randrange(len(handles)))
            if source.random() < 0.7:
                handle.close()
                handle.close()
            del handle  # or the garbage collector's way
        elif handles and source.random() < 0.3:
            handles.append(handles[-1].clone())
        else:
            key = source.choice("abc")
            handles.append(registry.get_or_load(key, lambda key=key: Model(key)))  # type: ignore[misc]  # bound now
    held.update(str(handle.key) for handle in handles)
    KEPT.append(handles)


KEPT: list[list[ModelHandle[Model]]] = []


@pytest.mark.req("FR-002")
def test_after_10_000_random_steps_in_32_threads_the_counts_are_those_of_the_handles() -> None:
    registry, held = ModelRegistry(policy="manual"), [Counter[str]() for _ in range(32)]
    with ThreadPoolExecutor(32) as pool:
        done = [pool.submit(acquire_and_release, registry, seed, 10_000 // 32, held[seed]) for seed in range(32)]
        for future in done:
            future.result(DEADLINE_S)
    left = sum(held, Counter[str]())
    assert {model.key: model.references for model in registry.list_models()} == dict(left)
    assert registry.statistics().misses == 3
    KEPT.clear()
    gc.collect()
    assert [model.references for model in registry.list_models()] == [0, 0, 0]
    registry.close()


@pytest.mark.req("FR-001", "FR-010b")
def test_while_threads_take_and_others_evict_nobody_sees_a_model_that_left() -> None:
    alive: Counter[str] = Counter()
    most: Counter[str] = Counter()
    counting = threading.Lock()

    def load() -> Model:
        with counting:
            alive["model"] += 1
            most["model"] = max(most["model"], alive["model"])
        return Model("model")

    def unload(model: Model) -> None:
        with counting:
            alive["model"] -= 1
        model.name = "unloaded"

    registry, over = ModelRegistry(policy="manual"), threading.Event()

    def use() -> None:
        for _ in range(500):
            with registry.get_or_load("model", load, unload=unload) as handle:
                assert handle.model.name == "model"

    def evict() -> None:
        while not over.is_set():
            registry.evict()

    with ThreadPoolExecutor(10) as pool:
        evicting = [pool.submit(evict) for _ in range(2)]
        for future in [pool.submit(use) for _ in range(8)]:
            future.result(DEADLINE_S)
        over.set()
        for future in evicting:
            future.result(DEADLINE_S)
    assert most["model"] == 1
    statistics = registry.statistics()
    assert (statistics.hits + statistics.misses, statistics.references) == (4000, 0)
    assert statistics.misses == statistics.unloads + statistics.models
    registry.close()


def test_a_handle_that_the_collector_drops_inside_of_the_lock_stops_nothing() -> None:
    """The collector may run at any allocation, also in a thread that has the ledger's lock: here it does."""
    world = World()
    policy = Policy("collecting", lambda model, now: gc.collect() * 0.0)
    registry = world.registry(policy=policy, limit_bytes=100)
    world.use(registry, "idle", 50)
    cycle: list[object] = [registry.get_or_load("dropped", world.loader("dropped"), size_bytes=50)]
    cycle.append(cycle)
    gc.disable()
    try:
        del cycle
        thread = threading.Thread(target=lambda: world.use(registry, "new", 50), daemon=True)
        thread.start()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
    finally:
        gc.enable()
    assert {model.key: model.references for model in registry.list_models()} == {"dropped": 0, "new": 0}


def test_who_settles_does_not_take_away_what_wakes_the_keeper() -> None:
    """Else a model that was dropped would wait for ever, if somebody asked for the statistics at the wrong moment."""
    ledger = Ledger(LRU, None, Clock())
    entry = ledger.claim("a", None, None, None).entry
    ledger.loaded(entry, Model(), {})
    ledger.give_back(entry)
    assert ledger.statistics().references == 0
    assert ledger.wait(0)
    assert not ledger.wait(0)
    for _ in range(3):
        ledger.wake()
    assert ledger.entries()
    assert [ledger.wait(0), ledger.wait(0)] == [True, False]
