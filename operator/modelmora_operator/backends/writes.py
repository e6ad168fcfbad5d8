"""Everything that the operator writes to the API server passes here, and is counted by kind and verb."""

from collections.abc import Callable

from modelmora.kube import names
from modelmora.kube.api import NOT_FOUND, Kube, KubeError, Object, Resource

Counted = Callable[[str, str], None]


class Writes:
    """The writing half of the port. Raises as the port does."""

    def __init__(self, kube: Kube, counted: Counted = lambda _kind, _verb: None) -> None:
        self._kube = kube
        self._counted = counted

    async def create(self, resource: Resource, namespace: str, body: Object) -> Object:
        self._counted(resource.kind, "create")
        return await self._kube.create(resource, namespace, body)

    async def apply_status(self, resource: Resource, namespace: str, name: str, body: Object) -> Object:
        self._counted(resource.kind, "apply")
        return await self._kube.apply(resource, namespace, name, body, manager=names.MANAGER, subresource="status")

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str) -> Object | None:
        """None: it is gone already."""
        self._counted(resource.kind, "delete")
        return await self._kube.delete(resource, namespace, name, uid=uid)

    async def get_if_there(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """What stands there now, read before it is written over."""
        try:
            return await self._kube.get(resource, namespace, name)
        except KubeError as error:
            if error.status == NOT_FOUND:
                return None
            raise
