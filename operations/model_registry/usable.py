"""What can be wrong with a manifest that is right as such, and is known before it is run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from models.manifest import Manifest, ManifestError, MeasurementOutput, Problem
from models.manifest.reader import line_of
from models.registry import needs_no_code


def unusable_here(manifest: Manifest, path: Path) -> Iterator[Problem]:
    """Units that are none, and what a network without code of its own cannot do.

    Args:
        path: of the manifest.
    """
    found = [*_units(manifest)]
    if needs_no_code(manifest.id):
        found += _network(manifest)
    for item in found:
        yield Problem(line_of(path, item.field), item.field, item.reason)


def _network(manifest: Manifest) -> tuple[Problem, ...]:
    from models.network.checks import check_outputs
    from models.network.layout import layout_of

    try:
        check_outputs(manifest, layout_of(manifest))
    except ManifestError as error:
        return error.problems
    return ()


def _units(manifest: Manifest) -> Iterator[Problem]:
    """Observations say that a unit is of UCUM, and other systems calculate with it."""
    stated = [
        (index, output.unit)
        for index, output in enumerate(manifest.outputs)
        if isinstance(output, MeasurementOutput)
    ]
    if not stated:
        return
    # Half a second to load: of the installation of a model only.
    from lark.exceptions import LarkError
    from ucumvert import get_ucum_parser  # type: ignore[import-untyped]

    parser = get_ucum_parser()
    for index, unit in stated:
        try:
            parser.parse(unit)
        except LarkError:
            reason = "is no unit of UCUM, such as mm, mL, %, 1 or, for Hounsfield units, [hnsf'U]"
            yield Problem(1, f"outputs.{index}.unit", reason)
