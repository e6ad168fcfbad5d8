"""ModelRoutes as values."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from modelmora.control import Key, Trip
from modelmora.spec import ModelRoute


def route(
    weights: Mapping[str, int],
    *,
    model_id: str = "m",
    name: str = "route",
    namespace: str = "default",
    age_s: int = 0,
    generation: int = 1,
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
    known = {"creation_timestamp": created, "uid": f"uid-{name}", "generation": generation}
    return parsed.model_copy(update={"metadata": parsed.metadata.model_copy(update=known)})


def trip(backend: str = "new", *, generation: int = 1, uid: str = "uid-route", message: str = "3 of 4 failed") -> Trip:
    """What a router says that rolled back a backend of `route`."""
    return Trip(uid, generation, backend, message)


def key_of(of: ModelRoute) -> Key:
    return Key(of.metadata.namespace, of.metadata.name)
