from pathlib import Path

import pytest

from modelmora.errors import InvalidEngine, MissingDependency
from modelmora.spec.schema import ENGINES
from modelmora_worker.engines import catalog


def test_the_task_finds_the_built_in_engine() -> None:
    assert catalog.resolve(None, "txt2embed") == catalog.resolve("sentence-transformers", "txt2embed")


@pytest.mark.parametrize(
    ("engine", "task", "says"),
    [
        (None, "img2txt", "img2txt"),
        ("no-such-engine", "txt2embed", "sentence-transformers"),
        ("sentence-transformers", "txt2txt", "txt2txt"),
        ("python:module", "txt2embed", "python:module:Class"),
    ],
)
def test_an_engine_that_is_not_there_is_told_with_what_is(engine: str | None, task: str, says: str) -> None:
    with pytest.raises(InvalidEngine) as caught:
        catalog.resolve(engine, task, model_id="org/m")
    assert says in caught.value.message + caught.value.context.remedy
    assert caught.value.context.field == "spec.runtime.engine"
    assert "org/m" in caught.value.message


GOOD = "class Engine:\n    def __init__(self, context): ...\n    def infer(self, batch): ...\n"


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        ("", InvalidEngine, "no such class"),
        ("Engine = 1", InvalidEngine, "no class but a int"),
        ("class Engine:\n    def __init__(self, context): ...", InvalidEngine, "has no method infer"),
        ("class Engine:\n    def infer(self, batch): ...", InvalidEngine, "must take"),
        ("1 / 0", InvalidEngine, "ZeroDivisionError"),
        ("import a_package_that_nobody_has", MissingDependency, "a_package_that_nobody_has"),
    ],
)
@pytest.mark.req("LC-36")
def test_a_module_that_is_no_engine_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, kind: type[InvalidEngine | MissingDependency], says: str
) -> None:
    module = f"engine_{abs(hash(code))}"
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(kind, match=says):
        catalog.load_class(catalog.resolve(f"python:{module}:Engine", "any"), model_id="org/m")


def test_a_good_class_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "good_engine.py").write_text(GOOD)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert catalog.load_class(catalog.resolve("python:good_engine:Engine", "any")).__name__ == "Engine"


def test_a_module_that_is_not_on_the_path_is_named() -> None:
    with pytest.raises(InvalidEngine, match="not_a_module_of_anyone") as caught:
        catalog.load_class(catalog.resolve("python:not_a_module_of_anyone.sub:Engine", "any"))
    assert "runtime.files" in caught.value.context.remedy


def test_the_built_in_engines_are_those_that_a_manifest_may_name() -> None:
    assert set(catalog.BUILT_IN) == set(ENGINES)
