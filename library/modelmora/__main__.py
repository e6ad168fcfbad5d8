"""`modelmora` and `python -m modelmora`.

Stays this light on purpose: a process forked from the warm parent imports the main module of its parent again.
"""

import sys


def main() -> None:
    from modelmora.cli.app import run  # noqa: PLC0415 - see above

    sys.exit(run())


if __name__ == "__main__":
    main()
