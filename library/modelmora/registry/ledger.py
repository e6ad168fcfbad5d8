"""Who holds what: the one owner of all references, under one lock that is held for microseconds.

Under the lock nothing waits and nothing does I/O, and of foreign code only a policy's rank is called. An entry is in
one of three tables: it is being loaded, it is ready, or it is leaving. Whoever joins a load has its reference from then
on, so that what it waits for cannot leave before it wakes.

The garbage collector gives handles back at any moment and in any thread, perhaps in one that has this lock. So it puts
them into a queue that needs none, and they are counted before anything is decided or shown.
"""

import math
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Final

from modelmora.errors import InvalidRequest, ModelBusy, ModelMoraError, ModelNotFound
from modelmora.registry import policies
from modelmora.registry.admission import Room, making_room, refusal
from modelmora.registry.entries import Claim, Entry, Statistics, Unload, begun
from modelmora.registry.policies import Candidate, Policy

_SIZES_KEPT: Final = 1024  # keys whose size is remembered when they have left


class Ledger:
    """The models of one registry and the references to them."""

    def __init__(self, policy: Policy, limit_bytes: int | None, clock: Callable[[], float]) -> None:
        self.lock = threading.Lock()
        self.closed = False
        self._ready: dict[Hashable, Entry] = {}
        self._loading: dict[Hashable, Entry] = {}
        self._leaving: dict[Hashable, Entry] = {}
        self._sizes: OrderedDict[Hashable, int] = OrderedDict()  # when last loaded
        self._returned: deque[Entry] = deque()
        self._wakes: SimpleQueue[None] = SimpleQueue()  # not in one queue: whoever settles would take them, too
        self._policy = policy
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._counted = Statistics()
        self._looks_at = math.inf  # when `expire` is called next

    # ------------------------------------------------------------------------------------------------ references

    def take(self, key: Hashable) -> Entry | None:
        """The model with one more reference, if it is ready: the way of every hit."""
        with self.lock:
            entry = self._ready.get(key)
            if entry is not None:
                entry.references += 1
                entry.hits += 1
        return entry

    def joined(self, entry: Entry) -> None:
        """A caller got the model whose load it had waited for."""
        with self.lock:
            entry.hits += 1

    def release(self, entry: Entry) -> bool:
        """One reference less; whether `expire` has to be called earlier for it than it would be."""
        with self.lock:
            return self._release(entry)

    def give_back(self, entry: Entry) -> None:
        """As `release`, a little later: without the lock, for the garbage collector."""
        self._returned.append(entry)
        self.wake()

    def _release(self, entry: Entry) -> bool:
        entry.references -= 1
        if entry.references or self._ready.get(entry.key) is not entry:
            return False
        entry.idle_since = self._clock()
        expires_at = self._policy.expires_at(entry.seen())
        sooner, self._looks_at = expires_at < self._looks_at, min(expires_at, self._looks_at)
        return sooner

    def _settle(self) -> None:
        while self._returned:
            self._release(self._returned.popleft())

    def wake(self) -> None:
        """Ends a `wait`, the next one if nobody waits. May be called from a finalizer."""
        if self._wakes.empty():
            self._wakes.put(None)

    def wait(self, timeout_s: float) -> bool:
        """Until somebody calls `wake`, or gave a handle back since the last time; whether that was so."""
        try:
            self._wakes.get(timeout=timeout_s)
        except Empty:
            return False
        return True

    # ------------------------------------------------------------------------------------------------ loads

    def claim(self, key: Hashable, declared_bytes: int | None, unload: Unload | None, free_bytes: int | None) -> Claim:
        """What to do about a model that was not ready a moment ago.

        Raises:
            InsufficientMemory: it does not fit, even if all leave that may; nothing has changed.
            InvalidRequest: the registry is closed.
        """
        with self.lock:
            self._settle()
            if entry := self._leaving.get(key):
                return Claim(entry, gone=True)
            if entry := self._ready.get(key) or self._loading.get(key):
                entry.references += 1
                return Claim(entry)
            if self.closed:
                raise InvalidRequest("the registry is closed", field="registry", remedy="make a new one")
            needed_bytes = self._sizes.get(key, 0) if declared_bytes is None else declared_bytes
            leaving = self._room_for(key, needed_bytes, free_bytes)
            return self._admit(Entry(key, declared_bytes, unload, needed_bytes, references=1), leaving)

    def _room_for(self, key: Hashable, needed_bytes: int, free_bytes: int | None) -> list[Candidate]:
        models = self._models()
        promised = sum(entry.size_bytes for entry in self._loading.values())
        free_bytes = None if free_bytes is None else free_bytes - promised
        room = Room(promised + sum(model.size_bytes for model in models), self._limit_bytes, free_bytes)
        order = policies.leaving_order(self._policy, models, self._clock())
        leaving, missing_bytes = making_room(room.missing_bytes(needed_bytes), order)
        if missing_bytes:
            raise refusal(key, needed_bytes, room, models)
        return leaving

    def _admit(self, entry: Entry, leaving: Iterable[Candidate]) -> Claim:
        awaited = list(self._leaving.values())
        self._loading[entry.key] = entry
        self._count(misses=1)
        return Claim(entry, mine=True, leaving=self._begin_leaving(leaving, evicted=True), awaited=awaited)

    def loaded(self, entry: Entry, model: object, measured: Mapping[Entry, int]) -> None:
        """A load is over and well; `measured` are its bytes, and anew those of loads that overlapped with it."""
        with self.lock:
            self._settle()
            entry.model, entry.loaded_at = model, self._clock()
            self._loading.pop(entry.key, None)
            self._ready[entry.key] = entry
            for one, size_bytes in measured.items():
                self._note_size(one, size_bytes)
            if not entry.references:  # nobody waited to the end
                entry.idle_since = entry.loaded_at
        entry.step.set_result(None)

    def _note_size(self, entry: Entry, measured_bytes: int) -> None:
        entry.measured_bytes = measured_bytes
        entry.size_bytes = max(measured_bytes, entry.declared_bytes or 0)
        self._sizes[entry.key] = measured_bytes
        self._sizes.move_to_end(entry.key)
        if len(self._sizes) > _SIZES_KEPT:
            self._sizes.popitem(last=False)

    def failed(self, entry: Entry, failure: ModelMoraError) -> None:
        """A load is over and failed: all who wait for it hear why, the next who asks tries anew."""
        with self.lock:
            self._loading.pop(entry.key, None)
            self._count(failures=1)
        self._ended(entry, failure)

    # ------------------------------------------------------------------------------------------------ leaving

    def expire(self) -> tuple[list[Entry], float]:
        """Begins to unload those whose time is over; and in how many seconds to look again."""
        with self.lock:
            self._settle()
            models, now = self._models(), self._clock()
            self._looks_at = policies.next_expiry(self._policy, models, now)
            return self._begin_leaving(policies.expired(self._policy, models, now)), self._looks_at - now

    def shrink(self) -> list[Entry]:
        """Begins to unload what is over the limit, as far as it may leave: a model was larger than was said."""
        with self.lock:
            self._settle()
            models = self._models()
            room = Room(sum(model.size_bytes for model in models), self._limit_bytes)
            order = policies.leaving_order(self._policy, models, self._clock())
            return self._begin_leaving(making_room(room.missing_bytes(0), order)[0], evicted=True)

    def evict(self, keys: Sequence[Hashable]) -> list[Entry]:
        """Begins to unload these; without keys, all that nobody holds.

        Raises:
            ModelNotFound: one of them is not loaded; all stay.
            ModelBusy: one of them is held; all stay.
        """
        with self.lock:
            self._settle()
            for key in keys:
                self._must_be_idle(key)
            chosen = [model for model in self._models() if model.key in keys or not keys]
            return self._begin_leaving([model for model in chosen if not model.references], evicted=True)

    def _must_be_idle(self, key: Hashable) -> None:
        entry = self._ready.get(key) or self._loading.get(key)
        if entry is None:
            raise ModelNotFound(f"{key!r} is not loaded", model_id=str(key))
        if entry.references or key in self._loading:
            held = f"{key!r} is in use, references: {entry.references}"
            raise ModelBusy(held, model_id=str(key), remedy="close its handles first")

    def _begin_leaving(self, models: Iterable[Candidate], *, evicted: bool = False) -> list[Entry]:
        entries = [self._ready.pop(model.key) for model in models]
        for entry in entries:
            entry.step, entry.thread = begun(), threading.get_ident()
            self._leaving[entry.key] = entry
        count, hits = len(entries), sum(entry.hits for entry in entries)
        self._count(unloads=count, evictions=count if evicted else 0, hits=hits)
        return entries

    def left(self, entry: Entry) -> None:
        """It is unloaded: whoever waited for that may load it again."""
        with self.lock:
            self._leaving.pop(entry.key, None)
        self._ended(entry)

    def _ended(self, entry: Entry, failure: ModelMoraError | None = None) -> None:
        entry.step.set_result(failure)
        if self.closed:
            self.wake()  # it may have been the last

    def close(self) -> None:
        """Nothing new is loaded, and what is idle has expired. Without the lock, so that a finalizer may call it."""
        self.closed, self._policy = True, replace(self._policy, idle_s=0.0)
        self.wake()

    @property
    def over(self) -> bool:
        """It is closed, and nothing is left in it."""
        return self.closed and not (self._ready or self._loading or self._leaving)

    # ------------------------------------------------------------------------------------------------ what is there

    def entries(self) -> list[tuple[Entry, Candidate]]:
        """What is loaded, with its numbers at this moment."""
        with self.lock:
            self._settle()
            return [(entry, entry.seen()) for entry in self._ready.values()]

    def statistics(self) -> Statistics:
        """Everything that was counted, and what is there now."""
        with self.lock:
            self._settle()
            there = [*self._ready.values(), *self._loading.values()]
            return replace(
                self._counted,
                models=len(self._ready),
                loading=len(self._loading),
                references=sum(entry.references for entry in there),
                size_bytes=sum(entry.size_bytes for entry in there),
                hits=self._counted.hits + sum(entry.hits for entry in self._ready.values()),
            )

    def _models(self) -> list[Candidate]:
        return [entry.seen() for entry in self._ready.values()]

    def _count(self, **more: int) -> None:
        self._counted = replace(self._counted, **{name: getattr(self._counted, name) + n for name, n in more.items()})

    # ------------------------------------------------------------------------------------------------ forks

    def after_fork(self) -> None:
        """In the child, forked while the lock was held: what other threads load or unload, nobody does here."""
        self.lock = threading.Lock()
        self._wakes = SimpleQueue()
        for table in (self._loading, self._leaving):
            for entry in [entry for entry in table.values() if entry.thread != threading.get_ident()]:
                del table[entry.key]
