"""Step 1: the four standard views among the images of a study, by the manifest's gates.

An image that is only beside the point (a spot view, a raw image, a synthetic one) is set
aside; one that makes the answer unsure refuses the study. What is doubtful is never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from fhir_ext.dicom.mammography import Mammogram
from fhir_ext.results import Refusal
from models.gates import Chosen, choose
from models.manifest import Manifest, ManifestError

#: In the order in which the network takes them.
VIEWS: Final = ("L-CC", "R-CC", "L-MLO", "R-MLO")

#: What the pixels are refused for, beyond `models.gates.RULES`.
RULES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "image-size": "The image is smaller than the part that the network looks at.",
        "patient-orientation": "The breast lies on the other side than the header says.",
        "blank-image": "All pixels are the same.",
    }
)


def select_views(manifest: Manifest, images: Sequence[Mammogram]) -> Chosen[Mammogram] | Refusal:
    """The four standard views of a study in the order of `VIEWS`, or why they cannot be used.

    Args:
        manifest: whose gates decide.
        images: 2D mammograms, in any order; no pixels are decoded.
    """
    if not images:
        return Refusal("modality", "no 2D mammogram", ", ".join(manifest.inputs.modality))
    return choose(manifest.all_gates(), images)


def check_views(manifest: Manifest) -> None:
    """Refuse gates that would hand the network other views, or in another order.

    Raises:
        ManifestError: they do not ask for `VIEWS`.
    """
    asked = [getattr(gate, "views", ()) for gate in manifest.gates if gate.rule == "required-views"]
    if asked != [VIEWS]:
        needed = ", ".join(VIEWS)
        raise ManifestError(f"manifest of {manifest.id}: gates: required-views must be {needed}")
