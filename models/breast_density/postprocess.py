"""Step 4: from the network's output to the category."""

from __future__ import annotations

from typing import Final

from fhir_ext.results import Classification, Refusal, Region

NAME: Final = "breast-density"
#: BI-RADS 5th edition: almost entirely fatty, scattered areas of fibroglandular density,
#: heterogeneously dense, extremely dense; the order of the network's outputs.
CATEGORIES: Final = ("a", "b", "c", "d")


def classification(probabilities: tuple[float, ...]) -> Classification:
    """The most probable category; of equal ones the less dense."""
    chosen = CATEGORIES[probabilities.index(max(probabilities))]
    return Classification(NAME, Region.BREASTS, CATEGORIES, probabilities, chosen)


def withheld(refusal: Refusal) -> Classification:
    """No category, and why."""
    return Classification(NAME, Region.BREASTS, CATEGORIES, refusal=refusal)
