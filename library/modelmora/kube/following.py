"""The whole present state of one kind of object, at once and after every change: list, watch, and list again."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final, TypeAlias

import structlog

from modelmora.errors import ServerUnavailable
from modelmora.kube.api import GONE, Kube, KubeError, Listed, Object, Resource

Name: TypeAlias = tuple[str, str]  # namespace, name
State: TypeAlias = Mapping[Name, Object]

_BACKOFF_S: Final = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0)

log = structlog.get_logger(__name__)


async def follow(
    kube: Kube, resource: Resource, namespace: str | None = None, *, selector: str = ""
) -> AsyncIterator[State]:
    """Until it is cancelled. While the API cannot be reached, or refuses, the last state stands and it is tried again.

    Every list replaces the state, so that no deletion is missed, whatever happened to the watch.
    """
    attempt = 0
    while True:
        try:
            listed = await kube.list(resource, namespace, selector=selector)
            attempt = 0
            async for state in _changing(kube, resource, namespace, selector, listed):
                yield state
        except (KubeError, ServerUnavailable) as error:
            if isinstance(error, KubeError) and error.status == GONE:
                continue
            log.warning("cannot follow", resource=resource.plural, cause=str(error))
            await asyncio.sleep(_BACKOFF_S[min(attempt, len(_BACKOFF_S) - 1)])
            attempt += 1


async def _changing(
    kube: Kube, resource: Resource, namespace: str | None, selector: str, listed: Listed
) -> AsyncIterator[State]:
    state = {name_of(item): item for item in listed.items}
    yield dict(state)
    version = listed.resource_version
    while True:  # the server ends a watch now and then; the next one goes on where it stood
        async for event in kube.watch(resource, namespace, selector=selector, resource_version=version):
            version = event.object["metadata"]["resourceVersion"]
            if event.type == "BOOKMARK":
                continue
            if event.type == "DELETED":
                state.pop(name_of(event.object), None)
            else:
                state[name_of(event.object)] = event.object
            yield dict(state)


def name_of(item: Object) -> Name:
    """Its identity."""
    metadata = item["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def merged(states: Sequence[State]) -> State:
    """Those of several namespaces together."""
    return {name: item for state in states for name, item in state.items()}
