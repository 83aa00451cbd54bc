"""Programs of torch that open files by name: what a network may compute is not all it may do."""

from __future__ import annotations

import gc
import io
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models.runtime.adapters import torch_export, torchscript
from models.runtime.archives import check_script
from models.runtime.base import ModelFailure
from models.runtime.weights import Verified


class Writes(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        torch.save(image, "written")
        return image


class Reads(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image + torch.from_file("secret", False, 4, dtype=torch.uint8).sum()


class Plain(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        saved_from_files = image * 2
        if bool((image > 0).all()):
            saved_from_files = saved_from_files + 1
        return saved_from_files


class Loops(torch.nn.Module):
    """Branches in loops: the code is looked through to its innermost block."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            while bool(image.max() > 1):
                image = image / 2 if bool(image.min() > 0) else image / 3
        return image


def scripted(module: torch.nn.Module) -> bytes:
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(module), data)
    return data.getvalue()


def changed(data: bytes, change: Callable[[str], str]) -> bytes:
    """The archive with other code."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(".py"):
                content = change(content.decode()).encode()
            new.writestr(name, content)
    return made.getvalue()


@pytest.mark.parametrize("module", [Writes(), Reads()], ids=["writes", "reads"])
def test_scripts_that_open_files_are_not_loaded(
    module: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelFailure) as caught:
        check_script(scripted(module), "net.pt")
    assert caught.value.code == "weights-unsafe"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        'ops.aten.save(image, "x")',
        't = torch\n    t.from_file("x")',
        'getattr(torch, "save")(image, "x")',
        'getattr(torch, "s\\x61ve")(image, "x")',
    ],
)
def test_other_spellings_are_found(text: str) -> None:
    data = changed(scripted(Plain()), lambda code: f"{code}\n    {text}\n")
    with pytest.raises(ModelFailure) as caught:
        check_script(data, "net.pt")
    assert caught.value.code == "weights-unsafe"


def test_words_that_only_hold_these_are_taken() -> None:
    check_script(scripted(Plain()), "net.pt")


def test_the_graph_is_looked_at_too() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inner = torch.jit.script(Reads())
    assert "from_file" in set(torchscript._kinds(inner))


def test_an_exported_program_that_reads_a_file(tmp_path: Path) -> None:
    """torch exports none itself, but its table of operators is JSON."""

    class Makes(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image + torch.ones(4)

    data = io.BytesIO()
    torch.export.save(torch.export.export(Makes(), (torch.ones(4),)), data)
    made = io.BytesIO()
    with zipfile.ZipFile(data) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("model.json"):
                table = json.loads(content)
                node = next(
                    item
                    for item in table["graph_module"]["graph"]["nodes"]
                    if item["target"] == "torch.ops.aten.ones.default"
                )
                node["target"] = "torch.ops.aten.from_file.default"
                filename = {"as_string": str(tmp_path / "secret")}
                node["inputs"] = [{"name": "filename", "arg": filename, "kind": 1}]
                content = json.dumps(table).encode()
            new.writestr(name, content)
    with pytest.raises(ModelFailure) as caught:
        torch_export.read_program(Verified("net.pt2", made.getvalue()))
    assert caught.value.code == "weights-unsafe"


def test_loops_and_branches_are_looked_through() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.load(io.BytesIO(scripted(Loops())))
    gc.collect()
    kinds = list(torchscript._kinds(module))
    assert kinds.count("Loop") == 2
    assert {"If", "div", "max", "min"} <= set(kinds)
