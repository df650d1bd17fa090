"""Entry point: run the command line, and turn what it raised into one line and the right exit code."""

from __future__ import annotations

import sys
import traceback


def main() -> None:
    try:
        from commcli.cli import run
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        # Half an installation. Python's own exit code, 1, would read as "unhealthy" to a script, and as WARNING to a
        # monitoring system, which must see 3 (UNKNOWN) instead.
        traceback.print_exc()
        if "--plugin" in sys.argv:
            print(f"UNKNOWN - commcli does not start: {error}".splitlines()[0])
            sys.exit(3)
        sys.exit(70)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
