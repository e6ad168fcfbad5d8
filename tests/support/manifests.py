"""Manifests as a person writes them, with only what a test is about."""

from typing import Any


def manifest(name: str = "minilm", **spec: Any) -> dict[str, Any]:
    """A good ModelDeployment; `spec` replaces or adds parts of its spec; None takes a field of the model away."""
    model = {"id": "org/minilm", "task": "txt2embed", "source": {"uri": "package://minilm/model"}}
    model = {name: value for name, value in (model | spec.pop("model", {})).items() if value is not None}
    return {
        "apiVersion": "modelmora.io/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {"model": model} | spec,
    }


def route(name: str = "minilm", **spec: Any) -> dict[str, Any]:
    """A good ModelRoute; `spec` replaces or adds parts of its spec."""
    return {
        "apiVersion": "modelmora.io/v1alpha1",
        "kind": "ModelRoute",
        "metadata": {"name": name},
        "spec": {"modelId": "org/minilm", "backends": [{"name": "minilm"}]} | spec,
    }
