"""ModelRoutes as values."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from modelmora.control import Key
from modelmora.spec import ModelRoute


def route(
    weights: Mapping[str, int],
    *,
    model_id: str = "m",
    name: str = "route",
    namespace: str = "default",
    age_s: int = 0,
    **spec: Any,
) -> ModelRoute:
    """A route with these backends; `spec` as in YAML, older with a larger age."""
    manifest = {
        "apiVersion": "modelmora.io/v1alpha1",
        "kind": "ModelRoute",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "modelId": model_id,
            "backends": [{"name": backend, "weight": weight} for backend, weight in weights.items()],
            **spec,
        },
    }
    parsed = ModelRoute.parse(manifest)
    created = datetime.fromtimestamp(1_700_000_000 - age_s, UTC)
    metadata = parsed.metadata.model_copy(update={"creation_timestamp": created, "uid": f"uid-{name}"})
    return parsed.model_copy(update={"metadata": metadata})


def key_of(of: ModelRoute) -> Key:
    return Key(of.metadata.namespace, of.metadata.name)
