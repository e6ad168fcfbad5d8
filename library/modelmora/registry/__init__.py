"""One loaded model for everybody in this process.

from modelmora import registry

with registry.default().get_or_load("minilm", load_minilm) as handle:
    handle.model.encode("Good morning")
"""

from modelmora.registry.entries import LoadedModel, Statistics
from modelmora.registry.handles import ModelHandle
from modelmora.registry.models import ModelRegistry, default
from modelmora.registry.policies import LFU, LRU, MANUAL, POLICIES, REFERENCE_COUNT, TTL, Candidate, Policy

__all__ = [
    "LFU",
    "LRU",
    "MANUAL",
    "POLICIES",
    "REFERENCE_COUNT",
    "TTL",
    "Candidate",
    "LoadedModel",
    "ModelHandle",
    "ModelRegistry",
    "Policy",
    "Statistics",
    "default",
]
