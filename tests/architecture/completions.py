"""Write the shell completions that typer generates: `python -m tests.architecture.completions FOLDER`.

And the table that answers them (commcli/completion.py), from the command line itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import typer
from typer._click.shell_completion import CompletionItem
from typer._completion_classes import FishComplete, ZshComplete

from commcli import completion
from commcli.cli import command_line

ROOT = Path(__file__).parents[2]

# File names are those that each shell looks for in its folder of completions.
FILES = {"bash": "commcli.bash", "zsh": "_commcli", "fish": "commcli.fish"}


def script(shell: str) -> str:
    """The completion script for `shell`, as commcli itself prints it."""
    environ = os.environ | {"_COMMCLI_COMPLETE": f"source_{shell}"}
    command = [sys.executable, "-m", "commcli"]
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
    return done.stdout


def table() -> str:
    """The table of completions, as JSON."""
    tree = _command(typer.main.get_command(command_line()))
    return json.dumps(tree, separators=(",", ":"), ensure_ascii=False) + "\n"


def _command(command: Any) -> dict[str, Any]:
    if hasattr(command, "commands"):
        inner = {name: held for name, held in command.commands.items() if not held.hidden}
        return {
            "commands": {
                name: [_command(held), _help(name, held.get_short_help_str())] for name, held in inner.items()
            }
        }
    params = command.get_params(typer.Context(command))
    return {
        "options": [_option(param) for param in params if _is_option(param) and not param.hidden],
        "arguments": [[_takes(param), param.nargs == -1] for param in params if not _is_option(param)],
    }


def _is_option(param: Any) -> bool:
    return str(param.param_type_name) == "option"


def _option(param: Any) -> dict[str, Any]:
    return {
        "names": [[name, _help(name, param.help)] for name in (*param.opts, *param.secondary_opts)],
        "takes": None if param.is_flag or param.count else _takes(param),
        "many": param.multiple,
    }


def _takes(param: Any) -> list[str]:
    return [str(choice) for choice in param.type.choices] if param.type.name == "choice" else []


def _help(name: str, text: str | None) -> list[str]:
    """The help as typer words it, for zsh and for fish."""
    item = CompletionItem(name, help=text)
    zsh = ZshComplete(None, {}, "", "").format_completion(item).partition('":"')[2].removesuffix('"')  # type: ignore[arg-type]
    fish = FishComplete(None, {}, "", "").format_completion(item).partition("\t")[2]  # type: ignore[arg-type]
    return [zsh, fish]


def main(folder: Path) -> None:
    (ROOT / "commcli" / completion.TABLE).write_text(table())
    folder.mkdir(exist_ok=True)
    for shell, name in FILES.items():
        (folder / name).write_text(script(shell))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
