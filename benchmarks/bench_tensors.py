"""Shared memory: how fast tensors pass, what a hand-over costs, beside pickle and protobuf, and what is left behind.

make bench-tensors                        about seven minutes
make bench-tensors ARGS=--quick           a look, up to 10 MB
make bench-tensors ARGS="--only rivals"   a part: passes rivals cycles requests
make bench-tensors ARGS="--leaks 100000"  also so many tensors, with processes that are killed at random
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import tensors_cycles  # noqa: E402 - after the path is set
import tensors_leaks  # noqa: E402
import tensors_passes  # noqa: E402
import tensors_requests  # noqa: E402
import tensors_rivals  # noqa: E402
from report import RESULTS, Figure, publish  # noqa: E402

Part = Callable[[], Iterable[Figure]]


def main() -> None:
    """Runs the parts that are asked for, and publishes what they measured."""
    options = _options()
    parts = _parts(options)
    chosen = options.only or [name for name in parts if name != "leaks" or options.leaks]
    figures = [each for name in chosen for each in parts[name]()]
    publish("-".join(["tensors", *(options.only or ())]), figures, folder=options.results)


def _options() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="fewer rounds and no more than 10 MB, for a look")
    arguments.add_argument("--rounds", type=int, help="of each pass; default 100")
    arguments.add_argument("--leaks", type=int, default=0, metavar="N", help="also passes N tensors among kills")
    names = ("passes", "rivals", "cycles", "requests", "leaks")
    arguments.add_argument("--only", action="append", choices=names, help="this part; may be given several times")
    arguments.add_argument("--results", type=Path, default=RESULTS, help="the folder for the JSON; default %(default)s")
    return arguments.parse_args()


def _parts(options: argparse.Namespace) -> Mapping[str, Part]:
    rounds = options.rounds or (10 if options.quick else 100)
    largest = 10**7 if options.quick else 10**9
    few = min(rounds, 20)  # a gigabyte by a rival takes seconds
    return {
        "passes": lambda: tensors_passes.measure(rounds=rounds, largest=largest),
        "rivals": lambda: tensors_rivals.measure(rounds=rounds, rounds_of_1_gb=few, largest=largest),
        "cycles": lambda: tensors_cycles.measure(rounds=rounds),
        "requests": lambda: tensors_requests.measure(rounds=few, largest=largest),
        "leaks": lambda: tensors_leaks.measure(tensors=options.leaks or (400 if options.quick else 100_000)),
    }


if __name__ == "__main__":
    main()
