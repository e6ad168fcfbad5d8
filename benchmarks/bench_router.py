"""The router: what its way costs, how near batching comes to the engine, whether CRITICAL is kept alive, what fails.

make bench-router                          about twenty minutes
make bench-router ARGS=--quick             a look
make bench-router ARGS="--only noop"       a part: noop payloads overhead minilm queue priorities steady faults streams
make bench-router ARGS=--rivals            also servers from PyPI, installed into environments that are then removed

The load generator runs on the same cores as the server, a process of its own.
"""

import argparse
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import router_faults  # noqa: E402 - after the path is set
import router_minilm  # noqa: E402
import router_noop  # noqa: E402
import router_overhead  # noqa: E402
import router_payloads  # noqa: E402
import router_priorities  # noqa: E402
import router_queue  # noqa: E402
import router_streams  # noqa: E402
from report import RESULTS, Absent, Figure, publish  # noqa: E402

Part = Callable[[], Iterable[Figure | Absent]]


def main() -> None:
    """Runs the parts that are asked for, publishes what they measured; 1 if one of them failed."""
    options = _options()
    rounds = options.rounds or (2 if options.quick else 5)
    seconds = options.seconds or (1.5 if options.quick else 4.0)
    parts = _parts(quick=options.quick, rounds=rounds, seconds=seconds, rivals=options.rivals)
    chosen = {name: parts[name] for name in (options.only or parts)}
    entries = [entry for name, part in chosen.items() for entry in _run(name, part)]
    figures = [entry for entry in entries if isinstance(entry, Figure)]
    absent = [entry for entry in entries if isinstance(entry, Absent)]
    publish("-".join(["router", *(options.only or ())]), figures, absent, folder=options.results)
    sys.exit(any(entry.why.startswith("failed") for entry in absent))


def _options() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="fewer and shorter rounds, for a look")
    arguments.add_argument("--rounds", type=int, help="of each part that is repeated; default 5")
    arguments.add_argument("--rivals", action="store_true", help="also servers from PyPI; installs some GB")
    arguments.add_argument("--seconds", type=float, help="of each load that is repeated; default 4")
    names = _parts(quick=True, rounds=1, seconds=1.0, rivals=False)
    arguments.add_argument("--only", action="append", choices=names, help="this part; may be given several times")
    arguments.add_argument("--results", type=Path, default=RESULTS, help="the folder for the JSON; default %(default)s")
    return arguments.parse_args()


def _parts(*, quick: bool, rounds: int, seconds: float, rivals: bool) -> Mapping[str, Part]:
    return {
        "noop": lambda: router_noop.measure(rounds=rounds, seconds=seconds),
        "payloads": lambda: router_payloads.measure(rounds=rounds, seconds=seconds),
        "overhead": lambda: router_overhead.measure(rounds=rounds, seconds=seconds),
        "minilm": lambda: router_minilm.measure(rounds=rounds, seconds=seconds, rivals=rivals),
        "queue": lambda: router_queue.measure(rounds=3 if quick else 51),
        "priorities": lambda: router_priorities.measure(seconds=4 if quick else 15),
        "steady": lambda: router_faults.steady(seconds=5 if quick else 60),
        "faults": lambda: router_faults.kill(rounds=1 if quick else rounds, seconds=6 if quick else 15),
        "streams": lambda: router_streams.measure(rounds=rounds),
    }


def _run(name: str, part: Part) -> list[Figure | Absent]:
    """What a part measured; one that fails does not take the others with it."""
    entries: list[Figure | Absent] = []
    try:
        entries.extend(part())
    except Exception as error:  # noqa: BLE001 - said below, and by the exit code
        traceback.print_exc()
        entries.append(Absent(name, f"failed: {type(error).__name__}: {error}"))
    return entries


if __name__ == "__main__":
    main()
