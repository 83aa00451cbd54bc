"""Expressions about shapes in `.pt2` files, which torch gives to `eval` while it loads them."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from typing import Any, Final

#: Arithmetic, comparisons, calls by name, and what guards say of inputs: `L['x'].size()[0] >= 2`.
_NODES: Final = (
    ast.Expression, ast.Constant, ast.Name, ast.Attribute, ast.Call, ast.keyword, ast.Load,
    ast.Subscript, ast.Tuple, ast.List, ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare,
    ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip
_ATTRIBUTES: Final = frozenset(
    {"size", "shape", "stride", "storage_offset", "ndim", "dim", "numel", "dtype", "device",
     "isnan", "inf", "args", "kwargs"}
)  # fmt: skip
_BUILTINS: Final = frozenset({"abs", "bool", "float", "int", "len", "max", "min", "pow", "round"})
#: Functions of sympy that evaluate a text themselves.
_EVALUATE: Final = frozenset({"sympify", "S", "parse_expr", "lambdify", "preview", "plot"})
_TEXT: Final = re.compile(r"\w*")


def unsafe_expressions(table: Any) -> Iterator[str]:
    """Expressions of a program's table (`model.json`) that are more than arithmetic."""
    waiting = [table]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, dict):
            waiting.extend(item.values())
            found = item.get("guards_code") or []
            for text in (item.get("expr_str"), *(found if isinstance(found, list) else [found])):
                if text is not None and not _arithmetic(text):
                    yield "an expression that is no arithmetic"


def _arithmetic(text: Any) -> bool:
    try:
        nodes = list(ast.walk(ast.parse(text.strip(), mode="eval")))
    except (AttributeError, MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
        return False
    return all(isinstance(node, _NODES) and _harmless(node) for node in nodes)


def _harmless(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        known = node.id in _BUILTINS or not hasattr(builtins, node.id)
        return known and node.id[0] != "_" and node.id not in _EVALUATE
    if isinstance(node, ast.Attribute):
        return node.attr in _ATTRIBUTES
    if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
        return isinstance(node.value, str) and _TEXT.fullmatch(node.value) is not None
    return True
