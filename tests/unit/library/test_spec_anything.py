"""Whatever it is given, reading a manifest ends in a resource or in InvalidManifest."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelmora.errors import InvalidManifest, InvalidRequest
from modelmora.spec import ModelDeployment, ModelRef, ModelRoute, crd, version_order
from modelmora.spec.identity import is_version
from modelmora.spec.manifests import load_text
from tests.support.manifests import manifest

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=3)
ANYTHING = st.recursive(
    SCALARS, lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=8), below, max_size=3)
)


def _paths(schema: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [path] if path else []
    for name, child in schema.get("properties", {}).items():
        found += _paths(child, (*path, name))
    return found


SCHEMA = crd.definitions()[0]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
PATHS = [path for path in _paths(SCHEMA) if path[0] in {"spec", "metadata", "kind", "apiVersion"}]


def _replaced(written: dict[str, Any], path: tuple[str, ...], value: object) -> dict[str, Any]:
    name, *rest = path
    below = written.get(name)
    inside = below if isinstance(below, dict) else {}
    return written | {name: _replaced(inside, tuple(rest), value) if rest else value}


def _read(
    kind: type[ModelDeployment] | type[ModelRoute], value: object
) -> ModelDeployment | ModelRoute | InvalidManifest:
    try:
        return kind.parse(value)
    except InvalidManifest as error:
        return error


@settings(max_examples=150, deadline=None)
@given(path=st.sampled_from(PATHS), value=ANYTHING)
def test_any_value_in_any_field_is_taken_or_refused_with_a_remedy(path: tuple[str, ...], value: object) -> None:
    outcome = _read(ModelDeployment, _replaced(manifest(), path, value))
    if isinstance(outcome, InvalidManifest):
        assert outcome.context.remedy
    else:
        assert ModelDeployment.parse(outcome.manifest()) == outcome


@settings(max_examples=100, deadline=None)
@given(value=ANYTHING, kind=st.sampled_from([ModelDeployment, ModelRoute]))
def test_what_is_no_manifest_at_all_is_refused(value: object, kind: type[ModelDeployment] | type[ModelRoute]) -> None:
    assert isinstance(_read(kind, value), InvalidManifest)
    with pytest.raises(InvalidManifest):
        kind.stored(value)


YAML = st.text(alphabet="abk:-{}[]&*!|>'\"#,?%@`$ \n\t0.1\x00é\ud800", max_size=40)


@settings(max_examples=150, deadline=None)
@given(text=YAML)
def test_any_text_is_read_or_refused(text: str) -> None:
    for document in load_text(text, Path("any.yaml"), {}):
        assert document.resource or document.warning or (document.error and document.error.context.remedy)


@given(text=st.text(alphabet="ab/.@1-_ é\n", max_size=20))
def test_a_reference_that_is_taken_is_written_as_it_was_read(text: str) -> None:
    try:
        ref = ModelRef.parse(text)
    except InvalidRequest:
        return
    assert str(ref) == text
    assert ".." not in ref.model_id


VERSIONS = st.from_regex(r"[0-3]\.[0-3]\.[0-3](-[0-2ab]{1,2}(\.[0-2ab])?)?", fullmatch=True).filter(is_version)


@given(one=VERSIONS, two=VERSIONS)
def test_two_versions_are_equal_only_if_they_are_the_same(one: str, two: str) -> None:
    assert (version_order(one) == version_order(two)) == (one == two)
