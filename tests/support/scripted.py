"""ModelDeployments of the scripted engine: real worker processes that start in milliseconds."""

from pathlib import Path
from typing import Any

from tests.support.servers import write_manifest

_ENGINE = Path(__file__).with_name("scripted_engine.py")


def scripted(folder: Path, name: str, *, model_id: str = "", version: str = "", model: Any = None, **spec: Any) -> Path:
    """Writes a ModelDeployment of the scripted engine to `folder`; config.parameters come in `model`."""
    config = {"parameters": {"log": str(log_of(folder, name)), **(model or {})}}
    runtime = {"engine": "python:scripted_engine:Scripted"} | spec.pop("runtime", {})
    runtime["files"] = [{"path": "scripted_engine.py", "content": _ENGINE.read_text()}]
    folder.mkdir(exist_ok=True)
    files = folder.parent / "model-files"
    files.mkdir(exist_ok=True)
    (files / "weights.txt").write_text("none")
    source = {"uri": files.as_uri()}
    said = {"id": model_id, "version": version}
    identity = {field: value for field, value in said.items() if value}
    body = {**identity, "task": "txt2embed", "source": source, "config": config}
    return write_manifest(folder, name, model=body, runtime=runtime, **spec)


def log_of(folder: Path, name: str) -> Path:
    return folder.parent / f"{name}.log"


def events(folder: Path, name: str) -> list[str]:
    """What the engine of a deployment did so far: "load", "infer TEXT"."""
    log = log_of(folder, name)
    return log.read_text().splitlines() if log.exists() else []
