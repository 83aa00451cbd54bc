"""Mayo Clinic model: cancer in a solitary pulmonary nodule, before PET."""

from __future__ import annotations

from operations.risk_score.formulas.logistic import logistic


def mayo(
    *,
    age: float,
    ever_smoker: bool,
    prior_extrathoracic_cancer: bool,
    nodule_diameter: float,
    spiculated: bool,
    upper_lobe: bool,
) -> float:
    """Probability that a solitary nodule is cancer.

    Swensen SJ et al., 1997. A later restatement (PMC6717521) prints -6.872 for the constant;
    the publication has -6.8272.

    Args:
        age: years.
        nodule_diameter: mm.
    """
    return logistic(
        -6.8272
        + 0.0391 * age
        + 0.7917 * ever_smoker
        + 1.3388 * prior_extrathoracic_cancer
        + 0.1274 * nodule_diameter
        + 1.0407 * spiculated
        + 0.7838 * upper_lobe
    )
