"""Conditions of playbooks (`when`, `until`, `that`): a small language over facts and earlier results.

Python's own grammar, from which only names, members, constants, comparisons, `and`, `or`, `not` and `in` are let
through. A member that is not there is None, so that a skipped step's result can be asked about.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping
from typing import Any

_COMPARE: dict[type, Any] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda item, container: item in container,
    ast.NotIn: lambda item, container: item not in container,
}
_WORDS = {"true": True, "false": False, "null": None, "none": None}


class ConditionError(ValueError):
    """The condition is not in the language, or can not be decided on these values."""


def parse(text: str) -> ast.expr:
    """The condition's tree. Raises ConditionError with what is not allowed."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ConditionError(f"broken condition {text!r}: {error.msg}") from None
    _allowed(tree, text)
    return tree


def names(text: str) -> set[str]:
    """The names that the condition asks about."""
    found = {node.id for node in ast.walk(parse(text)) if isinstance(node, ast.Name)}
    return found - set(_WORDS)


def asked(text: str) -> set[str]:
    """The names that the condition asks about, and of each the members: {"facts", "facts.paths"}."""
    members = (node for node in ast.walk(parse(text)) if isinstance(node, ast.Attribute))
    return names(text) | {
        f"{node.value.id}.{node.attr}" for node in members if isinstance(node.value, ast.Name)
    }


def holds(text: str, values: Mapping[str, Any]) -> bool:
    """Whether the condition holds. Raises ConditionError."""
    try:
        return bool(_value(parse(text), values))
    except TypeError as error:
        raise ConditionError(f"condition {text!r}: {error}") from None


def _allowed(node: ast.expr, text: str) -> None:
    if isinstance(node, (ast.Name, ast.Constant)):
        return
    if isinstance(node, ast.BoolOp):
        parts = list(node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        parts = [node.operand]
    elif isinstance(node, ast.Compare) and all(type(op) in _COMPARE for op in node.ops):
        parts = [node.left, *node.comparators]
    elif isinstance(node, ast.Attribute) or _constant_index(node):
        parts = [node.value]  # type: ignore[attr-defined]
    elif isinstance(node, (ast.List, ast.Tuple)):
        parts = list(node.elts)
    else:
        raise ConditionError(f"condition {text!r}: {type(node).__name__} is not allowed")
    for part in parts:
        _allowed(part, text)


def _constant_index(node: ast.expr) -> bool:
    if not isinstance(node, ast.Subscript):
        return False
    index = node.slice
    if isinstance(index, ast.UnaryOp) and isinstance(index.op, ast.USub):
        index = index.operand
    return isinstance(index, ast.Constant)


def _value(node: ast.expr, values: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return _WORDS[node.id] if node.id in _WORDS else _named(node.id, values)
    if isinstance(node, ast.Attribute):
        return _member(_value(node.value, values), node.attr)
    if isinstance(node, ast.Subscript):
        return _member(_value(node.value, values), ast.literal_eval(node.slice))
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item, values) for item in node.elts]
    if isinstance(node, ast.UnaryOp):
        operand = _value(node.operand, values)
        return not operand if isinstance(node.op, ast.Not) else -operand
    if isinstance(node, ast.BoolOp):
        return _bool(node, values)
    assert isinstance(node, ast.Compare)
    return _compare(node, values)


def _named(name: str, values: Mapping[str, Any]) -> Any:
    if name not in values:
        raise ConditionError(f"unknown name {name!r}")
    return values[name]


def _member(value: Any, key: Any) -> Any:
    if isinstance(value, Mapping):
        return value.get(key)
    if isinstance(value, (list, str)) and isinstance(key, int):
        return value[key] if -len(value) <= key < len(value) else None
    return None


def _bool(node: ast.BoolOp, values: Mapping[str, Any]) -> Any:
    result: Any = None
    for part in node.values:
        result = _value(part, values)
        if bool(result) is isinstance(node.op, ast.Or):
            break
    return result


def _compare(node: ast.Compare, values: Mapping[str, Any]) -> bool:
    left = _value(node.left, values)
    for op, part in zip(node.ops, node.comparators):  # noqa: B905  python 3.9 has no strict
        right = _value(part, values)
        if not _COMPARE[type(op)](left, right):
            return False
        left = right
    return True
