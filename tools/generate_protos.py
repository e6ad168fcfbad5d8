"""Compiles protos/ to library/modelmora/v1. Usage: generate_protos.py [OUT]

The folder of the sources is the Python package path, so the generated imports are right as they are.
"""

import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"


def generate(out: Path) -> None:
    """Writes *_pb2.py, *_pb2_grpc.py and their stubs below OUT.

    Raises:
        SystemExit: a source does not compile; protoc has said why.
    """
    sources = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.rglob("*.proto"))
    includes = [PROTOS, files("grpc_tools") / "_proto", files("google.rpc") / ".." / ".."]
    kinds = ("python_out", "mypy_out", "grpc_python_out", "mypy_grpc_out")
    command = ["protoc", *(f"-I{path}" for path in includes), *(f"--{kind}={out}" for kind in kinds), *sources]
    if protoc.main(command) != 0:
        raise SystemExit("protoc failed")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "library")
