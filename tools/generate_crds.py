"""Writes what follows from modelmora.spec. Usage: generate_crds.py [OUT]

crds/*.yaml, the chart's copy of them, and docs/reference/*.md below OUT, default: the project.
"""

import sys
from pathlib import Path

from modelmora.spec import crd, reference

ROOT = Path(__file__).resolve().parent.parent
DEFINITIONS = ("crds", "charts/modelmora/files/crds")


def generated() -> dict[str, str]:
    """The text of every generated file by its path in the project."""
    definitions = {f"{folder}/{name}": text for folder in DEFINITIONS for name, text in crd.manifests().items()}
    return definitions | {f"docs/reference/{name}": text for name, text in reference.pages().items()}


def generate(out: Path) -> None:
    """Writes the files that differ below OUT."""
    for name, text in generated().items():
        path = out / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
