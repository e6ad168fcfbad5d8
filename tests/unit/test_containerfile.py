"""What the images are made of, without building one."""

import subprocess
import tomllib
from pathlib import Path

import pytest

from tools import image_requirements

ROOT = Path(__file__).parents[2]
CONTAINERFILE = ROOT / "containers" / "Containerfile"
TARGETS = ("operator", "router", "worker-bare", "worker")


def cut(target: str) -> "subprocess.CompletedProcess[str]":
    command = [str(ROOT / "tools" / "containerfile-target"), target]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def requirements(image: str) -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return image_requirements.requirements(project, *image_requirements.IMAGES[image])


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_is_the_last_stage_of_what_is_cut_off_before_the_next(target: str) -> None:
    text = cut(target).stdout
    stages = [line.split()[-1] for line in text.splitlines() if line.startswith("FROM ")]
    assert stages[-1] == target
    assert CONTAINERFILE.read_text(encoding="utf-8").startswith(text)
    assert text.rstrip().splitlines()[-1].startswith(("ENTRYPOINT", "#")), "the stage is cut off in its middle"


def test_the_worker_is_what_a_builder_makes_that_is_told_nothing() -> None:
    assert cut("worker").stdout == CONTAINERFILE.read_text(encoding="utf-8")


def test_a_target_that_is_none_is_refused() -> None:
    answer = cut("nothing")
    assert answer.returncode == 1
    assert "no stage nothing" in answer.stderr


@pytest.mark.parametrize("image", ["operator", "router", "worker-bare"])
def test_only_the_worker_brings_torch(image: str) -> None:
    names = [requirement.partition(">")[0] for requirement in requirements(image)]
    assert not {"torch", "transformers", "sentence-transformers"} & set(names)
    assert "grpcio" in names


def test_an_extra_that_names_another_stands_for_what_that_needs() -> None:
    assert set(requirements("worker-bare")) < set(requirements("worker"))
    assert not [name for name in requirements("worker") if name.startswith("modelmora")]


def test_no_image_runs_as_root() -> None:
    text = CONTAINERFILE.read_text(encoding="utf-8")
    stages = text.split("\nFROM ")[1:]
    images = [stage for stage in stages if stage.split("\n")[0].split()[-1] in TARGETS]
    assert len(images) == len(TARGETS)
    assert all("\nUSER 65532:65532\n" in stage for stage in images)
