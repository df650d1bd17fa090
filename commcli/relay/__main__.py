"""`python3 relay.pyz serve|supervise|stop|reload|upgrade|ctl ...`: the relay as a node runs it."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import List, Optional

from commcli import __version__
from commcli.relay import config as configs
from commcli.relay.config import ConfigError
from commcli.relay.process import control, supervise

NEEDS_RESTART = 9
TLS_HELP = (
    "calls over TLS, which can not move: do nothing while there are any, cut them, or wait for their end"
)
USER_HELP = "give root up for this user before anything is opened; who is not root stays who he is"


def main(arguments: Optional[List[str]] = None) -> int:
    """Run one verb. Exit code: 0 good, 1 the relay said no, 2 wrong use, 3 bad configuration, 4 no answer, 75 runs.

    `reload` also: 9 what changed needs a restart (and what did not is in force). `upgrade` also: 9 only a restart can.
    """
    options = _parser().parse_args(arguments)
    try:
        return int(options.act(options))
    except ConfigError as error:
        print(f"commcli-relay: {error}", file=sys.stderr)
        return 3


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="relay.pyz", description="The commcli relay.")
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, act, text in (
        ("serve", _serve, "run the relay in the foreground"),
        ("supervise", _supervise, "run it and restart it when it dies"),
        ("stop", _stop, "stop the supervisor and its relay"),
        ("reload", _reload, "read configuration, users and secrets again; every call stays"),
        (
            "upgrade",
            _upgrade,
            "let the program that is there now take the place of the running one; every call stays",
        ),
    ):
        sub = verbs.add_parser(verb, help=text)
        sub.add_argument("--config", type=Path, required=True, help="etc/relay.json")
        sub.set_defaults(act=act)
        if verb == "serve":
            sub.add_argument("--follow-parent", action="store_true", help="end when the parent process ends")
            sub.add_argument("--takeover", type=int, help=argparse.SUPPRESS)
        if verb == "upgrade":
            sub.add_argument("--tls", choices=("refuse", "cut", "wait"), default="refuse", help=TLS_HELP)
            sub.add_argument(
                "--wait-s", type=float, default=control.WAIT_S, help="for --tls wait: seconds at most"
            )
        if verb == "supervise":
            sub.add_argument("--daemon", action="store_true", help="go into the background")
            sub.add_argument("--user", default="", help=USER_HELP)
    ctl = verbs.add_parser("ctl", help="ask the running relay")
    ctl.add_argument("--socket", type=Path, required=True, help="run/control.sock")
    ctl.add_argument("cmd", help="status, flows, paths, mesh, drain, undrain, reload, upgrade, metrics")
    ctl.add_argument("arguments", nargs="?", default="{}", help="a JSON object of arguments")
    ctl.set_defaults(act=_ctl)
    return parser


def _serve(options: argparse.Namespace) -> int:
    from commcli.relay.process.daemon import serve
    from commcli.relay.process.takeover import Takeover

    takeover = None
    if options.takeover is not None:
        takeover = Takeover(options.takeover, follow_parent=options.follow_parent)
    elif options.follow_parent:
        # A supervisor that is SIGKILLed must not leave a relay behind that holds the ports of the next one.
        supervise.die_with_parent(signal.SIGTERM)
    return serve(configs.load(options.config), __version__, lambda: configs.load(options.config), takeover)


def _supervise(options: argparse.Namespace) -> int:
    program, file = str(Path(sys.argv[0]).absolute()), options.config.absolute()
    if options.user:
        from commcli.relay.process import privileges

        privileges.become(options.user)
        privileges.must_run(sys.executable, program)
    config = configs.load(file)
    command = [sys.executable, "-I", program, "serve", "--follow-parent", "--config", str(file)]
    return supervise.supervise(config, command, daemon=options.daemon)


def _stop(options: argparse.Namespace) -> int:
    return supervise.stop(configs.load(options.config))


def _reload(options: argparse.Namespace) -> int:
    path = configs.load(options.config).path("run/control.sock")
    try:
        answer = control.ask(path, {"cmd": "reload"})
    except (OSError, ValueError) as error:
        print(f"commcli-relay: {path}: {error}", file=sys.stderr)
        return 4
    if not answer.get("ok"):
        print(f"commcli-relay: {answer.get('error')}", file=sys.stderr)
        return 1
    print(json.dumps(answer))
    if not answer.get("restart"):
        return 0
    print(f"waits for a restart: {', '.join(answer['restart'])}", file=sys.stderr)
    return NEEDS_RESTART


def _upgrade(options: argparse.Namespace) -> int:
    path = configs.load(options.config).path("run/control.sock")
    request = {"cmd": "upgrade", "tls": options.tls, "wait_s": options.wait_s}
    try:
        answer = control.ask(path, request)
    except (ConnectionRefusedError, FileNotFoundError) as error:
        # Nobody is there who has calls. One that is merely slow to answer has, and must not be restarted.
        print(f"commcli-relay: {path}: nobody serves: {error}", file=sys.stderr)
        return NEEDS_RESTART
    except (OSError, ValueError) as error:
        print(f"commcli-relay: {path}: {error}", file=sys.stderr)
        return 4
    if answer.get("ok"):
        print(json.dumps(answer))
        return 0
    print(f"commcli-relay: {answer.get('error')}", file=sys.stderr)
    # One that is too old to know the word can only be restarted too.
    return NEEDS_RESTART if answer.get("restart") or "unknown command" in str(answer.get("error")) else 1


def _ctl(options: argparse.Namespace) -> int:
    try:
        arguments = json.loads(options.arguments)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        print("commcli-relay: the arguments are no JSON object", file=sys.stderr)
        return 2
    try:
        answer = control.ask(options.socket, {**arguments, "cmd": options.cmd})
    except (OSError, ValueError) as error:
        print(f"commcli-relay: {options.socket}: {error}", file=sys.stderr)
        return 4
    print(json.dumps(answer))
    return 0 if answer.get("ok") else 1


if __name__ == "__main__":
    sys.exit(main())
