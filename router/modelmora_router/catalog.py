"""Which deployment a request is for. Built from one snapshot, asked for each request, no I/O.

A bare id goes where its ModelRoute says. Without one it goes to the highest version that has once passed its test
inference and is not suspended; failing that, to the highest that is not suspended; failing that, to the highest. Of two
deployments of the same model and version the older one serves, of two routes of the same id the older one counts.
Namespaces never mix.
"""

import base64
import difflib
import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from modelmora.control import Deployments, Key, Routes
from modelmora.errors import InvalidRequest, ModelNotFound
from modelmora.spec import ModelDeployment, ModelRef, version_order
from modelmora.spec.identity import VersionOrder
from modelmora.spec.route_effect import effects
from modelmora_router.routes import RouteTable

_MAX_SIMILAR = 3
_MAX_COMPARED = 100
_MAX_PAGE = 1000
DEFAULT_PAGE = 100


class Catalog:
    """The deployments of one moment, found by what clients ask for. Routes take their turns on from `before`."""

    def __init__(self, deployments: Deployments, routes: Routes | None = None, before: "Catalog | None" = None) -> None:
        self._versions: dict[tuple[str, str], dict[str, ModelDeployment]] = {}
        for deployment in sorted(deployments.values(), key=lambda one: one.metadata.seniority):
            versions = self._versions.setdefault((deployment.metadata.namespace, deployment.model_id), {})
            versions.setdefault(deployment.version, deployment)
        self.routes: Mapping[tuple[str, str], RouteTable] = {}
        if routes:
            self.routes = _tables(routes, deployments, before.routes if before else {})
        self._chosen = {identity: chosen(versions.values()) for identity, versions in self._versions.items()}
        self._chosen |= {identity: main for identity, table in self.routes.items() if (main := table.main)}

    def resolve(self, namespace: str, ref: ModelRef) -> ModelDeployment:
        """The deployment that serves what a client asks for; where a route splits it, the one with the largest share.

        Raises:
            ModelNotFound: there is none; the remedy names the nearest that there are.
        """
        identity = (namespace, ref.model_id)
        found = self._chosen.get(identity) if ref.version is None else self._versions.get(identity, {}).get(ref.version)
        if found is None:
            raise self._not_found(namespace, ref)
        return found

    def route(self, namespace: str, ref: ModelRef) -> RouteTable | None:
        """The route that splits what a client asks for, if there is one; who asks for a version gets that."""
        return self.routes.get((namespace, ref.model_id)) if ref.version is None else None

    def listed(self, namespace: str, task: str = "") -> list[ModelDeployment]:
        """Every deployment that serves in the namespace, by id and version."""
        found = self._ordered.get(namespace, ())
        return [deployment for deployment in found if not task or str(deployment.spec.model.task) == task]

    def everywhere(self) -> list[ModelDeployment]:
        """Every deployment that serves, by namespace, id and version."""
        return [deployment for listed in self._ordered.values() for deployment in listed]

    @cached_property
    def _ordered(self) -> Mapping[str, Sequence[ModelDeployment]]:
        """By namespace. Sorted once, and only where it is asked for: to order versions takes long."""
        found: dict[str, list[ModelDeployment]] = {}
        for namespace, model_id in sorted(self._versions):
            versions = self._versions[namespace, model_id].values()
            found.setdefault(namespace, []).extend(sorted(versions, key=_position))
        return found

    def _not_found(self, namespace: str, ref: ModelRef) -> ModelNotFound:
        if versions := self._versions.get((namespace, ref.model_id)):
            known = ", ".join(sorted(versions, key=version_order, reverse=True)[:_MAX_SIMILAR])
            return ModelNotFound(
                f"model {ref.model_id!r} has no version {ref.version}",
                model_id=ref.model_id,
                field="modelId",
                remedy=f"use one of its versions ({known}), or the id without a version",
            )
        ids = (model_id for where, model_id in self._versions if where == namespace)
        # Comparing takes long: with a thousand models, as long as fifty requests.
        alike = heapq.nsmallest(_MAX_COMPARED, ids, key=lambda known: abs(len(known) - len(ref.model_id)))
        return ModelNotFound(
            f"there is no model {ref.model_id!r} in namespace {namespace!r}",
            model_id=ref.model_id,
            field="modelId",
            remedy=_did_you_mean(ref.model_id, alike),
        )


def _tables(
    routes: Routes, deployments: Deployments, before: Mapping[tuple[str, str], RouteTable]
) -> dict[tuple[str, str], RouteTable]:
    """By namespace and model id."""
    counting = [seen for seen, counts in effects(routes.values(), deployments.values()) if seen.route is counts]
    found = {(seen.route.metadata.namespace, seen.route.spec.model_id): seen for seen in counting}
    return {identity: RouteTable(seen, before.get(identity)) for identity, seen in found.items()}


def key_of(deployment: ModelDeployment) -> Key:
    """The identity of the object."""
    return Key(deployment.metadata.namespace, deployment.metadata.name)


def chosen(versions: Iterable[ModelDeployment]) -> ModelDeployment:
    """The version of a model that a bare id means; there is at least one."""
    first, *others = versions
    return max([first, *others], key=_preference) if others else first  # most have one, and comparing costs


def verified(deployment: ModelDeployment) -> bool:
    """Whether it has once passed its test inference."""
    status = deployment.status
    ready = status.condition("Ready")
    return (
        bool(status.verified_spec_hash)
        or status.last_load is not None
        or (ready is not None and ready.status == "True")
    )


def _preference(deployment: ModelDeployment) -> tuple[bool, bool, VersionOrder]:
    active = not deployment.spec.suspend
    return active, active and verified(deployment), version_order(deployment.version)


def _did_you_mean(model_id: str, ids: Sequence[str]) -> str:
    names = {known.rpartition("/")[2]: known for known in ids}
    near = difflib.get_close_matches(model_id, ids, n=_MAX_SIMILAR)
    near += [names[name] for name in difflib.get_close_matches(model_id.rpartition("/")[2], names, n=_MAX_SIMILAR)]
    similar = list(dict.fromkeys(near))[:_MAX_SIMILAR]
    if similar:
        return "did you mean " + " or ".join(repr(known) for known in similar) + "?"
    return "list the models to see which there are, or name another namespace" if ids else "deploy a model first"


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list, and how to ask for the next."""

    models: tuple[ModelDeployment, ...]
    next_token: str


def page(models: Sequence[ModelDeployment], *, size: int, token: str) -> Page:
    """The models after those that `token` ends with; a model that is gone meanwhile does not disturb it.

    Raises:
        InvalidRequest: a size or a token that cannot be.
    """
    if not 0 <= size <= _MAX_PAGE:
        raise InvalidRequest(
            f"pageSize is {size}", field="pageSize", remedy=f"use 1 to {_MAX_PAGE}, or 0 for {DEFAULT_PAGE}"
        )
    start = _decoded(token) if token else None
    rest = [model for model in models if start is None or _position(model) > start]
    shown, more = rest[: size or DEFAULT_PAGE], len(rest) > (size or DEFAULT_PAGE)
    return Page(tuple(shown), _encoded(shown[-1]) if more else "")


def _position(deployment: ModelDeployment) -> tuple[str, VersionOrder]:
    return deployment.model_id, version_order(deployment.version)


def _encoded(deployment: ModelDeployment) -> str:
    return base64.urlsafe_b64encode(f"{deployment.model_id}@{deployment.version}".encode()).decode()


def _decoded(token: str) -> tuple[str, VersionOrder]:
    try:
        model_id, _, version = base64.b64decode(token, altchars=b"-_", validate=True).decode().partition("@")
        return model_id, version_order(version)
    except ValueError:  # of base64, of UTF-8 and of the version alike
        raise InvalidRequest(
            "pageToken is none of ours",
            field="pageToken",
            remedy="use nextPageToken of the page before, or leave it out for the first page",
        ) from None
