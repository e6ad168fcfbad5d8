"""The chart as a person uses it: helm, from PATH or as tools/install-helm built it."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
import yaml

from tests.support.cluster import Answer

Object: TypeAlias = dict[str, Any]

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "charts" / "modelmora"
OLDEST: Final = "1.29.0"  # the oldest Kubernetes that we promise

_OWN: Final = ROOT / ".make" / "bin" / "helm"
_DEADLINE_S: Final = 240.0
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it was built


def program() -> str | None:
    """The helm of this machine."""
    return shutil.which("helm") or (str(_OWN) if _OWN.exists() else None)


@dataclass(frozen=True, slots=True)
class Helm:
    """Runs helm against the cluster that KUBECONFIG names, if it asks one at all."""

    program: str

    def __call__(self, *arguments: str, said: str | None = None) -> Answer:
        """Runs it, whatever comes of it; `said` goes to its standard input."""
        done = subprocess.run(
            [self.program, *arguments],
            input=said,
            capture_output=True,
            text=True,
            env=dict(os.environ),  # noqa: TID251 - a test run has no settings class
            timeout=_DEADLINE_S,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def must(self, *arguments: str, said: str | None = None) -> str:
        """Its output; fails the test if helm fails."""
        answer = self(*arguments, said=said)
        assert answer.ok, f"helm {' '.join(arguments)}: {answer.err}"
        return answer.out

    def template(self, values: Object | None = None, *, namespace: str = "home", chart: Path = CHART) -> Answer:
        """What a release `modelmora` would be, as text."""
        return _template(self, json.dumps(values or {}), namespace, chart)

    def rendered(self, values: Object | None = None, *, namespace: str = "home", chart: Path = CHART) -> list[Object]:
        """What a release `modelmora` would be, its hooks included."""
        answer = self.template(values, namespace=namespace, chart=chart)
        assert answer.ok, answer.err
        return [made for made in yaml.load_all(answer.out, _LOADER) if made]


@cache
def _template(helm: Helm, values: str, namespace: str, chart: Path) -> Answer:
    place = ("--namespace", namespace, "--kube-version", OLDEST, "-f", "-")
    return helm("template", "modelmora", str(chart), *place, said=values)


@pytest.fixture(scope="session")
def helm() -> Helm:
    """Tests that use it are marked helm."""
    return Helm(program() or "helm")


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [made for made in objects if made["kind"] in kinds]


def named(objects: list[Object], kind: str, name: str) -> Object:
    """The only one of that kind and name."""
    found = [made for made in of_kind(objects, kind) if made["metadata"]["name"] == name]
    assert len(found) == 1, sorted((made["kind"], made["metadata"]["name"]) for made in objects)
    return found[0]


def pod_of(workload: Object) -> Object:
    """The pod that a Deployment or a Job makes."""
    made: Object = workload["spec"]["template"]["spec"]
    return made


def is_hook(made: Object) -> bool:
    return "helm.sh/hook" in made["metadata"].get("annotations", {})
