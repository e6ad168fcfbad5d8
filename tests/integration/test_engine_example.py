"""The engine that docs/engines.md shows is the one in examples/, and it works."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from modelmora import errors
from modelmora.spec import ModelDeployment
from modelmora.wire.status import from_rpc
from tests.support.entries import outputs_of
from tests.support.workers import batch, entry, results, short_folder, worker_in

ROOT = Path(__file__).parents[2]
MANIFEST = yaml.safe_load((ROOT / "examples" / "custom_engine.yaml").read_text())


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


def test_the_documentation_shows_the_example_and_it_is_short() -> None:
    [shown] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "engines.md").read_text(), re.DOTALL)
    assert shown == MANIFEST["spec"]["runtime"]["files"][0]["content"]
    assert len([line for line in shown.splitlines() if line.strip()]) <= 20


def test_the_example_is_a_good_manifest() -> None:
    assert ModelDeployment.parse(MANIFEST).model_id == "examples/word-count"


async def test_the_example_serves(folder: Path) -> None:
    async with worker_in(folder, deployment=MANIFEST) as worker:
        await worker.serving()
        call = worker.stub.Process()
        await call.write(
            batch(entry(1, ["Hello world", "xyzzyq"]), entry(2, "Hello", lowercase=False), entry(3, shout=True))
        )
        found = await results(call, 3)
        counts = {n: outputs_of(found[n])["counts"] for n in (1, 2)}
        assert [list(counts[1]), list(counts[2])] == [[2, 0], [0]]
        error = from_rpc(found[3].error)
        assert isinstance(error, errors.InvalidRequest)
        assert error.context.field == "parameters"
