"""The ModelDeployment as an object: one version of one model with its name, its spec and what was reported of it."""

from collections.abc import Iterator
from typing import Literal, Self

from modelmora.spec.deployment_rules import CHANGE_RULES, DEPLOYMENT_RULES
from modelmora.spec.metadata import ObjectMeta
from modelmora.spec.parsing import Problem, read, read_stored
from modelmora.spec.parts import ModelDeploymentSpec
from modelmora.spec.rules import broken_change_rules, broken_rules
from modelmora.spec.schema import Part
from modelmora.spec.status import ModelDeploymentStatus


class ModelDeployment(Part):
    """One version of one model and how it is to be served."""

    api_version: Literal["modelmora.io/v1alpha1"] = "modelmora.io/v1alpha1"
    kind: Literal["ModelDeployment"] = "ModelDeployment"
    metadata: ObjectMeta
    spec: ModelDeploymentSpec
    """What is wanted."""
    status: ModelDeploymentStatus = ModelDeploymentStatus()
    """What there is. Written by the operator alone."""

    @classmethod
    def parse(cls, manifest: object, file: str = "") -> Self:
        """From what a person wrote; its status, if any, is left out, as an API server does.

        Raises:
            InvalidManifest: every field that is wrong, by its path.
        """
        return read(cls, manifest, file=file, rules=_broken_rules)

    @classmethod
    def stored(cls, manifest: object) -> Self:
        """From what an API server or a program of ours stored: unknown fields are ignored, status is kept.

        Raises:
            InvalidManifest: it cannot be understood at all.
        """
        return read_stored(cls, manifest)

    @property
    def model_id(self) -> str:
        """What clients ask for."""
        return self.spec.model.id or self.metadata.name

    @property
    def version(self) -> str:
        """The semantic version."""
        return self.spec.model.version


def forbidden_changes(old: ModelDeployment, new: ModelDeployment) -> list[Problem]:
    """What of the difference between two states of one deployment is refused, as an API server does."""
    return list(broken_change_rules(CHANGE_RULES, old, new))


def _broken_rules(deployment: ModelDeployment) -> Iterator[Problem]:
    return broken_rules(DEPLOYMENT_RULES, deployment)
