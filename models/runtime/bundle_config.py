"""What of a MONAI bundle's `inference.json` may be evaluated, and what it asks for.

A bundle's configuration is a program: it names Python callables and holds expressions. The
file is hashed like weights; beside that, only networks and inferers of MONAI and layers of
torch are called here, and expressions are arithmetic over them.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from models.runtime.base import ModelFailure

Json = dict[str, Any]

#: Modules whose classes a bundle may name, and packages whose networks' functions it may call.
_CLASSES: Final = (
    "monai.networks.nets",
    "monai.networks.blocks",
    "monai.networks.layers",
    "monai.inferers",
    "monai.apps.detection.networks",
    "monai.apps.detection.utils",
    "torch.nn",
)
_FUNCTIONS: Final = ("monai.networks.nets", "monai.apps.detection.networks")
#: Where a name without a module is looked for.
_HOMES: Final = (
    "monai.networks.nets",
    "monai.networks.blocks",
    "monai.inferers",
    "monai.apps.detection.networks.retinanet_network",
    "monai.apps.detection.networks.retinanet_detector",
)
_PLAIN: Final = frozenset({"torch.device", "torch.cuda.is_available", "torch.float32"})
#: Methods of what another entry gives.
_METHODS: Final = frozenset({"to", "eval"})
_BUILTINS: Final = frozenset({"int", "float", "len", "list", "tuple", "min", "max", "round"})
_NODES: Final = (
    ast.Expression, ast.Constant, ast.Name, ast.Attribute, ast.Call, ast.keyword, ast.List,
    ast.Tuple, ast.Dict, ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.IfExp, ast.Compare, ast.Load,
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.USub, ast.Not, ast.And, ast.Or,
    ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE,
)  # fmt: skip

_REFERENCE: Final = re.compile(r"@(\w*(?:(?:::|#)\w+)*)")
#: Ids that mean the same to MONAI and to us, and references from where they stand.
_ID: Final = re.compile(r"\w[\w .-]*")
_RELATIVE: Final = re.compile(r"[@%](?:::|#)|@\w*(?:(?:::|#)\w+)*(?:::|#)(?!\w)")
#: Loaded from elsewhere by MONAI and torchvision.
_DOWNLOADS: Final = frozenset({"pretrained", "progress", "weights"})


def check_config(config: Json, wanted: str) -> Json:
    """Refuse what an entry leads to unless all of it is a network or an inferer.

    Args:
        config: the whole configuration.
        wanted: id of the entry; everything that it refers to is looked at.

    Returns:
        The top of the configuration without what nobody looked at: MONAI reads files that
        are named anywhere in it.

    Raises:
        ModelFailure: `weights-unsafe`; `weights-corrupt` when an entry is missing.
    """
    seen: set[str] = set()
    waiting = [wanted]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += _references(_entry(config, name))
    reached = {re.split("::|#", name)[0] for name in seen}
    kept = {key: value for key, value in config.items() if key in reached}
    # A reference to `a::b` does not reach what stands beside it, but MONAI gets it as well.
    _refuse_elsewhere(kept)
    return kept


def _refuse_elsewhere(value: Any) -> None:
    """Refuse ids that we and MONAI would read differently, and files.

    MONAI resolves `@##a` from where it stands, and an entry called `a::b` hides `b` in `a`.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not _ID.fullmatch(key):
                raise ModelFailure("weights-unsafe", "the configuration has an id of no words")
            _refuse_elsewhere(item)
    elif isinstance(value, list):
        for item in value:
            _refuse_elsewhere(item)
    elif isinstance(value, str):
        if value.startswith("%"):
            raise ModelFailure("weights-unsafe", "the configuration includes another file")
        if _RELATIVE.search(value):
            raise ModelFailure("weights-unsafe", "the configuration has a relative reference")


def _entry(config: Json, name: str) -> Any:
    found: Any = config
    for part in re.split("::|#", name):
        if isinstance(found, dict) and part in found:
            found = found[part]
        elif isinstance(found, list) and part.isdigit() and int(part) < len(found):
            found = found[int(part)]
        else:
            raise ModelFailure("weights-corrupt", "the configuration refers to nothing")
    return found


def _references(value: Any) -> Iterator[str]:
    """What a value refers to; raises for anything in it that is not allowed."""
    if isinstance(value, Mapping):
        if value.get("_mode_", "default") != "default":
            raise ModelFailure("weights-unsafe", "the configuration sets _mode_")
        if "_target_" in value:
            _check_target(value)
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)
    elif isinstance(value, str):
        if value.startswith("$"):
            _check_expression(value[1:])
        yield from _REFERENCE.findall(value) if value[:1] in "@$" else ()


def _check_target(value: Mapping[str, Any]) -> None:
    target = value["_target_"]
    if not isinstance(target, str) or not re.fullmatch(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*", target):
        raise ModelFailure("weights-unsafe", "the configuration names no class")
    if "." not in target:
        homes = (home for home in _HOMES if hasattr(importlib.import_module(home), target))
        target = f"{next(homes, 'nowhere')}.{target}"
    if not _allowed(target) or any(value.get(name) for name in _DOWNLOADS):
        raise ModelFailure("weights-unsafe", "the configuration names what is no network")


def _allowed(path: str) -> bool:
    """Whether a dotted path is a class or function of where networks and inferers live."""
    if path in _PLAIN:
        return True
    module, _, name = path.rpartition(".")
    if not module.startswith(_CLASSES):
        return False
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return False
    # Modules hold what they import: `monai.networks.nets.unet.torch`.
    home = getattr(found, "__module__", None) or ""
    return (inspect.isclass(found) and home.startswith(_CLASSES)) or (
        inspect.isfunction(found) and home.startswith(_FUNCTIONS)
    )


def _check_expression(text: str) -> None:
    try:
        tree = ast.parse(_REFERENCE.sub("reference", text).strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ModelFailure("weights-unsafe", "the configuration runs a statement") from error
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if not isinstance(node, _NODES) or not _harmless(node, inner):
            raise ModelFailure("weights-unsafe", "the configuration calls what is no network")


def _harmless(node: ast.AST, inner: set[int]) -> bool:
    """Whether one node is; `inner` are the values that attributes are taken of."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
        # MONAI puts quotes in place of a reference, also inside of a text.
        return isinstance(node.value, str) and "reference" not in node.value
    if isinstance(node, ast.Name):
        roots = {"monai", "torch"} if id(node) in inner else _BUILTINS
        return node.id == "reference" or node.id in roots
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        # The first parameter of a function that makes a network is `pretrained`.
        called = _path(node.func) or ""
        made = called.startswith("monai.networks.nets.") and called.rpartition(".")[2].islower()
        return not (made and node.args)
    if isinstance(node, ast.keyword):
        return node.arg is not None and node.arg not in _DOWNLOADS
    if isinstance(node, ast.Attribute) and id(node) not in inner:
        path = _path(node)
        return node.attr in _METHODS if path is None else _allowed(path)
    return not isinstance(node, ast.Attribute) or _path(node) is not None


def _path(node: ast.expr) -> str | None:
    """`monai.networks.nets.UNet` of nested attributes that begin with `monai` or `torch`."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id == "reference":
        return None
    return ".".join([node.id, *reversed(parts)])


def transforms(config: Json, name: str) -> list[Json]:
    """Transforms of a `Compose` in the configuration; none when it has no such entry."""
    entry = config.get(name)
    listed = entry.get("transforms", []) if isinstance(entry, dict) else []
    listed = listed if isinstance(listed, list) else []
    return [
        item for item in listed if isinstance(item, dict) and item.get("_disabled_") is not True
    ]
