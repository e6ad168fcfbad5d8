"""ModelRoutes in the files of `modelmora serve`: in effect at once, edited without a restart."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelmora import Client
from modelmora.errors import InferenceFailed
from tests.support.scripted import scripted
from tests.support.servers import serving, wait_for

pytestmark = pytest.mark.slow


def write_route(folder: Path, weights: dict[str, int], *, name: str = "route", **spec: Any) -> None:
    backends = [{"name": backend, "weight": weight} for backend, weight in weights.items()]
    manifest = {
        "apiVersion": "modelmora.io/v1alpha1",
        "kind": "ModelRoute",
        "metadata": {"name": name},
        "spec": {"modelId": "m", "backends": backends, **spec},
    }
    draft = folder / f".{name}.draft"
    draft.write_text(yaml.safe_dump(manifest))
    draft.replace(folder / f"{name}.yaml")


def answered(client: Client, requests: int) -> Counter[str]:
    return Counter(client.infer("m", "hello").version for _ in range(requests))


@pytest.mark.req("RM-4.3a", "RM-4.3b")
def test_a_route_in_a_file_splits_and_an_edit_of_it_counts(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    scripted(folder, "old", model_id="m", version="1.0.0")
    scripted(folder, "new", model_id="m", version="2.0.0")
    write_route(folder, {"old": 3, "new": 1})
    with serving(folder, tmp_path) as server, server.client() as client:
        assert answered(client, 20) == {"1.0.0": 15, "2.0.0": 5}
        assert client.infer("m@2.0.0", "hello").version == "2.0.0"

        write_route(folder, {"old": 1, "gone": 1})
        wait_for(lambda: "PartlyRouted" in server.log(), within_s=60, what="a word of the missing backend")
        assert answered(client, 4) == {"1.0.0": 4}

        (folder / "route.yaml").unlink()
        wait_for(lambda: answered(client, 1) == {"2.0.0": 1}, within_s=60, what="the highest version again")


@pytest.mark.req("RM-4.3b")
def test_a_canary_that_fails_is_rolled_back_until_its_file_is_edited(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    scripted(folder, "old", model_id="m", version="1.0.0")
    scripted(folder, "new", model_id="m", version="2.0.0", model={"failsFor": "hello"})
    rollback = {"errorPercent": 50, "minRequests": 3}
    write_route(folder, {"old": 3, "new": 1}, rollback=rollback)
    with serving(folder, tmp_path) as server, server.client() as client:
        assert outcomes(client, 24) == {"1.0.0": 21, "InferenceFailed": 3}
        wait_for(lambda: "RolledBack" in server.log(), within_s=60, what="a word of the rollback")
        assert "canary new: 3 of 3 requests of 60 s failed (InferenceFailed)" in server.log()

        write_route(folder, {"old": 1, "new": 1}, rollback=rollback)
        wait_for(lambda: "InferenceFailed" in outcomes(client, 1), within_s=60, what="requests for the canary again")
        assert outcomes(client, 8)["InferenceFailed"] == 2
        assert outcomes(client, 6) == {"1.0.0": 6}


def outcomes(client: Client, requests: int) -> Counter[str]:
    """The version that answered, or what the error is called."""
    found: Counter[str] = Counter()
    for _ in range(requests):
        try:
            found[client.infer("m", "hello").version] += 1
        except InferenceFailed as error:
            found[type(error).__name__] += 1
    return found
