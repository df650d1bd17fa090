"""Secrets are named in the inventory and never written there: `{file: …}`, `{env: …}` or `{command: …}`."""

from __future__ import annotations

import hmac
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NoReturn

from commcli.errors import BadInput

MASK = "***"
COMMAND_TIMEOUT_S = 30.0


class Secret:
    """A value that prints as `***` wherever it lands by accident; only `reveal()` gives it away.

    It refuses to be pickled, and `json.dumps` does not know it: what leaves the process does so on purpose. `mistaken`
    counts how often one was taken for text: printed, or compared with what is no secret.
    """

    __slots__ = ("_value",)
    mistaken: ClassVar[int] = 0

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself. Every call of this is a place to look at in a review."""
        return self._value

    def __repr__(self) -> str:
        Secret.mistaken += 1
        return MASK

    def __format__(self, spec: str) -> str:
        Secret.mistaken += 1
        return format(MASK, spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            Secret.mistaken += 1
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not serialized by accident: use reveal()")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self


@dataclass(frozen=True, slots=True)
class SecretRef:
    """Where a secret is found: exactly one of the three is given. `name` is for messages only.

    `file` is a path (the loader makes it absolute), `env` an environment variable's name, `command` the
    arguments of a program, run without a shell, whose standard output is the secret.
    """

    name: str = "secret"
    file: Path | None = None
    env: str | None = None
    command: tuple[str, ...] | None = None

    def __str__(self) -> str:
        """The place, not the value; of a command only its program, because arguments may say too much."""
        if self.file is not None:
            return f"file {self.file}"
        if self.env is not None:
            return f"env {self.env}"
        return f"command {self.command[0]}" if self.command else "nowhere"

    def read(self) -> Secret:
        """The secret, without the newline at its end. Raises BadInput: not there, not readable, or empty."""
        text = self._text().rstrip("\r\n")
        if not text:
            raise BadInput(f"secret {self.name}: {self} is empty")
        return Secret(text)

    def _text(self) -> str:
        if self.file is not None:
            return self._from_file(self.file)
        if self.env is not None:
            return self._from_env(self.env)
        if self.command:
            return self._from_command(self.command)
        raise BadInput(f"secret {self.name}: neither file nor env nor command is given")

    def _from_file(self, path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise BadInput(f"secret {self.name}: {self}: {error.strerror}") from None
        except UnicodeDecodeError:
            # Not chained: that exception carries the bytes.
            raise BadInput(f"secret {self.name}: {self} is not UTF-8 text") from None

    def _from_env(self, variable: str) -> str:
        try:
            return os.environ[variable]
        except KeyError:
            raise BadInput(f"secret {self.name}: environment variable {variable} is not set") from None

    def _from_command(self, command: tuple[str, ...]) -> str:
        # stderr stays the operator's own: it may hold the one line that helps, and we must not keep it.
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                timeout=COMMAND_TIMEOUT_S,
                check=False,
            )
        except OSError as error:
            raise BadInput(f"secret {self.name}: {self}: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise BadInput(f"secret {self.name}: {self} took over {COMMAND_TIMEOUT_S:g} s") from None
        if done.returncode != 0:
            raise BadInput(f"secret {self.name}: {self} ended with status {done.returncode}")
        try:
            return done.stdout.decode("utf-8")
        except UnicodeDecodeError:
            raise BadInput(f"secret {self.name}: {self} did not print UTF-8 text") from None
