"""What a cluster holds of ours, as far as it has been told, and of which deployments something has changed.

Watches, lists and the answers to our own writes all end here; nothing here asks anybody. Used from one event loop.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from typing import Any, Final

from modelmora.control import Demands, Key, Trips
from modelmora.kube import names
from modelmora.kube.api import DEPLOYMENTS, LEASES, PODS, Listed, Resource
from modelmora.kube.following import Name, name_of
from modelmora.spec import ModelDeployment
from modelmora.watching import Cell
from modelmora_operator.backends import demands, router_leases, stored_deployments
from modelmora_operator.backends.router_leases import Routers
from modelmora_operator.backends.store import Store
from modelmora_operator.backends.stored_deployments import Unreadable
from modelmora_operator.duplicates import Identity, identity

Pod = Mapping[str, Any]

_COMPONENTS: Final = {PODS: names.WORKER, LEASES: names.ROUTER_DEMAND}


class ClusterView:
    """`pod_changed` is called with every pod that came, changed or (None) went, and its deployment's key."""

    def __init__(
        self, pod_changed: Callable[[Key, Name, Pod | None], None] = lambda *_: None, *, sharing: bool = False
    ) -> None:
        self._sharing = sharing
        self.deployments: Store[ModelDeployment | Unreadable] = Store(stored_deployments.read, self._deployment_changed)
        self.pods: Store[Pod] = Store(lambda pod: pod, self._pod_changed)
        self.routers = Routers()
        self.demands: Demands = {}
        self.trips: Cell[Trips] = Cell()  # what routers rolled back
        self.deployment_changes: Cell[int] = Cell()  # how many there have been
        self.synced = asyncio.Event()  # all of it has been listed once
        self._told_pod_changed = pod_changed
        self._pods: dict[Key, dict[str, Pod]] = {}
        self._lost: dict[Key, dict[str, str]] = {}
        self._twins: dict[Identity, set[Key]] = {}
        self._closed: set[str] = set()
        self._changed: dict[Key, None] = {}  # in order, each once
        self._something_changed = asyncio.Event()

    # -------------------------------------------------------------------------------------------- asked

    def deployment(self, key: Key) -> ModelDeployment | Unreadable | None:
        """None: there is none, or it is being deleted."""
        found = self.deployments[_name(key)]
        going = isinstance(found, ModelDeployment) and found.metadata.deletion_timestamp is not None
        return None if going else found

    def closed(self, namespace: str) -> bool:
        """What it holds is not known."""
        return namespace in self._closed

    def pods_of(self, key: Key) -> Mapping[str, Pod]:
        """By name."""
        return self._pods.get(key, {})

    def lost_of(self, key: Key) -> Mapping[str, str]:
        """Pods that went out of sight though nobody was deleting them: uid by name. Gone at once, or without labels."""
        return self._lost.get(key, {})

    def twins_of(self, key: Key, deployment: ModelDeployment) -> tuple[ModelDeployment, ...]:
        """Others that have the same identity."""
        others = (self.deployment(other) for other in self._twins.get(identity(deployment), ()) if other != key)
        return tuple(other for other in others if isinstance(other, ModelDeployment))

    def known_keys(self) -> Collection[Key]:
        """Of which there is a deployment or a pod; nothing is known before everything is."""
        if not self.synced.is_set():
            return ()
        known = {Key(*name) for name in self.deployments} | self._pods.keys()
        return {key for key in known if key.namespace not in self._closed} if self._closed else known

    async def changes(self) -> AsyncIterator[Key]:
        """All known keys once everything is known, then every one about which something changed."""
        await self.synced.wait()
        self.mark(*self.known_keys())
        while True:
            while self._changed:
                key = next(iter(self._changed))
                del self._changed[key]
                yield key
            self._something_changed.clear()
            await self._something_changed.wait()

    # -------------------------------------------------------------------------------------------- told

    def mark(self, *keys: Key) -> None:
        """Something changed about these."""
        self._changed.update(dict.fromkeys(keys))
        self._something_changed.set()

    def heard(self, resource: Resource, kind: str | None, item: Mapping[str, Any], now: float) -> None:
        """One event of a watch; `kind` is None for what the watch began with. `now` is monotonic."""
        if resource is LEASES:
            gone = kind == "DELETED"
            lease = None if gone else item
            self.set_routers(router_leases.heard(self.routers, item["metadata"]["name"], lease, now))
            return
        store: Store[Any] = self.deployments if resource is DEPLOYMENTS else self.pods
        if kind == "DELETED":
            store.remove(name_of(dict(item)), str(item["metadata"].get("uid") or ""))
        else:
            store.put(item)

    def listed(self, resource: Resource, namespace: str | None, listed: Listed) -> int:
        """A complete list; the answer is how many objects were not known so."""
        store: Store[Any] = self.deployments if resource is DEPLOYMENTS else self.pods
        return store.replace(listed, lambda name: namespace is None or name[0] == namespace)

    def withdraw(self, namespace: str) -> None:
        """A namespace cannot be read: it is gone with our rights in it, or they were taken. Nothing there is ours.

        Until it is opened again, nothing is done there: half of what it holds would look like orphans.
        """
        self._closed.add(namespace)
        for store in (self.deployments, self.pods):
            store.withdraw(lambda name: name[0] == namespace)

    def open_all_but(self, namespaces: Collection[str]) -> None:
        """All else has been listed, deployments and pods."""
        opened, self._closed = self._closed.difference(namespaces), set(namespaces)
        self.mark(*(key for key in self.known_keys() if key.namespace in opened))

    def found(self, key: Key, name: str) -> None:
        """It is known what became of a lost pod."""
        lost = self._lost.get(key, {})
        lost.pop(name, None)
        if not lost:
            self._lost.pop(key, None)

    def set_routers(self, routers: Routers) -> None:
        """After the Leases were read or heard of."""
        before, was_alive = self.demands, self.routers.alive
        self.routers, self.demands = routers, routers.demands
        self.trips.set(routers.trips)
        if routers.alive != was_alive:
            self.mark(*self.known_keys())
        else:
            self.mark(*demands.moved(before, self.demands, sharing=self._sharing))

    # -------------------------------------------------------------------------------------------- derived

    def _deployment_changed(
        self, name: Name, before: ModelDeployment | Unreadable | None, now: ModelDeployment | Unreadable | None
    ) -> None:
        self.deployment_changes.set((self.deployment_changes.value or 0) + 1)
        key = Key(*name)
        old, new = _identity(before), _identity(now)
        related = [*self._twins.get(old, ()), *self._twins.get(new, ())] if old and new else []
        if old != new:
            related = [*_of(self._twins, old), *_of(self._twins, new)]
            if old:
                self._twins[old].discard(key)
            if new:
                self._twins.setdefault(new, set()).add(key)
            if old and not self._twins[old]:
                del self._twins[old]
        self.mark(key, *(related if old != new or _turned(before, now) else ()))

    def _pod_changed(self, name: Name, before: Pod | None, now: Pod | None) -> None:
        for pod in (before, now):
            if pod is not None and (key := key_of(pod)):
                self._pods.setdefault(key, {}).pop(name[1], None)
        if now is not None and (key := key_of(now)):
            self._pods[key][name[1]] = now
        for key in {key_of(pod) for pod in (before, now) if pod is not None} - {None}:
            if key is not None:
                self._drop_if_empty(key)
                self._note_if_lost(key, name[1], before, now)
                self._told_pod_changed(key, name, self.pods_of(key).get(name[1]))
                self.mark(key)

    def _note_if_lost(self, key: Key, name: str, before: Pod | None, now: Pod | None) -> None:
        if now is not None:  # a namespace was opened again
            self.found(key, name)
        elif before is not None and "deletionTimestamp" not in before["metadata"]:
            self._lost.setdefault(key, {})[name] = str(before["metadata"].get("uid") or "")

    def _drop_if_empty(self, key: Key) -> None:
        if not self._pods.get(key):
            self._pods.pop(key, None)


def key_of(pod: Pod) -> Key | None:
    """Of the deployment that it was made for; None: it is none of ours."""
    metadata = pod["metadata"]
    labelled = (metadata.get("labels") or {}).get(names.DEPLOYMENT)
    owner = owner_of(pod)
    name = owner["name"] if owner else labelled  # labels can be edited by hand
    return Key(metadata.get("namespace", ""), name) if name else None


def owner_of(pod: Pod) -> Mapping[str, Any] | None:
    """The reference to the ModelDeployment that controls it."""
    references: Iterable[Mapping[str, Any]] = pod["metadata"].get("ownerReferences") or ()
    ours = (one for one in references if one.get("kind") == DEPLOYMENTS.kind and one.get("controller"))
    return next(ours, None)


def selector_of(resource: Resource) -> str:
    """Which objects of the kind are ours."""
    component = _COMPONENTS.get(resource)
    return f"{names.COMPONENT}={component}" if component else ""


def is_selected(resource: Resource, item: Mapping[str, Any]) -> bool:
    """Whether a watch or a list of ours tells of it."""
    labels = item["metadata"].get("labels") or {}
    return resource not in _COMPONENTS or labels.get(names.COMPONENT) == _COMPONENTS[resource]


def _name(key: Key) -> Name:
    return key.namespace, key.name


def _identity(of: ModelDeployment | Unreadable | None) -> Identity | None:
    return identity(of) if isinstance(of, ModelDeployment) else None


def _of(twins: Mapping[Identity, set[Key]], one: Identity | None) -> Iterable[Key]:
    return twins.get(one, ()) if one else ()


def _turned(before: ModelDeployment | Unreadable | None, now: ModelDeployment | Unreadable | None) -> bool:
    """It began to be deleted, or became another object of the same name."""
    if not isinstance(before, ModelDeployment) or not isinstance(now, ModelDeployment):
        return True
    old, new = before.metadata, now.metadata
    return (old.uid, old.deletion_timestamp) != (new.uid, new.deletion_timestamp)
