"""Entry point: run the command line, and turn what it raised into one line and the right exit code."""

from __future__ import annotations

import sys


def main() -> None:
    from commcli.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
