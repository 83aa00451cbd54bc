"""What is inside a zip archive of torch, before torch opens it.

torch reads pickles in such archives itself, and for `.pt2` falls back to unrestricted ones
where its restricted reader refuses. Archives that hold any are refused here.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from models.runtime.base import LIBRARY_ERRORS, ModelFailure
from models.runtime.expressions import unsafe_expressions

#: Largest sum of unpacked sizes, as a multiple of the archive and at least this many bytes.
_EXPANSION = 20
_SMALLEST_LIMIT = 100_000_000
_ENTRIES = 200_000

#: Operators of torch that open files by a name that they are given.
_FILE_WORDS = re.compile(r"(?<![A-Za-z0-9_])(?:save|from_file)(?![A-Za-z0-9_])")
_SPELLED = re.compile(r"getattr\([^)]*\\")


def open_archive(data: bytes, name: str) -> zipfile.ZipFile:
    """A zip archive of torch, as `torch.jit.save` and `torch.export.save` write it.

    Raises:
        ModelFailure: `weights-corrupt`: no zip, or a damaged entry; `weights-size`: unpacks to
            much more than it is.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        entries = archive.infolist()
        unpacked = sum(entry.file_size for entry in entries)
        if len(entries) > _ENTRIES or unpacked > max(_SMALLEST_LIMIT, _EXPANSION * len(data)):
            raise ModelFailure("weights-size", f"{name} unpacks to {unpacked} bytes")
        if len({entry.filename for entry in entries}) < len(entries):
            # Which of two one gets depends on who reads.
            raise ModelFailure("weights-unsafe", f"{name} holds two entries of one name")
        if archive.testzip() is not None:
            raise ModelFailure("weights-corrupt", f"{name} holds a damaged entry")
    except (zipfile.BadZipFile, zlib.error, *LIBRARY_ERRORS) as error:
        raise ModelFailure("weights-corrupt", f"{name} is no archive of torch") from error
    return archive


def check_script(data: bytes, name: str) -> None:
    """Refuse a TorchScript archive whose code reads or writes files.

    TorchScript has two operators for that, `save` and `from_file`. Its code is text, and some of
    it runs while the archive is loaded; so the text is looked at.

    Raises:
        ModelFailure: `weights-unsafe`, `weights-corrupt` or `weights-size`.
    """
    with open_archive(data, name) as archive:
        for entry in archive.namelist():
            path = _below_top(entry)
            if path.startswith("code/") and path.endswith(".py"):
                text = archive.read(entry).decode("utf-8", errors="replace")
                _refuse(_file_operators(text), name)


def _file_operators(text: str) -> Iterator[str]:
    if _FILE_WORDS.search(text):
        yield "code that reads or writes files"
    # `getattr` takes a text, in which a word could be spelled otherwise.
    if _SPELLED.search(text):
        yield "a name that is spelled with escapes"


def check_operators(targets: Iterable[object], name: str) -> None:
    """Refuse operators of a loaded program that read or write files.

    Args:
        targets: kinds of nodes, or operators of torch.

    Raises:
        ModelFailure: `weights-unsafe`.
    """
    for target in targets:
        if _FILE_WORDS.search(str(target)):
            _refuse(["an operator that reads or writes files"], name)


def check_exported(data: bytes, name: str) -> None:
    """Refuse a `.pt2` that holds compiled code, or anything for an unrestricted unpickler.

    Raises:
        ModelFailure: `weights-unsafe`, `weights-corrupt` or `weights-size`.
    """
    import torch

    with open_archive(data, name) as archive:
        inner = [(_below_top(entry), entry) for entry in archive.namelist()]
        _refuse(_unsafe_names(path for path, _ in inner), name)
        for path, entry in inner:
            if path.endswith("_config.json"):
                _refuse(_unsafe_payloads(_json(archive.read(entry), name)), name)
            elif path.endswith(".json"):
                _refuse(unsafe_expressions(_json(archive.read(entry), name)), name)
            # Read here with the restricted reader: torch's own fallback is then not reached.
            if path.startswith("data/sample_inputs/") and (sample := archive.read(entry)):
                try:
                    torch.load(io.BytesIO(sample), weights_only=True)
                except LIBRARY_ERRORS as error:
                    raise ModelFailure("weights-unsafe", f"{name}: sample inputs") from error


def _below_top(entry: str) -> str:
    """A path without the archive's top folder, which may have any name."""
    return entry.partition("/")[2]


def _unsafe_names(names: Iterable[str]) -> Iterator[str]:
    for path in names:
        if path.startswith("data/aotinductor/") or path.endswith((".so", ".cpp", ".py", ".cubin")):
            yield "compiled code"
        # Written by old versions of torch: a pickle of the whole state.
        if path.startswith(("data/weights/", "data/constants/")) and path.endswith(".pt"):
            yield "a pickled state"


def _unsafe_payloads(config: Any) -> Iterator[str]:
    """Entries of a payload table that torch would unpickle."""
    table = config.get("config") if isinstance(config, dict) else None
    if not isinstance(table, dict):
        yield "a payload table that is none"
        return
    for payload in table.values():
        path = payload.get("path_name", "") if isinstance(payload, dict) else ""
        if not isinstance(path, str) or not path.startswith(("weight_", "tensor_")):
            yield "an object"
        if not isinstance(payload, dict) or payload.get("use_pickle") is not False:
            yield "a pickled tensor"


def _json(data: bytes, name: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelFailure("weights-corrupt", f"{name} holds a damaged table") from error


def _refuse(found: Iterable[str], name: str) -> None:
    for what in found:
        raise ModelFailure("weights-unsafe", f"{name} holds {what}")
