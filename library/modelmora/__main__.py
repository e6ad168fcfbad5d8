"""`modelmora` and `python -m modelmora`.

Stays this light on purpose: a process forked from the warm parent imports the main module of its parent again.
"""

import os
import sys


def main() -> None:
    # gRPC's core reads it when it is loaded; its notices of every connection that ends are no news to anyone.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # noqa: TID251 - not a setting of ours
    from modelmora.cli.app import run  # noqa: PLC0415 - see above

    sys.exit(run())


if __name__ == "__main__":
    main()
