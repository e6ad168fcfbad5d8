"""The part of Kubernetes' object metadata that we use."""

from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import Field

from modelmora.spec.schema import MAX_INTEGER, MAX_NAME, Moment, Name, Part

_LATEST: Final = datetime.max.replace(tzinfo=UTC)


class ObjectMeta(Part):
    """The part of Kubernetes' metadata that we use."""

    name: Name
    """Unique in its namespace; part of the names of the workers' pods."""
    namespace: Annotated[str, Field(min_length=1, max_length=MAX_NAME, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")] = (
        "default"
    )
    """Models of different namespaces never mix."""
    generation: Annotated[int, Field(ge=0, le=MAX_INTEGER)] = 1
    """Grows with every change of the spec."""
    uid: str = ""
    """Of this object, never used again."""
    resource_version: str = ""
    """Of this state of the object; empty on one machine."""
    creation_timestamp: Moment | None = None
    """Of two deployments of the same model and version, the older one serves."""
    deletion_timestamp: Moment | None = None
    """Set while Kubernetes deletes the object."""
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)

    @property
    def seniority(self) -> tuple[datetime, str]:
        """Of several objects of a namespace that want the same, the one with the smallest counts: the oldest."""
        return self.creation_timestamp or _LATEST, self.name
