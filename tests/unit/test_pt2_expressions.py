"""A `.pt2` holds expressions that torch evaluates: none of them may be more than arithmetic."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest
import torch

from models.runtime.adapters.torch_export import read_program
from models.runtime.base import ModelFailure
from models.runtime.expressions import unsafe_expressions
from models.runtime.weights import Verified


class Twice(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([image, image])


def exported(**changes: str) -> bytes:
    """A program with a length that is free, and other texts in its table."""
    data, made = io.BytesIO(), io.BytesIO()
    free = {"image": {0: torch.export.Dim("n", min=4)}}
    program = torch.export.export(Twice(), (torch.ones(6, 3),), dynamic_shapes=free)
    torch.export.save(program, data)
    with zipfile.ZipFile(data) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("model.json"):
                table = json.loads(content)
                sizes = table["graph_module"]["graph"]["tensor_values"]["image"]["sizes"]
                sizes[0]["as_expr"].update(changes)
                content = json.dumps(table).encode()
            new.writestr(name, content)
    return made.getvalue()


def test_lengths_that_are_free_are_read() -> None:
    program = read_program(Verified("net.pt2", exported()))
    assert program.module()(torch.ones(9, 3)).shape == (18, 3)


def test_code_in_place_of_a_length_is_not_run(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    code = f"__import__('pathlib').Path({str(touched)!r}).touch() or 4"
    with pytest.raises(ModelFailure) as caught:
        read_program(Verified("net.pt2", exported(expr_str=code)))
    assert caught.value.code == "weights-unsafe"
    assert not touched.exists()


@pytest.mark.parametrize(
    "text",
    ["exec(x)", "sympify('x')", "x.__class__", "(lambda: 1)()", "[a for a in b]", "_x", "f'{x}'",
     "open('x')", "x if y else z", "S('a b')", "x.subs('a')", "1;2", ""],
)  # fmt: skip
def test_what_is_no_arithmetic(text: str) -> None:
    assert list(unsafe_expressions({"a": [{"expr_str": text}]}))
    assert list(unsafe_expressions({"guards_code": [text]}))


@pytest.mark.parametrize(
    "text",
    ["Symbol('s77', positive=True, integer=True)", "2*s0 + 1", "Max(1, s0//2)", "-s0 >= 4",
     "L['x'].size()[0] >= 2", "(Integer(2)*Symbol('s1')) % 8", "math.isnan(L['x'])"],
)  # fmt: skip
def test_arithmetic(text: str) -> None:
    assert not list(unsafe_expressions({"expr_str": text, "guards_code": [text]}))
