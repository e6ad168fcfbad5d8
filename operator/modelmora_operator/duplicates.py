"""Of two deployments of the same model and version in a namespace, the older one serves."""

from collections.abc import Iterable

from modelmora.spec import ModelDeployment

Identity = tuple[str, str, str]


def identity(deployment: ModelDeployment) -> Identity:
    """Namespace, model id and version: what must be unique."""
    return deployment.metadata.namespace, deployment.model_id, deployment.version


def older_twin(deployment: ModelDeployment, twins: Iterable[ModelDeployment]) -> ModelDeployment | None:
    """The one that serves in its place; None: it serves itself."""
    oldest = min([deployment, *twins], key=lambda one: one.metadata.seniority)
    return None if oldest is deployment else oldest
