"""Whether a human must look at a result, by the rules of a manifest."""

from __future__ import annotations

from models.manifest import Manifest
from models.manifest.evidence import ReviewRule
from models.manifest.outputs import Classification
from models.service import ServiceOutput


def review_of(manifest: Manifest, output: ServiceOutput) -> bool | None:
    """Whether one of the `review_rules` holds; None without any: the policy decides.

    A value that is withheld meets no rule.
    """
    if not manifest.review_rules:
        return None
    return any(_holds(manifest, rule, output) for rule in manifest.review_rules)


def _holds(manifest: Manifest, rule: ReviewRule, output: ServiceOutput) -> bool:
    if rule.score_below is not None:
        return any(score < rule.score_below for score in _scores(manifest, rule, output))
    for item in output.measurements:
        if item.name != rule.output or item.value is None:
            continue
        if rule.at_or_above is not None and item.value >= rule.at_or_above:
            return True
        if rule.at_or_below is not None and item.value <= rule.at_or_below:
            return True
        doubt = item.uncertainty
        above = rule.uncertainty_above
        if above is not None and doubt is not None and doubt.value > above:
            return True
    return False


def _scores(manifest: Manifest, rule: ReviewRule, output: ServiceOutput) -> list[float]:
    """The scores of places, and the largest probability of each classification."""
    names = {rule.output}
    for wanted in manifest.outputs:
        if isinstance(wanted, Classification) and wanted.name == rule.output:
            # Classes that may hold beside others are results of their own.
            names |= {name for name, _ in wanted.results()}
    scores = [item.score for item in output.detections if item.name == rule.output]
    scores += [
        max(item.probabilities)
        for item in output.classifications
        if item.name in names and item.probabilities
    ]
    return scores
