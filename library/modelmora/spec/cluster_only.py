"""Which fields only a cluster can honour."""

from pydantic import BaseModel

from modelmora.spec.deployment import ModelDeployment

FIELDS = (
    "spec.model.source.secretRef",
    "spec.model.source.caBundleRef",
    "spec.runtime.image",
    "spec.runtime.args",
    "spec.runtime.envFrom",
    "spec.resources",
    "spec.gpu",
    "spec.sidecars",
    "spec.cache.claimName",
    "spec.cache.sizeLimit",
    "spec.podTemplate",
)


def cluster_only_fields(deployment: ModelDeployment) -> list[str]:
    """The paths of the fields that are set and have no effect on one machine."""
    fields = [path for path in FIELDS if _is_set(deployment, path.split("."))]
    variables = [
        f"spec.runtime.env[{index}].valueFrom"
        for index, variable in enumerate(deployment.spec.runtime.env)
        if variable.value_from is not None
    ]
    return fields + variables


def _is_set(part: BaseModel, path: list[str]) -> bool:
    """Whether the field at a path differs from its default."""
    kind = type(part)
    name, field = next((name, field) for name, field in kind.model_fields.items() if field.alias == path[0])
    value = getattr(part, name)
    if len(path) > 1:
        return _is_set(value, path[1:])
    return bool(value != field.get_default(call_default_factory=True, validated_data={}))
