"""Text with `{{ variables }}` (Jinja2), strict: an unknown name is an error, a secret goes in whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import jinja2

from commcli.fleet.secrets import MASK, Secret


class TemplateError(Exception):
    """The text can not be rendered; one line, no values. `line` counts from 1 inside the text, 0 if unknown."""

    def __init__(self, reason: str, line: int = 0) -> None:
        super().__init__(reason)
        self.line = line


class Rendered(NamedTuple):
    """The text, and whether a secret is in it."""

    text: str
    secret: bool


class _Insertion:
    """What Jinja calls for every value that it puts into a text; remembers the secrets among them."""

    def __init__(self) -> None:
        self.revealed: list[Secret] = []

    def __call__(self, value: object) -> object:
        if isinstance(value, Secret):
            self.revealed.append(value)
            return value.reveal()
        if value is None:
            raise TemplateError("a value that is null can not be inserted")
        if isinstance(value, bytes):
            raise TemplateError("a binary value can not be inserted; use `blob`")
        return value


# One is enough: rendering never awaits, so no two are under way.
_insertion = _Insertion()


def parse(text: str) -> None:
    """Raise TemplateError if `text` is no template."""
    _compiled(text)


def render(text: str, variables: Mapping[str, object]) -> Rendered:
    """`text` with its variables. Raises TemplateError: unknown name, wrong syntax, null, binary, a changed secret."""
    template = _compiled(text)
    revealed: list[Secret] = []
    _insertion.revealed = revealed
    try:
        result = template.render(variables)
    except jinja2.UndefinedError as error:
        raise TemplateError(_unquoted(error)) from None
    except TemplateError:
        raise
    except Exception as error:
        # Its text could quote a value.
        raise TemplateError(f"can not be rendered ({type(error).__name__})") from None
    if MASK in result and MASK not in text and not any(MASK in secret.reveal() for secret in revealed):
        raise TemplateError("a secret can only be inserted as it is, not filtered or joined")
    return Rendered(result, bool(revealed))


@lru_cache(maxsize=1024)
def _compiled(text: str) -> jinja2.Template:
    try:
        return _environment().from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"broken template: {error.message}", error.lineno) from None


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # these are configuration files, not pages
        keep_trailing_newline=True,
        finalize=_insertion,
    )


def _unquoted(error: jinja2.UndefinedError) -> str:
    return str(error.message).replace("'", '"')
