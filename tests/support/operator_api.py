"""A Kubernetes API in memory: it stores what it is given as a server does, and refuses what a test tells it to."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from modelmora.errors import ServerUnavailable
from modelmora.kube.api import CONFLICT, DEPLOYMENTS, NOT_FOUND, PODS, Kube, KubeError, Listed, Object, Resource
from modelmora.spec import ModelDeployment
from tests.support.operator_pods import moment
from tests.support.operator_values import NOW


class FakeKube(Kube):
    """The port, without a wire. Every object has a uid and a version that grows with each write of anything."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.writes: list[tuple[str, str, str]] = []  # verb, kind, name
        self.refusals: dict[tuple[str, str], KubeError | ServerUnavailable] = {}  # by verb and kind
        self.closed: dict[str, KubeError] = {}  # namespaces that cannot be listed
        self._versions = itertools.count(1)

    # what a test does

    def put(self, resource: Resource, body: Object) -> Object:
        """As somebody else writes it."""
        metadata = {"namespace": "default", "creationTimestamp": moment(NOW), **body["metadata"]}
        stored = {**body, "kind": resource.kind, "metadata": metadata}
        stored["metadata"].setdefault("uid", f"uid-{next(self._versions)}")
        stored["metadata"]["resourceVersion"] = str(next(self._versions))
        self.objects[resource.plural, metadata["namespace"], metadata["name"]] = stored
        return stored

    def put_deployment(self, of: ModelDeployment) -> Object:
        return self.put(DEPLOYMENTS, of.manifest())

    def change(self, resource: Resource, name: str, **parts: Any) -> Object:
        """Replaces parts of an object at its top level."""
        return self.put(resource, {**self.objects[resource.plural, "default", name], **parts})

    def gone(self, resource: Resource, name: str) -> Object:
        """The object has been deleted."""
        return self.objects.pop((resource.plural, "default", name))

    def of(self, resource: Resource) -> list[Object]:
        return [item for (plural, _, _), item in self.objects.items() if plural == resource.plural]

    @contextmanager
    def refusing(self, verb: str, kind: str, error: KubeError | ServerUnavailable) -> Iterator[None]:
        self.refusals[verb, kind] = error
        yield
        del self.refusals[verb, kind]

    # the port

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        self._refuse("get", resource)
        try:
            return self.objects[resource.plural, namespace, name]
        except KeyError:
            raise KubeError(NOT_FOUND, "NotFound", f'{resource.plural} "{name}" not found') from None

    async def list(self, resource: Resource, namespace: str | None = None, *, selector: str = "") -> Listed:
        self._refuse("list", resource)
        if namespace in self.closed:
            raise self.closed[namespace]
        wanted = {tuple(one.split("=")) for one in selector.split(",") if one}
        found = [
            item
            for item in self.of(resource)
            if namespace in {None, item["metadata"]["namespace"]}
            and wanted <= (item["metadata"].get("labels") or {}).items()
        ]
        return Listed(tuple(found), str(next(self._versions)))

    async def create(self, resource: Resource, namespace: str, body: Object) -> Object:
        name = body["metadata"]["name"]
        self._write("create", resource, name)
        if (resource.plural, namespace, name) in self.objects:
            raise KubeError(CONFLICT, "AlreadyExists", f'{resource.plural} "{name}" already exists')
        return self.put(resource, body)

    async def apply(
        self, resource: Resource, namespace: str, name: str, body: Object, *, manager: str, subresource: str = ""
    ) -> Object:
        self._write("apply", resource, name)
        stored = await self.get(resource, namespace, name)
        if body.get("metadata", {}).get("uid") not in {None, stored["metadata"]["uid"]}:
            raise KubeError(CONFLICT, "Conflict", "the uid is another one")
        return self.put(resource, {**stored, subresource: body[subresource]})

    async def delete(
        self, resource: Resource, namespace: str, name: str, *, uid: str = "", grace_s: int | None = None
    ) -> Object | None:
        self._write("delete", resource, name)
        stored = self.objects.get((resource.plural, namespace, name))
        if stored is None or uid not in {"", stored["metadata"]["uid"]}:
            return None
        if resource is not PODS:
            return self.objects.pop((resource.plural, namespace, name))
        ending = {**stored["metadata"], "deletionTimestamp": moment(NOW)}
        return self.put(resource, {**stored, "metadata": ending})

    def _write(self, verb: str, resource: Resource, name: str) -> None:
        self.writes.append((verb, resource.kind, name))
        self._refuse(verb, resource)

    def _refuse(self, verb: str, resource: Resource) -> None:
        if error := self.refusals.get((verb, resource.kind)):
            raise error
