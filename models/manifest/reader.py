"""Reads `manifest.yaml`; errors name the file, the line and the reason."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from models.manifest.base import Location, ManifestError, Problem
from models.manifest.model import Manifest
from models.manifest.outputs import OUTPUT_KINDS
from models.manifest.reasons import causes, reason, yaml_problem
from models.manifest.runtimes import RUNTIME_KINDS

#: Largest manifest, in bytes.
MAX_BYTES = 1_000_000

#: Longest number, in characters. YAML 1.1 writes integers to the base of 60 too, and time and
#: memory for a long one grow with its square.
_LONGEST_NUMBER: Final = 100
_NUMBERS: Final = frozenset({"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"})

#: Written as escapes in YAML. Databases and FHIR strings take none of them; terminals obey, and
#: marks of direction make a text look like another.
_CONTROL: Final = re.compile(
    "[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)

#: Most problems that are told of one manifest.
MOST_PROBLEMS: Final = 100

#: What PyYAML raises for a scalar that is not of its tag, such as 2024-99-99 or `!!int x`.
_WRONG_SCALAR: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def read_manifest(path: Path) -> Manifest:
    """Read and check one manifest.

    Raises:
        ManifestError: unreadable, not YAML, or not a manifest; with every problem that is
            found and its line.
    """
    text = _text(path)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _check_keys(root)
        data = _constructed(root)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = yaml_problem(getattr(error, "problem", None) or "not YAML")
        raise ManifestError(f"{path}:{mark.line + 1 if mark else 1}: {problem}") from error
    except RecursionError as error:
        raise ManifestError(f"{path}:1: nested too deeply") from error
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        found = islice(causes(error.errors(include_url=False, include_input=False)), MOST_PROBLEMS)
        problems = tuple(_problem(root, item) for item in found)
        lines = (f"{path}:{item.line}: {item.field}: {item.reason}" for item in problems)
        raise ManifestError("\n".join(lines), problems) from error


def line_of(path: Path, field: str) -> int:
    """Line (from 1) of a field of a manifest that can be read, or of what it would be in.

    Args:
        field: dotted path, as in `Problem.field`.
    """
    parts = (int(part) if part.isdigit() else part for part in field.split("."))
    return _walk(yaml.compose(_text(path), Loader=yaml.SafeLoader), tuple(parts))[0]


def _text(path: Path) -> str:
    try:
        # What may be a pipe would otherwise wait for somebody who writes.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ManifestError(f"{path}: cannot be read: is no file")
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ManifestError(f"{path}: cannot be read: longer than {MAX_BYTES} bytes")
        return data.decode("utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ManifestError(f"{path}: cannot be read: there is no such file") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: cannot be read: is no text in UTF-8") from error
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {type(error).__name__}") from error


def _constructed(root: yaml.Node | None) -> Any:
    """What `yaml.safe_load` makes of a text.

    Raises:
        yaml.YAMLError: a scalar is not what its tag says.
    """
    if root is None:
        return None
    try:
        return yaml.SafeLoader("").construct_document(root)
    except _WRONG_SCALAR as error:
        mark = next(_wrong_scalars(root), root).start_mark
        raise yaml.MarkedYAMLError(problem="is not what its tag says", problem_mark=mark) from error


def _wrong_scalars(root: yaml.Node) -> Iterator[yaml.ScalarNode]:
    """Scalars that cannot be constructed, in any order."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, yaml.ScalarNode):
            try:
                yaml.SafeLoader("").construct_document(node)
            except (*_WRONG_SCALAR, yaml.YAMLError):
                yield node
        else:
            for item in node.value:
                waiting.extend(item if isinstance(item, tuple) else (item,))


def _check_keys(node: yaml.Node | None) -> None:
    """YAML 1.2 section 3.2.1.1: keys are unique. PyYAML takes the last one silently.

    Raises:
        yaml.MarkedYAMLError: a key appears twice, or is no scalar; a number is too long; a text
            holds control characters; or a node is an alias: a few lines of aliases expand to
            more than any memory.
    """
    seen: set[int] = set()
    waiting = [node] if node is not None else []
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            raise yaml.MarkedYAMLError(problem="aliases are not read", problem_mark=item.start_mark)
        seen.add(id(item))
        if isinstance(item, yaml.ScalarNode):
            if _CONTROL.search(item.value):
                raise yaml.MarkedYAMLError(
                    problem="holds a control character", problem_mark=item.start_mark
                )
            if item.tag in _NUMBERS and len(item.value) > _LONGEST_NUMBER:
                raise yaml.MarkedYAMLError(
                    problem="a number is too long", problem_mark=item.start_mark
                )
        elif isinstance(item, yaml.SequenceNode):
            waiting.extend(item.value)
        elif isinstance(item, yaml.MappingNode):
            names = set()
            for key, value in item.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise yaml.MarkedYAMLError(
                        problem="a key is no text", problem_mark=key.start_mark
                    )
                if key.value in names:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key `{key.value}` appears twice", problem_mark=key.start_mark
                    )
                names.add(key.value)
                waiting += (key, value)


def _problem(root: yaml.Node | None, error: Any) -> Problem:
    """What pydantic found, at the place where the author can look."""
    location: Location = (error.get("ctx") or {}).get("at") or error["loc"]
    line, names = _walk(root, location)
    return Problem(line, ".".join(names) or "manifest", reason(error))


def _walk(node: yaml.Node | None, location: Location) -> tuple[int, list[str]]:
    """(line, names) of the deepest node that the path of an error leads to; lines from 1.

    A path also holds names that are not in the file: those of the members of a union.
    """
    line = 1 if node is None else node.start_mark.line + 1
    names: list[str] = []
    for part in location:
        inside = None
        if isinstance(node, yaml.MappingNode):
            inside = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if inside is not None:
                node, line = inside[1], inside[0].start_mark.line + 1
        elif (
            isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value)
        ):
            node = node.value[part]
            line = node.start_mark.line + 1
        if inside is not None or part not in OUTPUT_KINDS | RUNTIME_KINDS:
            names.append(str(part))
    return line, names
