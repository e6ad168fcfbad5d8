"""What the documentation of routes shows can be applied as it stands there."""

import re
from pathlib import Path

from modelmora.spec.manifests import load, load_text
from modelmora.spec.route_effect import effect

ROOT = Path(__file__).parents[2]


def test_every_route_of_the_page_is_valid() -> None:
    page = ROOT / "docs" / "traffic.md"
    blocks = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    documents = [document for block in blocks for document in load_text(block, page, {})]
    assert [document.error for document in documents] == [None] * 4
    assert all(document.route for document in documents)


def test_the_example_is_a_canary_that_works() -> None:
    documents = load([ROOT / "examples" / "traffic.yaml"])
    assert [document.error for document in documents] == [None] * 3
    deployments = {one.metadata.name: one for document in documents if (one := document.deployment)}
    (route,) = [document.route for document in documents if document.route]
    assert [(arm.name, arm.effective) for arm in effect(route, deployments).arms] == [
        ("minilm-1-0-0", 90),
        ("minilm-1-1-0", 10),
    ]
