"""Which rights a program lacks, asked of the API server before it begins: named all at once, and in words."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from modelmora.errors import InvalidSettings
from modelmora.kube.api import Kube, Object, Resource

_REVIEWS: Final = Resource("selfsubjectaccessreviews", "SelfSubjectAccessReview", group="authorization.k8s.io")


@dataclass(frozen=True, slots=True)
class Right:
    """To do something with objects of one kind, in one namespace or in all."""

    verb: str
    resource: Resource
    namespace: str | None = None
    subresource: str = ""

    def __str__(self) -> str:
        kind = ".".join(part for part in (self.resource.plural, self.resource.group) if part)
        of = f"{kind}/{self.subresource}" if self.subresource else kind
        return f"{self.verb} {of} in {f'namespace {self.namespace}' if self.namespace else 'all namespaces'}"


async def lacking(kube: Kube, rights: Iterable[Right]) -> list[Right]:
    """Those that the program does not have.

    Raises:
        KubeError, ServerUnavailable: it could not be asked.
    """
    return [right for right in rights if not await _allowed(kube, right)]


def refuse_lacking(missing: Iterable[Right]) -> None:
    """Returns if none is missing.

    Raises:
        InvalidSettings: some are; they are named.
    """
    if said := "; to ".join(map(str, missing)):
        raise InvalidSettings(
            f"the Kubernetes API does not allow this program to {said}",
            remedy="bind a role with these rights to its service account, as the chart does",
        )


async def _allowed(kube: Kube, right: Right) -> bool:
    asked = {
        "verb": right.verb,
        "group": right.resource.group,
        "resource": right.resource.plural,
        "subresource": right.subresource,
        "namespace": right.namespace or "",
    }
    review: Object = {
        "apiVersion": _REVIEWS.api_version,
        "kind": _REVIEWS.kind,
        "spec": {"resourceAttributes": {name: value for name, value in asked.items() if value}},
    }
    answer = await kube.create(_REVIEWS, "", review)
    return bool(answer["status"].get("allowed"))
