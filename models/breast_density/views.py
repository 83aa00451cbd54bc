"""Step 1: the four standard views among the images of a study, by the manifest's gates.

An image that is only beside the point (a spot view, a raw image, a synthetic one) is set
aside; one that makes the answer unsure refuses the study. What is doubtful is never guessed.
"""

from __future__ import annotations

from typing import Final

from models.manifest import Manifest
from models.manifest.demands import unfit

#: In the order in which the network takes them.
VIEWS: Final = ("L-CC", "R-CC", "L-MLO", "R-MLO")


def check_views(manifest: Manifest) -> None:
    """Refuse gates that would hand the network other views, or in another order.

    Raises:
        ManifestError: they do not ask for `VIEWS`.
    """
    asked = [getattr(gate, "views", ()) for gate in manifest.gates if gate.rule == "required-views"]
    if asked != [VIEWS]:
        raise unfit(manifest, "gates", f"required-views must be {', '.join(VIEWS)}")
