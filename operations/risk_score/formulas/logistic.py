"""The logistic function that four of the formulas end with."""

from __future__ import annotations

from math import exp


def logistic(z: float) -> float:
    """1 / (1 + e^-z), without overflow at either end."""
    if z >= 0.0:
        return 1.0 / (1.0 + exp(-z))
    odds = exp(z)
    return odds / (1.0 + odds)
