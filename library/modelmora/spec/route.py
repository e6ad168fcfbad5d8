"""The ModelRoute: which deployments answer for one model id, and in which shares.

Without one, the bare id goes to the highest version that has once been verified and is not suspended.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field

from modelmora.spec.metadata import ObjectMeta
from modelmora.spec.parsing import read, read_stored
from modelmora.spec.route_spec import ROUTE_RULES, Backend, ModelRouteSpec
from modelmora.spec.rules import broken_rules
from modelmora.spec.schema import MAX_INTEGER, Moment, Name, Part, Text
from modelmora.spec.status import Condition


class RolledBack(Part):
    """A backend that gets nothing until the route is edited."""

    name: Name
    """Of the backend."""
    generation: Annotated[int, Field(ge=0, le=MAX_INTEGER)]
    """The metadata.generation at which it failed; at another one this says nothing."""
    at: Moment
    """When the operator heard of it."""
    message: Text
    """How many of its requests failed, and how."""


class ModelRouteStatus(Part):
    """What really happens."""

    observed_generation: Annotated[int, Field(ge=0, le=MAX_INTEGER)] = 0
    """The metadata.generation that this status is about."""
    backends: Annotated[tuple[Backend, ...], Field(max_length=64)] = ()
    """Effective weights: 0 for a deployment that is missing, suspended, has failed or was rolled back."""
    rolled_back: Annotated[tuple[RolledBack, ...], Field(max_length=64)] = ()
    """Backends that spec.rollback has taken off; an edit of the spec gives them their weights again."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16)] = ()
    """Ready; Stalled only when true."""


class ModelRoute(Part):
    """Which deployments answer for one model id, and in which shares."""

    api_version: Literal["modelmora.io/v1alpha1"] = "modelmora.io/v1alpha1"
    kind: Literal["ModelRoute"] = "ModelRoute"
    metadata: ObjectMeta
    spec: ModelRouteSpec
    """What is wanted."""
    status: ModelRouteStatus = ModelRouteStatus()
    """What there is. Written by the operator alone."""

    @property
    def rolled_back(self) -> Mapping[str, RolledBack]:
        """By name, what holds for the spec as it is now."""
        at_risk, now = self.spec.at_risk, self.metadata.generation
        return {one.name: one for one in self.status.rolled_back if one.generation == now and one.name in at_risk}

    @classmethod
    def parse(cls, manifest: object, file: str = "") -> Self:
        """From what a person wrote; its status, if any, is left out.

        Raises:
            InvalidManifest: every field that is wrong, by its path.
        """
        return read(cls, manifest, file=file, rules=lambda route: broken_rules(ROUTE_RULES, route.spec))

    @classmethod
    def stored(cls, manifest: object) -> Self:
        """From what an API server stored: unknown fields are ignored, status is kept.

        Raises:
            InvalidManifest: it cannot be understood at all.
        """
        return read_stored(cls, manifest)
