"""`modelmora validate` in a pipeline."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from modelmora.cli.app import app

GOOD = """
apiVersion: modelmora.io/v1alpha1
kind: ModelDeployment
metadata: {name: NAME}
spec: {model: {task: txt2embed, source: {uri: "package://a/b"}}}
"""


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["validate", *words])
    return result.exit_code, result.stdout, result.stderr


def test_good_manifests_pass(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD + "---" + GOOD.replace("NAME", "second"))
    (tmp_path / "a.yaml").write_text((tmp_path / "a.yaml").read_text().replace("NAME", "first"))
    code, out, _ = run(str(tmp_path))
    assert code == 0
    assert "first is valid" in out
    assert "second is valid" in out


@pytest.mark.req("REQ-REG-003", "REQ-REG-001d")
def test_every_wrong_document_is_named_and_the_good_one_too(tmp_path: Path) -> None:
    negative = GOOD.replace("NAME", "greedy").replace("}}}", '}}, resources: {requests: {memory: "-1Gi"}}}')
    (tmp_path / "a.yaml").write_text(GOOD.replace("NAME", "good") + "---" + negative)
    (tmp_path / "b.yaml").write_text("a: [")
    code, out, err = run(str(tmp_path))
    assert code == 1
    assert "good is valid" in out
    assert "spec.resources.requests" in err
    assert str(tmp_path / "b.yaml") in err


def test_machines_get_json(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD.replace("NAME", "x").replace("txt2embed", "txt2tea"))
    code, out, _ = run(str(tmp_path), "--json")
    report = json.loads(out)
    assert (code, report["valid"]) == (1, False)
    assert report["documents"][0]["error"]["field"] == "spec.model.task"


@pytest.mark.parametrize("content", ["", "# only a comment\n"], ids=["empty", "comment"])
def test_a_file_without_a_manifest_is_wrong(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.yaml").write_text(content)
    code, _, err = run(str(tmp_path / "a.yaml"))
    assert code == 1
    assert "a.yaml" in err


def test_the_same_object_and_the_same_version_are_not_valid_twice(tmp_path: Path) -> None:
    identified = GOOD.replace("task", "id: org/x, task")
    again = [identified.replace("NAME", name) for name in ("a", "b")] + [GOOD.replace("NAME", "a")]
    (tmp_path / "a.yaml").write_text("---".join(again))
    code, out, err = run(str(tmp_path))
    assert code == 1
    assert "ModelDeployment a is valid" in out
    assert "document 2" in err
    assert "document 3" in err


def test_a_source_that_cannot_be_understood_is_not_valid(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD.replace("NAME", "a").replace("package://a/b", "file://relative/path"))
    code, _, err = run(str(tmp_path))
    assert code == 1
    assert "spec.model.source.uri" in err
    assert "three slashes" in err
