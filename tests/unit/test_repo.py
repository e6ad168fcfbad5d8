"""The house: what is generated is up to date, what must be absent is absent, what must stay light is light."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PARTS = ("library", "operator", "router", "worker")


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def files(folder: Path, pattern: str) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob(pattern))
        if path.suffix in {".py", ".pyi"}
    }


def test_no_part_is_a_package_itself() -> None:
    """`operator/__init__.py` would shadow the standard library's operator for everything run from the root."""
    assert [part for part in PARTS if (ROOT / part / "__init__.py").exists()] == []
    result = subprocess.run([sys.executable, "-c", "import operator; operator.add"], cwd=ROOT, check=False)
    assert result.returncode == 0


def test_only_the_support_of_the_tests_is_a_package() -> None:
    found = [path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("__init__.py")]
    assert found == ["tests/support/__init__.py"]


@pytest.mark.req("REQ-GRPC-001a", "REQ-GRPC-001b", "REQ-GRPC-001c", "RM-2.3a")
def test_the_generated_protocol_is_that_of_the_protos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")  # noqa: TID251 - protoc's plugins
    tool("generate_protos").generate(tmp_path)
    fresh = files(tmp_path, "*_pb2*.py*")
    kept = files(ROOT / "library", "*_pb2*.py*")
    assert sorted(fresh) == sorted(kept)
    assert [name for name in fresh if fresh[name] != kept[name]] == [], "run `make proto`"


@pytest.mark.req("REQ-DEPLOY-003")
def test_the_reference_of_the_settings_is_that_of_the_code(tmp_path: Path) -> None:
    tool("generate_settings").generate(tmp_path)
    kept = (ROOT / "docs/reference/settings.md").read_text()
    assert (tmp_path / "settings.md").read_text() == kept, "run `make crds`"


def test_the_reference_of_the_metrics_is_that_of_the_code(tmp_path: Path) -> None:
    tool("generate_metrics").generate(tmp_path)
    kept = (ROOT / "docs/reference/metrics.md").read_text()
    assert (tmp_path / "metrics.md").read_text() == kept, "run `make crds`"


def test_the_reference_has_the_settings_of_every_program_but_the_worker() -> None:
    sources = [path.read_text() for part in PARTS for path in (ROOT / part).rglob("*.py")]
    kinds = {name for text in sources for name in re.findall(r"^class (\w+)\(BaseSettings\)", text, re.MULTILINE)}
    shown = {kind.__name__ for _, kinds in tool("generate_settings").PROGRAMS for kind in kinds}
    # Only from program to program: of the pod's maker and the worker, of the router and its processes.
    assert kinds - shown == {"WorkerSettings", "ProcessSettings"}


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        (
            "modelmora, modelmora.client, modelmora.cli.app, modelmora.spec, modelmora.wire.values",
            "torch transformers fastapi kopf",
        ),
        ("modelmora_router.server, modelmora_operator.local", "torch transformers modelmora_worker"),
        ("modelmora_worker.process", "torch transformers modelmora_router modelmora_operator fastapi"),
        ("modelmora.__main__", "torch typer grpc pydantic modelmora.cli.app"),
        ("modelmora.registry", "torch numpy grpc pydantic structlog psutil prometheus_client"),
    ],
    ids=["light-install", "router-and-operator", "worker-before-it-loads", "main-module", "registry"],
)
@pytest.mark.req("IMP-4")
def test_importing_stays_light(modules: str, forbidden: str) -> None:
    program = f"import sys, {modules}; print([name for name in {forbidden.split()} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_no_module_has_a_name_that_says_nothing() -> None:
    empty = {"utils", "util", "helpers", "common", "base", "misc"}
    assert [path for part in PARTS for path in (ROOT / part).rglob("*.py") if path.stem in empty] == []


@pytest.mark.req("RM-1.1a", "RM-1.1b")
def test_one_installation_brings_every_part_with_its_types() -> None:
    from importlib.metadata import distribution  # noqa: PLC0415 - beside what is asked of it

    packages = ("modelmora", "modelmora_operator", "modelmora_router", "modelmora_worker")
    for package in packages:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        assert (Path(spec.origin).parent / "py.typed").exists(), package
    extras = distribution("modelmora").metadata.get_all("Provides-Extra")
    assert set(extras or []) == {"operator", "router", "tracing", "worker", "worker-bare", "serve", "dev"}


@pytest.mark.req("RM-1.1c", "RM-1.1d", "RM-1.1e")
def test_the_workflow_runs_what_anyone_can_run_here() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert "bash .ci/run" in [step.get("run") for step in steps]
    script, makefile = (ROOT / ".ci/run").read_text(), (ROOT / "Makefile").read_text()
    assert [f"make {target}" in script for target in ("check", "wheel", "test")] == [True] * 3
    recipe = makefile.split("\ncheck:")[1].split("\n\n")[0]
    assert [tool in recipe for tool in ("ruff format --check", "ruff check", "mypy", "lint-imports")] == [True] * 4


@pytest.mark.slow
@pytest.mark.req("RM-1.1f")
def test_the_documentation_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "engines" / "index.html").exists()
