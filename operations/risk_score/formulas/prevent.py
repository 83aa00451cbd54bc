"""PREVENT base equations: cardiovascular disease within ten years, without a race term."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from operations.risk_score.formulas.logistic import logistic


class PreventRisk(NamedTuple):
    """Probabilities within ten years.

    Attributes:
        cvd: total cardiovascular disease.
        ascvd: atherosclerotic cardiovascular disease.
        hf: heart failure.
    """

    cvd: float
    ascvd: float
    hf: float


@dataclass(frozen=True, slots=True)
class _Terms:
    const: float
    a: float
    s1: float
    s2: float
    dm: float
    smoker: float
    e1: float
    e2: float
    bp: float
    bp_s2: float
    a_s2: float
    a_dm: float
    a_smoker: float
    a_e1: float
    n: float = 0.0
    h: float = 0.0
    statin: float = 0.0
    statin_n: float = 0.0
    a_n: float = 0.0
    a_h: float = 0.0
    b1: float = 0.0
    b2: float = 0.0
    a_b2: float = 0.0


_FEMALE: Final = (
    _Terms(
        const=-3.307728, a=0.7939329, n=0.0305239, h=-0.1606857, s1=-0.2394003, s2=0.3600781,
        dm=0.8667604, smoker=0.5360739, e1=0.6045917, e2=0.0433769, bp=0.3151672,
        statin=-0.1477655, bp_s2=-0.0663612, statin_n=0.1197879, a_n=-0.0819715, a_h=0.0306769,
        a_s2=-0.0946348, a_dm=-0.27057, a_smoker=-0.078715, a_e1=-0.1637806,
    ),
    _Terms(
        const=-3.819975, a=0.719883, n=0.1176967, h=-0.151185, s1=-0.0835358, s2=0.3592852,
        dm=0.8348585, smoker=0.4831078, e1=0.4864619, e2=0.0397779, bp=0.2265309,
        statin=-0.0592374, bp_s2=-0.0395762, statin_n=0.0844423, a_n=-0.0567839, a_h=0.0325692,
        a_s2=-0.1035985, a_dm=-0.2417542, a_smoker=-0.0791142, a_e1=-0.1671492,
    ),
    _Terms(
        const=-4.310409, a=0.8998235, s1=-0.4559771, s2=0.3576505, dm=1.038346, smoker=0.583916,
        e1=0.7451638, e2=0.0557087, bp=0.3534442, bp_s2=-0.0981511, a_s2=-0.0946663,
        a_dm=-0.3581041, a_smoker=-0.1159453, a_e1=-0.1884289, b1=-0.0072294, b2=0.2997706,
        a_b2=-0.003878,
    ),
)  # fmt: skip
_MALE: Final = (
    _Terms(
        const=-3.031168, a=0.7688528, n=0.0736174, h=-0.0954431, s1=-0.4347345, s2=0.3362658,
        dm=0.7692857, smoker=0.4386871, e1=0.5378979, e2=0.0164827, bp=0.288879,
        statin=-0.1337349, bp_s2=-0.0475924, statin_n=0.150273, a_n=-0.0517874, a_h=0.0191169,
        a_s2=-0.1049477, a_dm=-0.2251948, a_smoker=-0.0895067, a_e1=-0.1543702,
    ),
    _Terms(
        const=-3.500655, a=0.7099847, n=0.1658663, h=-0.1144285, s1=-0.2837212, s2=0.3239977,
        dm=0.7189597, smoker=0.3956973, e1=0.3690075, e2=0.0203619, bp=0.2036522,
        statin=-0.0865581, bp_s2=-0.0322916, statin_n=0.114563, a_n=-0.0300005, a_h=0.0232747,
        a_s2=-0.0927024, a_dm=-0.2018525, a_smoker=-0.0970527, a_e1=-0.1217081,
    ),
    _Terms(
        const=-3.946391, a=0.8972642, s1=-0.6811466, s2=0.3634461, dm=0.923776, smoker=0.5023736,
        e1=0.6926917, e2=0.0251827, bp=0.2980922, bp_s2=-0.0497731, a_s2=-0.1289201,
        a_dm=-0.3040924, a_smoker=-0.1401688, a_e1=-0.1797778, b1=-0.0485841, b2=0.3726929,
        a_b2=0.0068126,
    ),
)  # fmt: skip


def prevent(
    *,
    age: float,
    sex: str,
    total_cholesterol: float,
    hdl: float,
    systolic_bp: float,
    bp_treated: bool,
    statin: bool,
    diabetes: bool,
    smoker: bool,
    egfr: float,
    bmi: float,
) -> PreventRisk:
    """Probabilities of a first event within ten years.

    Khan SS et al., Circulation 2024 (doi 10.1161/CIRCULATIONAHA.123.067626), base model.

    Args:
        age: years.
        sex: `male` or `female`.
        total_cholesterol, hdl: mg/dL.
        systolic_bp: mm[Hg].
        egfr: mL/min/1.73 m2.
        bmi: kg/m2; only heart failure depends on it.

    Raises:
        KeyError: there are no equations for the sex.
    """
    a = (age - 55) / 10
    n = 0.02586 * (total_cholesterol - hdl) - 3.5
    h = (0.02586 * hdl - 1.3) / 0.3
    s1 = (min(systolic_bp, 110) - 110) / 20
    s2 = (max(systolic_bp, 110) - 130) / 20
    e1 = (min(egfr, 60) - 60) / -15
    e2 = (max(egfr, 60) - 90) / -15
    b1 = (min(bmi, 30) - 25) / 5
    b2 = (max(bmi, 30) - 30) / 5

    def risk(t: _Terms) -> float:
        return logistic(
            t.const
            + (t.a + t.a_n * n + t.a_h * h + t.a_s2 * s2 + t.a_e1 * e1 + t.a_b2 * b2) * a
            + (t.a_dm * diabetes + t.a_smoker * smoker) * a
            + t.n * n
            + t.h * h
            + t.s1 * s1
            + t.s2 * s2
            + t.dm * diabetes
            + t.smoker * smoker
            + t.e1 * e1
            + t.e2 * e2
            + (t.bp + t.bp_s2 * s2) * bp_treated
            + (t.statin + t.statin_n * n) * statin
            + t.b1 * b1
            + t.b2 * b2
        )

    cvd, ascvd, hf = {"female": _FEMALE, "male": _MALE}[sex]
    return PreventRisk(risk(cvd), risk(ascvd), risk(hf))
