"""The model registry: what a hit costs, what N callers of one model save, whether 32 threads are counted exactly.

make bench-registry                              about three minutes
make bench-registry ARGS=--quick                 a look
make bench-registry ARGS="--only sharing"        a part: hits threads sharing large
make bench-registry ARGS="--size 500"            with a model of 500 MB instead of 200 MB
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import registry_hits  # noqa: E402 - after the path is set
import registry_sharing  # noqa: E402
from report import RESULTS, Absent, Figure, publish  # noqa: E402

Part = Callable[[], Iterable[Figure | Absent]]


def main() -> None:
    """Runs the parts that are asked for, and publishes what they measured."""
    options = _options()
    parts = _parts(quick=options.quick, size_mb=options.size or (20 if options.quick else 200))
    entries = [entry for name in (options.only or parts) for entry in parts[name]()]
    figures = [entry for entry in entries if isinstance(entry, Figure)]
    absent = [entry for entry in entries if isinstance(entry, Absent)]
    publish("-".join(["registry", *(options.only or ())]), figures, absent, folder=options.results)


def _options() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="fewer samples of a smaller model, for a look")
    arguments.add_argument("--size", type=int, help="of the model, MB; default 200, quick 20")
    names = _parts(quick=True, size_mb=1)
    arguments.add_argument("--only", action="append", choices=names, help="this part; may be given several times")
    arguments.add_argument("--results", type=Path, default=RESULTS, help="the folder for the JSON; default %(default)s")
    return arguments.parse_args()


def _parts(*, quick: bool, size_mb: int) -> Mapping[str, Part]:
    rounds = 3 if quick else 100
    return {
        "hits": registry_hits.hits,
        "threads": registry_hits.threads,
        "sharing": lambda: registry_sharing.measure((3, 10), size_mb=size_mb, rounds=rounds),
        # The published 4.5 GB and 15 s of three models of 1.5 GB were extrapolated; these are measured.
        "large": lambda: registry_sharing.measure((3,), size_mb=30 if quick else 1500, rounds=3 if quick else 20),
    }


if __name__ == "__main__":
    main()
