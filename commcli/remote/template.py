"""Text with `{{ variables }}` (Jinja2), strict: an unknown name is an error, a secret goes in whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

import jinja2
import jinja2.nodes
from jinja2.sandbox import SandboxedEnvironment

from commcli.fleet.secrets import Secret


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


# A text that is one expression has that expression's value, which need not be text.
_EXPRESSION = re.compile(r"\s*\{\{((?:(?!\{\{|\}\}).)*)\}\}\s*\Z", re.DOTALL)
_AS_IT_IS = "a secret can only be inserted as it is, not filtered, joined or compared"
# One is enough: rendering never awaits, so no two are under way.
_insertion = _Insertion()


def parse(text: str) -> None:
    """Raise TemplateError if `text` is no template."""
    _compiled(text)


def names(text: str) -> set[str]:
    """The variables that the template asks for, but for those that it sets itself. Raises TemplateError."""
    found = list(_parsed(text).find_all(jinja2.nodes.Name))
    return {name.name for name in found if name.ctx == "load"} - {
        name.name for name in found if name.ctx != "load"
    }


def expression(text: str) -> str | None:
    """The expression if `text` is nothing but one ("{{ names }}"), else None."""
    found = _EXPRESSION.match(text)
    return found[1].strip() if found else None


def value(text: str, variables: Mapping[str, object]) -> object:
    """The value of an expression (without braces): a list, a mapping, ... Raises TemplateError as `render`."""
    before = Secret.mistaken
    try:
        found = _environment().compile_expression(text, undefined_to_none=False)(**variables)
        if isinstance(found, jinja2.Undefined):
            str(found)
        if isinstance(found, Iterator):  # of a filter
            found = list(found)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"broken expression: {error.message}") from None
    except jinja2.UndefinedError as error:
        raise TemplateError(_unquoted(error)) from None
    except Exception as error:
        raise TemplateError(f"has no value ({type(error).__name__})") from None
    if Secret.mistaken != before:
        raise TemplateError(_AS_IT_IS)
    return found


def render(text: str, variables: Mapping[str, object]) -> Rendered:
    """`text` with its variables. Raises TemplateError: unknown name, wrong syntax, null, binary, a changed secret."""
    if "{" not in text:
        return Rendered(text, False)  # as most texts are
    template = _compiled(text)
    revealed: list[Secret] = []
    _insertion.revealed = revealed
    before = Secret.mistaken
    try:
        result = template.render(variables)
    except jinja2.UndefinedError as error:
        raise TemplateError(_unquoted(error)) from None
    except TemplateError:
        raise
    except Exception as error:
        # Its text could quote a value.
        raise TemplateError(f"can not be rendered ({type(error).__name__})") from None
    if Secret.mistaken != before:
        raise TemplateError(_AS_IT_IS)
    return Rendered(result, bool(revealed))


@lru_cache(maxsize=1024)
def _parsed(text: str) -> jinja2.nodes.Template:
    try:
        return _environment().parse(text)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"broken template: {error.message}", error.lineno) from None


@lru_cache(maxsize=1024)
def _compiled(text: str) -> jinja2.Template:
    environment = _environment()
    try:
        return environment.from_string(_parsed(text))
    except jinja2.TemplateSyntaxError as error:  # a filter or test that there is not
        raise TemplateError(f"broken template: {error.message}", error.lineno) from None


class _Environment(SandboxedEnvironment):
    """Nothing of a secret is reached but by inserting it."""

    def is_safe_attribute(self, obj: object, attr: str, value: object) -> bool:
        return not isinstance(obj, Secret) and super().is_safe_attribute(obj, attr, value)


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    return _Environment(
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # these are configuration files, not pages
        keep_trailing_newline=True,
        finalize=_insertion,
    )


def _unquoted(error: jinja2.UndefinedError) -> str:
    return str(error.message).replace("'", '"')
