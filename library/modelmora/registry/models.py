"""The registry: one model for many callers, in threads and on event loops."""

import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Hashable
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar, cast, overload

from modelmora.errors import InvalidRequest, InvalidSettings
from modelmora.registry import process
from modelmora.registry.acquiring import Acquiring, Asked
from modelmora.registry.coroutines import is_coroutine
from modelmora.registry.entries import Entry, LoadedModel, Statistics, Unload, listed
from modelmora.registry.growth import Growth
from modelmora.registry.handles import ModelHandle
from modelmora.registry.keeper import Keeper
from modelmora.registry.ledger import Ledger
from modelmora.registry.loading import Loader, Loading
from modelmora.registry.memory import Memory
from modelmora.registry.policies import LRU, Policy, policy_of
from modelmora.registry.unloading import Unloading

T = TypeVar("T")

TIMEOUT_S: Final = 600.0


class MemoryNumbers(Protocol):
    """What the registry asks of the machine, in bytes; None: nobody knows."""

    def own_bytes(self) -> int | None:
        """Memory that only this process uses."""

    def free_bytes(self) -> int | None:
        """What can still be allocated."""


class ModelRegistry:
    """The models that this process has loaded, each of them once, and who holds them.

    `policy` is a name (lru, lfu, ttl, reference-count, manual) or a Policy; `idle_s` replaces its idle time. With
    `memory_limit_bytes`, a model that does not fit is refused before its loader runs. `timeout_s` bounds each wait for
    what others do; a loader itself has the time that it takes. One that is dropped is closed.
    """

    def __init__(
        self,
        *,
        policy: str | Policy = LRU,
        idle_s: float | None = None,
        memory_limit_bytes: int | None = None,
        timeout_s: float = TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
        memory: MemoryNumbers | None = None,
    ) -> None:
        if memory_limit_bytes is not None and memory_limit_bytes < 0:
            raise InvalidSettings(f"memory_limit_bytes is {memory_limit_bytes}", field="memory_limit_bytes")
        memory = memory or Memory()
        self._timeout_s = timeout_s
        self._clock = clock
        self._growth: Growth[Entry] = Growth(memory.own_bytes)
        self._ledger = Ledger(policy_of(policy, idle_s), memory_limit_bytes, clock)
        self._unloading = Unloading(self._ledger, self._growth)
        self._keeper = Keeper(self._ledger, self._unloading.all)
        loading = Loading(self._ledger, self._growth, self._unloading, self._keeper)
        self._acquiring = Acquiring(self._keeper, loading, memory.free_bytes)
        weakref.finalize(self, self._ledger.close)
        process.follow(self)

    # ------------------------------------------------------------------------------------------------ get or load

    def get_or_load(
        self,
        key: Hashable,
        loader: Callable[[], T],
        *,
        size_bytes: int | None = None,
        unload: Callable[[T], object] | None = None,
        timeout_s: float | None = None,
    ) -> ModelHandle[T]:
        """A handle to the model of this key; the loader makes it, unless it is there or another caller is at it.

        `size_bytes` is what it will take; without it, what it took last. `unload` is called with the model when it
        leaves. For a model that is there already, loader, size and callback are those of its first caller.

        Raises:
            InsufficientMemory: it does not fit; its loader was not called.
            LoadFailed: the loader raised; the cause is what it raised. Errors of ModelMora pass as they are.
            DeadlineExceeded: what another caller loads or unloads was not done within `timeout_s`.
            InvalidRequest: the loader asks for its own key, or is a coroutine function; the registry is closed.
        """
        entry = self._ledger.take(key)
        if entry is None:
            if is_coroutine(loader):
                remedy = "use `await aget_or_load(…)`"
                raise InvalidRequest(f"the loader of {key!r} is a coroutine function", field="loader", remedy=remedy)
            entry = self._acquiring.here(self._asked(key, loader, size_bytes, cast("Unload | None", unload), timeout_s))
        return ModelHandle(self._keeper, entry)

    @overload
    async def aget_or_load(
        self,
        key: Hashable,
        loader: Callable[[], Awaitable[T]],
        *,
        size_bytes: int | None = None,
        unload: Callable[[T], object] | None = None,
        timeout_s: float | None = None,
    ) -> ModelHandle[T]: ...

    @overload
    async def aget_or_load(
        self,
        key: Hashable,
        loader: Callable[[], T],
        *,
        size_bytes: int | None = None,
        unload: Callable[[T], object] | None = None,
        timeout_s: float | None = None,
    ) -> ModelHandle[T]: ...

    async def aget_or_load(
        self,
        key: Hashable,
        loader: Loader,
        *,
        size_bytes: int | None = None,
        unload: Callable[[T], object] | None = None,
        timeout_s: float | None = None,
    ) -> ModelHandle[T]:
        """As `get_or_load`, while the event loop goes on: a plain loader runs in a thread, a coroutine on the loop.

        Cancelling a caller ends its wait, not the load. `timeout_s` bounds the wait for one's own load, too.
        """
        entry = self._ledger.take(key)
        if entry is None:
            asked = self._asked(key, loader, size_bytes, cast("Unload | None", unload), timeout_s)
            entry = await self._acquiring.apart(asked)
        return ModelHandle(self._keeper, entry)

    def _asked(
        self, key: Hashable, loader: Loader, size_bytes: int | None, unload: Unload | None, timeout_s: float | None
    ) -> Asked:
        if size_bytes is not None and size_bytes < 0:
            raise InvalidRequest(f"size_bytes is {size_bytes}", model_id=str(key), field="size_bytes")
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        return Asked(key, loader, size_bytes, unload, time.monotonic() + timeout_s)

    # ------------------------------------------------------------------------------------------------ leaving

    def evict(self, *keys: Hashable) -> int:
        """Unloads these models, or all that nobody holds; how many. Returns when they are unloaded.

        Raises:
            ModelNotFound: one of them is not loaded; all stay.
            ModelBusy: one of them is held, or being loaded; all stay.
        """
        entries = self._ledger.evict(keys)
        self._unloading.all(entries)
        return len(entries)

    def sweep(self) -> None:
        """Unloads what has expired, now and here; the registry's own thread does it in time."""
        self._keeper.sweep()

    def close(self) -> None:
        """Unloads what nobody holds, and the rest as it is given back. From now on nothing new is loaded."""
        self._ledger.close()
        self.sweep()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------ what is there

    def list_models(self) -> list[LoadedModel]:
        """The models that are loaded."""
        now = self._clock()
        seen = [listed(entry, candidate, now) for entry, candidate in self._ledger.entries()]
        return [model for model in seen if model is not None]

    def statistics(self) -> Statistics:
        """How often models were asked for, loaded and unloaded, and what is there now."""
        return self._ledger.statistics()

    # ------------------------------------------------------------------------------------------------ forks

    def before_fork(self) -> None:
        """No other thread is in the middle of a change while the process is copied."""
        self._ledger.lock.acquire()

    def after_fork_in_parent(self) -> None:
        """On as before."""
        self._ledger.lock.release()

    def after_fork_in_child(self) -> None:
        """With locks of its own."""
        self._ledger.after_fork()
        self._keeper.after_fork()
        self._growth.after_fork()


class _Default:
    """Made when it is first asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._registry: ModelRegistry | None = None

    def get(self) -> ModelRegistry:
        """The registry that this process shares: LRU, 20 s, no limit but what the machine has."""
        with self._lock:
            if self._registry is None:
                self._registry = ModelRegistry()
            return self._registry


default: Final = _Default().get
