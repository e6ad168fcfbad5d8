"""A Kubernetes as a person uses it: kubectl against the cluster that KUBECONFIG names."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest

_DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What kubectl said."""

    code: int
    out: str
    err: str

    @property
    def ok(self) -> bool:
        return self.code == 0


@dataclass(frozen=True, slots=True)
class Kubectl:
    """Runs kubectl; objects travel as JSON on standard input."""

    program: list[str]
    environment: dict[str, str] = field(repr=False)

    def __call__(self, *arguments: str, objects: Any = None) -> Answer:
        """Runs it, whatever comes of it."""
        done = subprocess.run(
            [*self.program, *arguments],
            input=None if objects is None else json.dumps(objects),
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=_DEADLINE_S,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def must(self, *arguments: str, objects: Any = None) -> str:
        """Its output; fails the test if kubectl fails."""
        answer = self(*arguments, objects=objects)
        assert answer.ok, f"kubectl {' '.join(arguments)}: {answer.err}"
        return answer.out

    def json(self, *arguments: str) -> dict[str, Any]:
        """Its output with -o json."""
        found: dict[str, Any] = json.loads(self.must(*arguments, "-o", "json"))
        return found


@pytest.fixture(scope="session")
def kubectl() -> Kubectl:
    """The kubectl of KUBECTL, else the one on PATH."""
    environment = dict(os.environ)  # noqa: TID251 - a test run has no settings class
    return Kubectl(environment.get("KUBECTL", "kubectl").split(), environment)


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[str]:
    """A namespace of the test's own."""
    name = f"test-{uuid4().hex[:10]}"
    kubectl.must("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")
