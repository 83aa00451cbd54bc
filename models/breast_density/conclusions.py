"""What follows from a breast density: nothing by itself. Imports no torch.

A dense breast is no finding. Who is told, and who is offered another examination, is the law
and the programme of the site; such a rule belongs where the site can read and change it.
"""

from __future__ import annotations

from fhir_ext.results import Issue, Measurement, Risk
from models.manifest import Manifest


def derive(
    manifest: Manifest, measurements: tuple[Measurement, ...]
) -> tuple[tuple[Risk, ...], tuple[Issue, ...]]:
    """What `models.registry` calls when a human changed a result: no risk and no issue."""
    return (), ()
