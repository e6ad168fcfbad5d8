"""Writes what each image installs: the project's dependencies and those of its extras. Runs inside a build.

Usage: image_requirements.py PYPROJECT FOLDER
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

IMAGES = {
    "operator": ("operator",),
    "router": ("router", "tracing"),
    "worker-bare": ("worker-bare",),
    "worker": ("worker",),
}
_OWN_EXTRA = re.compile(r"modelmora\[([a-z, -]+)\]")


def requirements(project: dict[str, Any], *extras: str) -> list[str]:
    """Sorted, each once; an extra that names other extras of the project stands for what they need."""
    known = project["optional-dependencies"]
    return sorted({*project["dependencies"], *(need for extra in extras for need in _of(known, extra))})


def _of(extras: dict[str, list[str]], extra: str) -> Iterator[str]:
    for requirement in extras[extra]:
        if own := _OWN_EXTRA.fullmatch(requirement):
            for name in own[1].split(","):
                yield from _of(extras, name.strip())
        else:
            yield requirement


def main(pyproject: Path, folder: Path) -> None:
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    folder.mkdir(parents=True, exist_ok=True)
    for image, extras in IMAGES.items():
        (folder / f"{image}.txt").write_text("\n".join(requirements(project, *extras)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
