"""Which workers are out of date: a hash over the part of the spec that a worker, or its pod, sees.

Only what a person set counts: a field with its default is left out, so that a new default of ours restarts nothing.
What the router and the operator alone look at (scaling, queue, batching, …) is left out too: an edit restarts nothing.
"""

import hashlib
import json
from typing import Final

from modelmora.spec import ModelDeploymentSpec

LENGTH: Final = 8  # hex digits: a part of the worker's name

_SEEN_BY_WORKERS: Final[dict[str, bool | set[str]]] = {
    "model": True,
    "runtime": True,
    "resources": True,
    "gpu": True,
    "sidecars": True,
    "health": True,
    "cache": {"claim_name", "size_limit"},
    "pod_template": True,
}


def spec_hash(spec: ModelDeploymentSpec) -> str:
    """Equal for specs whose workers are interchangeable."""
    seen = spec.model_dump(mode="json", include=_SEEN_BY_WORKERS, exclude_defaults=True, exclude_none=True)
    said = {name: value for name, value in seen.items() if value}
    if spec.shared_memory is not None:  # to be there is to be on, even if it says nothing more
        said["shared_memory"] = spec.shared_memory.model_dump(mode="json", exclude_defaults=True)
    canonical = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:LENGTH]
