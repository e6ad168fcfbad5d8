"""Argo CD's health check in a real Lua, over the statuses that the operator writes."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelmora.control import Trip
from modelmora.spec import ModelDeployment
from modelmora_operator.cluster import Failure, Phase
from modelmora_operator.plan import Policy, plan
from modelmora_operator.routes import statuses
from tests.support import routing
from tests.support.operator_values import NOW, deployment, failed, reported, snapshot, worker
from tests.support.routes import key_of, route, trip

ROOT = Path(__file__).parents[2]
SCRIPT = (ROOT / "charts/modelmora/files/argocd/health.lua").read_text(encoding="utf-8")


def health(resource: dict[str, Any]) -> tuple[str, str]:
    """Status and message, as Argo CD asks for them: a global obj, and no library but the base."""
    lua = importlib.import_module("lupa.lua51").LuaRuntime(register_eval=False)
    lua.execute("os, io, debug, package, require = nil")
    lua.globals()["obj"] = lua.table_from(resource, recursive=True)
    said = lua.execute(SCRIPT)
    return said["status"], said["message"]


def resource(of: ModelDeployment, *workers: Any, policy: Policy | None = None, **fields: Any) -> dict[str, Any]:
    """The deployment with the status that the operator writes of what it sees."""
    status = plan(snapshot(of, *workers, **fields), NOW, policy or Policy()).status
    assert status is not None
    return {"metadata": {"name": "minilm", "generation": of.metadata.generation}, "status": status.manifest()}


def scaled_to_zero() -> ModelDeployment:
    served = deployment()
    return reported(served, worker(served), load=1)


def stuck(where: str, reason: str) -> Any:
    return worker(deployment(), phase=Phase.FAILED, failure=Failure(where, reason, "it is broken", "mend it", 1))


def ended(reason: str, where: str = "load") -> dict[str, Any]:
    """The last worker failed and is gone."""
    failure = Failure(where, reason, "it is broken", "mend it", 1, reported=True)
    return {"failure": failed(deployment(), last=failure), "load": 1.0}


CASES = [
    pytest.param({"metadata": {"generation": 1}}, "Progressing", "not looked at it", id="no-status"),
    pytest.param({"metadata": {}, "status": {"conditions": []}}, "Progressing", "not looked at it", id="no-conditions"),
    pytest.param(resource(deployment(), load=1), "Progressing", "Unverified", id="first-start"),
    pytest.param(
        resource(deployment(), worker(deployment(), phase=Phase.LOADING), load=1),
        "Progressing",
        "Unverified",
        id="loading",
    ),
    pytest.param(resource(deployment(), worker(deployment()), load=1), "Healthy", "Serving: 1 of 1", id="serving"),
    pytest.param(resource(scaled_to_zero()), "Healthy", "ScaledToZero", id="scaled-to-zero"),
    pytest.param(resource(scaled_to_zero(), load=1), "Healthy", "ScaledToZero: waking", id="waking"),
    pytest.param(resource(deployment()), "Healthy", "Unverified: nobody has asked", id="nothing-will-happen"),
    pytest.param(resource(deployment(suspend=True)), "Suspended", "spec.suspend is true", id="suspended"),
    pytest.param(resource(deployment(), **ended("LoadFailed")), "Degraded", "LoadFailed: it is broken", id="failed"),
    pytest.param(resource(deployment(), **ended("InvalidSource")), "Degraded", "InvalidSource", id="stalled"),
    pytest.param(
        resource(deployment(), stuck("schedule", "Unschedulable"), load=1), "Progressing", "Unschedulable", id="no-room"
    ),
    pytest.param(
        resource(deployment(), twins=(deployment("older", created=NOW - 1),)),
        "Degraded",
        "DuplicateVersion",
        id="duplicate",
    ),
]


@pytest.mark.req("REQ-DEPLOY-002")
@pytest.mark.parametrize(("resource", "status", "words"), CASES)
def test_argo_cd_says_what_the_conditions_say(resource: dict[str, Any], status: str, words: str) -> None:
    said, message = health(resource)
    assert said == status
    assert words in message


def test_a_status_of_an_older_generation_is_not_believed() -> None:
    served = resource(deployment(generation=1), worker(deployment()), load=1)
    served["metadata"]["generation"] = 2
    assert health(served) == ("Progressing", "the operator has not looked at the last change yet")


@pytest.mark.req("RM-4.3b")
@pytest.mark.parametrize(
    ("trips", "status", "words"),
    [((), "Healthy", "Routed: old 50.0%, new 50.0%"), ((trip("new"),), "Degraded", "RolledBack: canary new: 3 of 4")],
)
def test_the_script_is_good_for_routes_too(trips: tuple[Trip, ...], status: str, words: str) -> None:
    of = route({"old": 1, "new": 1}, rollback={"errorPercent": 5})
    models = [
        routing.deployment(name, model={"id": "m", "version": f"{n}.0.0"}) for n, name in enumerate(["old", "new"])
    ]
    told = statuses({key_of(of): of}, {routing.key_of(one): one for one in models}, {key_of(of): trips}, NOW)
    said, message = health({"metadata": {"generation": 1}, "status": told[key_of(of)].manifest()})
    assert (said, message[: len(words)]) == (status, words)


def test_the_documentation_shows_the_script_as_it_is() -> None:
    page = (ROOT / "docs/argocd.md").read_text(encoding="utf-8")
    block = page.split("```yaml\n# argocd-cm\n")[1].split("```")[0]
    assert yaml.safe_load(block)["data"]["resource.customizations.health.modelmora.io_ModelDeployment"] == SCRIPT
