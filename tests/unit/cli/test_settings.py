"""default < file < environment < flag, and a wrong setting is named."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from modelmora.cli import settings
from modelmora.errors import InvalidSettings


class PortSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=settings.PREFIX, frozen=True)

    rest_port: int = Field(default=8080, ge=0)


@pytest.mark.req("REQ-DEPLOY-003")
@pytest.mark.parametrize(
    ("file", "env", "flag", "expected"),
    [
        ({}, None, None, 8080),
        ({"rest_port": 1}, None, None, 1),
        ({"rest_port": 1}, "2", None, 2),
        ({"rest_port": 1}, "2", 3, 3),
        ({"rest_port": 1}, None, 3, 3),
        ({}, "2", None, 2),
        ({}, "2", 3, 3),
        ({}, None, 0, 0),
    ],
    ids=[
        "default",
        "file",
        "env-over-file",
        "flag-over-all",
        "flag-over-file",
        "env",
        "flag-over-env",
        "zero-is-given",
    ],
)
def test_precedence(
    monkeypatch: pytest.MonkeyPatch, file: dict[str, Any], env: str | None, flag: int | None, expected: int
) -> None:
    if env is not None:
        monkeypatch.setenv("MODELMORA_REST_PORT", env)
    assert settings.read(PortSettings, file_values=file, flags={"rest_port": flag}).rest_port == expected


@pytest.mark.parametrize(("file", "env"), [({"rest_port": -1}, None), ({}, "many")], ids=["file", "env"])
def test_a_wrong_value_names_the_setting(
    monkeypatch: pytest.MonkeyPatch, file: dict[str, Any], env: str | None
) -> None:
    if env is not None:
        monkeypatch.setenv("MODELMORA_REST_PORT", env)
    with pytest.raises(InvalidSettings) as caught:
        settings.read(PortSettings, file_values=file, flags={})
    assert caught.value.context.field == "rest_port"
    assert "MODELMORA_REST_PORT" in caught.value.context.remedy


def test_a_file_may_write_names_as_manifests_do(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("restPort: 1234\n")
    assert settings.read_file(file, [PortSettings]) == {"rest_port": 1234}


@pytest.mark.parametrize(
    ("content", "field"),
    [("restPrt: 1\n", "rest_prt"), ("- 1\n", ""), ("a: [\n", "")],
    ids=["unknown", "no-mapping", "no-yaml"],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, content: str, field: str) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(content)
    with pytest.raises(InvalidSettings) as caught:
        settings.read_file(file, [PortSettings])
    assert (caught.value.context.file, caught.value.context.field) == (str(file), field)


def test_variables_that_are_no_settings_are_found() -> None:
    names = ["PATH", "MODELMORA_REST_PORT", "MODELMORA_REST_PRT", "MODELMORA_SERVER", "MODELMORA_WORKER_ADDRESS"]
    names += ["MODELMORA_SOCKET", "MODELMORA_SHARED_MEMORY_DIR"]
    assert settings.unknown_variables(names, [PortSettings]) == ["MODELMORA_REST_PRT"]


@pytest.mark.parametrize(
    ("file", "env", "flag", "expected"),
    [
        ({"sources": ["a", "b"]}, None, None, ("a", "b")),
        ({"sources": ["a"]}, "b, c", None, ("b", "c")),
        ({"sources": ["a"]}, "b", ["d"], ("d",)),
        ({}, None, None, ()),
    ],
    ids=["file", "env", "flag", "nothing"],
)
def test_what_to_serve_is_a_setting_too(
    monkeypatch: pytest.MonkeyPatch,
    file: dict[str, Any],
    env: str | None,
    flag: list[str] | None,
    expected: tuple[str, ...],
) -> None:
    if env is not None:
        monkeypatch.setenv("MODELMORA_SOURCES", env)
    read = settings.read(settings.ServeSettings, file_values=file, flags={"sources": flag})
    assert read.sources == expected


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="cannot be read"):
        settings.read_file(tmp_path / "none.yaml", [PortSettings])
