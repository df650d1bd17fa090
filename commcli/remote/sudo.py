"""Root by sudo(8), for a login that is somebody else. The password goes over stdin, never into an argument.

sudo reads a line of stdin if it asks for a password; if it does not ask (NOPASSWD, a ticket of a moment ago), that line
would reach the program, and its traceback. So a few lines of shell come first, which drop all lines up to a nonce.
"""

from __future__ import annotations

import secrets as random
import shlex
from dataclasses import dataclass

from commcli.fleet.secrets import Secret

# Not the program's own answers: sudo's, and those of a shell that finds no sudo.
_STATUSES = (1, 127)
_WORDS = ("sudo: ", "sorry, ", " is not in the sudoers file", " is not allowed to ", "sudo: not found")

_DROP = 'n=$1;shift;while IFS= read -r l;do [ "$l" = "$n" ]&&exec "$@";done;exit 125'


@dataclass(frozen=True, slots=True)
class Sudo:
    """How a login becomes root: without a password, where sudo must not ask for one, or with this one."""

    password: Secret | None = None

    def command(self, line: str) -> tuple[str, bytes]:
        """The command line in place of `line`, and what stdin must begin with."""
        if self.password is None:
            return shlex.join(["sudo", "-n", "-H", "--", "sh", "-c", line]), b""
        nonce = random.token_hex(16)
        words = ["sudo", "-S", "-H", "-p", "", "--", "sh", "-c", _DROP, "commcli", nonce, "sh", "-c", line]
        return shlex.join(words), f"{self.password.reveal()}\n{nonce}\n".encode()


def refusal(status: int | None, said: str) -> str:
    """The line in which sudo refused, "" if it was not sudo that ended the command with this status."""
    if status not in _STATUSES:
        return ""
    lines = [line.strip() for line in said.splitlines() if any(word in line.lower() for word in _WORDS)]
    # "Sorry, try again." comes before the line that says how it ended.
    return lines[-1].removeprefix("sudo: ") if lines else ""
