"""The case that the manifest ships is what its script draws."""

from __future__ import annotations

from pathlib import Path

from models.registry import Registry
from models.segment_measurements.draw_case import draw


def test_the_shipped_files_are_what_is_drawn(tmp_path: Path) -> None:
    draw(tmp_path)
    shipped = Registry().find("segment-measurements").folder / "cases"
    drawn = sorted(path.name for path in tmp_path.iterdir())
    assert drawn == sorted(path.name for path in shipped.iterdir())
    for name in drawn:
        assert (tmp_path / name).read_bytes() == (shipped / name).read_bytes(), name
