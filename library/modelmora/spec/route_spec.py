"""The spec of a ModelRoute, and the rules between its fields."""

from typing import Annotated

from pydantic import Field

from modelmora.spec.parts import ModelId
from modelmora.spec.rules import Rule, repeated
from modelmora.spec.schema import Name, Part

Weight = Annotated[int, Field(ge=0, le=1_000_000)]


class Backend(Part):
    """One deployment that answers."""

    name: Name
    """metadata.name of a ModelDeployment of this model id."""
    weight: Weight = 1
    """Its share, relative to the sum of all."""


class Mirror(Part):
    """A deployment that gets copies of requests; its answers are dropped."""

    name: Name
    """metadata.name of a ModelDeployment."""
    percent: Annotated[int, Field(ge=1, le=100)] = 100
    """How many of the requests are copied."""


class Rollback(Part):
    """When a backend gets no more requests until the route is edited: too many of those that it got have failed.

    Each router judges by the requests that it sent itself, and one that rolls a backend back tells the others. What a
    caller did wrong or gave up, and what was refused under load, counts neither as answered nor as failed.
    """

    error_percent: Annotated[int, Field(ge=1, le=100)]
    """Of its requests at least so many percent failed: in the engine, with the worker, or since it did not load."""
    min_requests: Annotated[int, Field(ge=1, le=100_000)] = 20
    """Of at least so many requests: fewer prove nothing."""
    window_seconds: Annotated[int, Field(ge=1, le=3600)] = 60
    """Of those that ended in the last so many seconds, by one router."""


class ModelRouteSpec(Part):
    """Who answers for a model id."""

    model_id: ModelId
    """The bare id that clients ask for."""
    backends: Annotated[tuple[Backend, ...], Field(min_length=1, max_length=64)]
    """The deployments that answer; one edit of this list is one atomic change."""
    mirror: Mirror | None = None
    """A deployment that gets copies."""
    sticky_header: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9-]+$")] | None = None
    """Requests with the same value of this header go to the same backend."""
    rollback: Rollback | None = None
    """When a backend gets nothing more; without it, never. That with the largest weight, the first of equals, never."""

    @property
    def at_risk(self) -> frozenset[str]:
        """The names of the backends that may be rolled back: all but the main one, if any may."""
        if self.rollback is None:
            return frozenset()
        main = max(self.backends, key=lambda backend: backend.weight)  # of equal ones the first
        return frozenset(backend.name for backend in self.backends if backend is not main)


ROUTE_RULES: tuple[Rule[ModelRouteSpec], ...] = (
    Rule(
        at="spec",
        field="backends",
        message="need one with a weight above 0",
        remedy="give the deployment that is to answer a weight of 1",
        broken=lambda spec: not any(backend.weight for backend in spec.backends),
        cel="self.backends.exists(backend, backend.weight > 0)",
    ),
    Rule(
        at="spec",
        field="mirror",
        message="must not be one of the backends",
        remedy="name another deployment in spec.mirror.name",
        broken=lambda spec: spec.mirror is not None and spec.mirror.name in {backend.name for backend in spec.backends},
        cel="!has(self.mirror) || !self.backends.exists(backend, backend.name == self.mirror.name)",
    ),
    Rule(
        at="spec",
        field="backends",
        message="is there twice",
        remedy="add up the weights",
        broken=lambda spec: repeated("spec.backends", "name", (backend.name for backend in spec.backends)),
    ),
    Rule(
        at="spec",
        field="rollback",
        message="needs a second backend, since the main one is never rolled back",
        remedy="add the backend that is to be tried to spec.backends, or remove spec.rollback",
        broken=lambda spec: spec.rollback is not None and len(spec.backends) == 1,
        cel="!has(self.rollback) || size(self.backends) > 1",
    ),
)
