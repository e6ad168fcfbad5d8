"""The whole present state of one kind of object, at once and after every change: list, watch, and list again.

A task a namespace lists and watches; whoever reads gets the newest state, once for any number of changes since.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import structlog

from modelmora.errors import ServerUnavailable
from modelmora.kube.api import FORBIDDEN, GONE, NOT_FOUND, OPENED, Event, Kube, KubeError, Object, Resource

Name: TypeAlias = tuple[str, str]  # namespace, name
State: TypeAlias = Mapping[Name, Object]

_BACKOFF_S: Final = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0)
_WELL_AFTER_S: Final = 1.0  # an attempt that lasted so long may be followed by another at once
_LIST_AGAIN_S: Final = 300.0  # a list tells what no event told; none should be needed
# With a namespace go the rights in it. An API server that has just started may refuse too, for a moment.
_GONE_AFTER_S: Final = 15.0

log = structlog.get_logger(__name__)


@dataclass
class Sight:
    """How well a kind is seen, by namespace; None: all together. Written by `follow_all`; times are monotonic."""

    heard_at: dict[str | None, float] = field(default_factory=dict)
    troubles: dict[str | None, KubeError | ServerUnavailable] = field(default_factory=dict)  # that last

    def seen(self, namespace: str | None) -> None:
        """The API server has answered, and the state stands."""
        self.heard_at[namespace] = time.monotonic()
        self.troubles.pop(namespace, None)


async def follow(
    kube: Kube, resource: Resource, namespace: str | None = None, *, selector: str = ""
) -> AsyncIterator[State]:
    """Until it is cancelled. While the API cannot be reached, or refuses, the last state stands and it is tried again.

    Every list replaces the state, so that no deletion is missed, whatever happened to the watch.
    """
    namespaces = [namespace] if namespace else []
    async for state in follow_all(kube, resource, namespaces, selector=selector):
        yield state


async def follow_all(
    kube: Kube,
    resource: Resource,
    namespaces: Sequence[str] = (),
    *,
    selector: str = "",
    gone_after_s: float = _GONE_AFTER_S,
    optional: bool = False,
    sight: Sight | None = None,
) -> AsyncIterator[State]:
    """As `follow`, of several namespaces together, or of all; first when every one of them is known.

    A namespace that may not be looked into for so long counts as gone, with what is in it, until it may be again.
    Of an `optional` kind there are none where the API server does not know it: at the start at once, later after as
    long, since a server that has just started may not know it for a moment.
    `sight` tells whether the state that stands may be an old one.
    """
    changed = asyncio.Event()
    places: Sequence[str | None] = namespaces or (None,)
    followers = [
        _Follower(kube, resource, place, selector, changed, gone_after_s, optional=optional, sight=sight)
        for place in places
    ]
    tasks = [asyncio.create_task(one.run(), name=f"{resource.plural} of {one.where}") for one in followers]
    for task in tasks:
        task.add_done_callback(lambda _: changed.set())
    try:
        while True:
            await changed.wait()
            changed.clear()
            for task in tasks:
                if task.done():
                    task.result()  # a bug: it must not look like a state that stands
            if all(one.known for one in followers):
                yield merged([one.state for one in followers])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Follower:
    """Keeps `state` as the API server has it, and tells of every change."""

    def __init__(
        self,
        kube: Kube,
        resource: Resource,
        namespace: str | None,
        selector: str,
        changed: asyncio.Event,
        gone_after_s: float,
        *,
        optional: bool = False,
        sight: Sight | None = None,
    ) -> None:
        self._kube = kube
        self._resource = resource
        self._namespace = namespace
        self._selector = selector
        self._changed = changed
        self._gone_after_s = gone_after_s
        self._optional = optional
        self._sight = sight or Sight()
        self._sight.heard_at[namespace] = time.monotonic()
        self._forbidden_since: float | None = None
        self._unknown_since: float | None = None
        self._version = ""  # of the state; empty: list anew
        self._listed_at = 0.0
        self._complaint = ""
        self.state: dict[Name, Object] = {}
        self.known = False

    @property
    def where(self) -> str:
        return self._namespace or "all namespaces"

    async def run(self) -> None:
        attempt = 0
        while True:
            begun = time.monotonic()
            try:
                await self._follow()
                attempt = 0
            except (KubeError, ServerUnavailable) as error:
                attempt = 0 if time.monotonic() - begun > _WELL_AFTER_S else attempt + 1
                self._take(error)
                # The first break costs no time: a server that restarts, and a version that is too old, are everyday.
                if attempt > 1 or isinstance(error, ServerUnavailable):
                    await asyncio.sleep(_BACKOFF_S[min(max(attempt - 1, 0), len(_BACKOFF_S) - 1)])

    async def _follow(self) -> None:
        """One watch from its beginning to its end, after a list where one is needed."""
        if not self._version or time.monotonic() - self._listed_at > _LIST_AGAIN_S:
            await self._list()
        watch = self._kube.watch(
            self._resource, self._namespace, selector=self._selector, resource_version=self._version
        )
        async for event in watch:
            if event.type != OPENED:
                self._take_event(event)
            self._well()
        self._well()

    async def _list(self) -> None:
        listed = await self._kube.list(self._resource, self._namespace, selector=self._selector)
        self.state = {name_of(item): item for item in listed.items}
        self._version, self._listed_at, self.known = listed.resource_version, time.monotonic(), True
        self._forbidden_since = self._unknown_since = None
        self._well()
        self._changed.set()

    def _take_event(self, event: Event) -> None:
        self._version = event.object["metadata"]["resourceVersion"]
        if event.type != "BOOKMARK":
            self._change(event.type, event.object)

    def _change(self, kind: str, item: Object) -> None:
        if kind == "DELETED":
            self.state.pop(name_of(item), None)
        else:
            self.state[name_of(item)] = item
        self._changed.set()

    def _take(self, error: KubeError | ServerUnavailable) -> None:
        if isinstance(error, KubeError):
            self._version = ""  # what it refused may be this version; a list is always allowed
            if error.status == GONE:
                return
        self._sight.troubles[self._namespace] = error
        forbidden = isinstance(error, KubeError) and error.status == FORBIDDEN
        self._count_as_gone(forbidden=forbidden)
        self._count_as_unknown(unknown=isinstance(error, KubeError) and error.status == NOT_FOUND)
        # Told once, not at every attempt; the words of a refusal differ between a list and a watch.
        if (complaint := "forbidden" if forbidden else str(error)) != self._complaint:
            self._complaint = complaint
            log.warning(
                "cannot follow", resource=self._resource.plural, where=self.where, cause=str(error),
                remedy=_remedy(error, self._resource, self._namespace),
            )  # fmt: skip

    def _count_as_gone(self, *, forbidden: bool) -> None:
        if not forbidden or self._namespace is None:
            self._forbidden_since = None
            return
        now = time.monotonic()
        self._forbidden_since = self._forbidden_since or now
        if now - self._forbidden_since >= self._gone_after_s:
            self._there_is_nothing()

    def _count_as_unknown(self, *, unknown: bool) -> None:
        if not unknown or not self._optional:
            self._unknown_since = None
            return
        now = time.monotonic()
        self._unknown_since = self._unknown_since or now
        if not self.state or now - self._unknown_since >= self._gone_after_s:
            self._there_is_nothing()

    def _there_is_nothing(self) -> None:
        self._sight.seen(self._namespace)
        if self.state or not self.known:
            self.state, self.known = {}, True
            self._changed.set()

    def _well(self) -> None:
        self._sight.seen(self._namespace)
        if self._complaint:
            self._complaint = ""
            log.info("follows again", resource=self._resource.plural, where=self.where, objects=len(self.state))


def _remedy(error: KubeError | ServerUnavailable, resource: Resource, namespace: str | None) -> str:
    if isinstance(error, ServerUnavailable):
        return error.context.remedy
    if error.status == NOT_FOUND and resource.group:
        return f"install the definition of {resource.kind}: kubectl apply --server-side -f crds/"
    right = f"allow this service account to list and watch {resource.plural}"
    if error.status == FORBIDDEN and namespace:
        return f"{right} there; if the namespace was deleted, take it off those that are watched: it counts as gone"
    return right


def name_of(item: Object) -> Name:
    """Its identity."""
    metadata = item["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def merged(states: Sequence[State]) -> State:
    """Those of several namespaces together; a copy."""
    return {name: item for state in states for name, item in state.items()}
