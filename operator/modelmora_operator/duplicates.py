"""Of two deployments of the same model and version in a namespace, the older one serves."""

from collections.abc import Iterable
from datetime import UTC, datetime

from modelmora.spec import ModelDeployment

Identity = tuple[str, str, str]

_LATEST = datetime.max.replace(tzinfo=UTC)


def identity(deployment: ModelDeployment) -> Identity:
    """Namespace, model id and version: what must be unique."""
    return deployment.metadata.namespace, deployment.model_id, deployment.version


def older_twin(deployment: ModelDeployment, twins: Iterable[ModelDeployment]) -> ModelDeployment | None:
    """The one that serves in its place; None: it serves itself."""
    oldest = min([deployment, *twins], key=_age)
    return None if oldest is deployment else oldest


def _age(deployment: ModelDeployment) -> tuple[datetime, str]:
    metadata = deployment.metadata
    return metadata.creation_timestamp or _LATEST, metadata.name
