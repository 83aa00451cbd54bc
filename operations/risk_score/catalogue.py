"""The risk models, as data: what each needs, for whom it holds, and what it says besides."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from fhir_ext.errors import UnprocessableError
from operations.risk_score.formulas.brock import brock
from operations.risk_score.formulas.mayo import mayo
from operations.risk_score.formulas.mesa_chd import mesa_chd
from operations.risk_score.formulas.pce import pce
from operations.risk_score.formulas.plco_m2012 import plco_m2012
from operations.risk_score.formulas.prevent import prevent
from operations.risk_score.model import Outcome, Range, RiskModel, Threshold, Values

#: Of a calcium score whose scan is known not to have been gated; given to `RiskModel.compute`
#: by whoever knows it.
NON_GATED: Final = (
    "The Agatston score was measured on a CT without ECG gating, which is not interchangeable "
    "with the gated scans that the model was derived from."
)
_RACE_TERM: Final = "Uses the term for race or ethnicity of the published model."


def _arguments(values: Values, *names: str) -> dict[str, Any]:
    """Inputs as arguments of a formula: `systolic-bp` becomes `systolic_bp`."""
    return {name.replace("-", "_"): values[name] for name in names}


def _optional(values: Values, name: str) -> Any:
    return values.get(name)


def _race_term(_values: Values) -> tuple[str, ...]:
    return (_RACE_TERM,)


# PLCOm2012

_PLCO_DIRECT: Final = (
    "age", "race", "education", "bmi", "copd", "personal-cancer", "family-lung-cancer",
    "cigarettes-per-day", "years-smoked", "years-quit",
)  # fmt: skip


def _plco(values: Values) -> tuple[float, ...]:
    current = values["smoking-status"] == "current"
    return (plco_m2012(current_smoker=current, **_arguments(values, *_PLCO_DIRECT)),)


def _plco_refuse(values: Values) -> str | None:
    if values.get("smoking-status") == "never":
        return "smoking-status: PLCOm2012 is for people who have smoked"
    if values.get("cigarettes-per-day") == 0:
        return "cigarettes-per-day: PLCOm2012 needs a number above 0"
    return None


_PLCO: Final = RiskModel(
    code="plco-m2012",
    version="1.0.0",
    citation="Tammemägi MC et al., N Engl J Med 2013 (doi 10.1056/NEJMoa1211776)",
    required=(*_PLCO_DIRECT, "smoking-status"),
    outcomes=(
        Outcome(
            "lung-cancer",
            6,
            Threshold(1.51, "1.51 %, the threshold of PLCOm2012 for screening"),
        ),
    ),
    evaluate=_plco,
    ranges={"age": Range(55, 74, "flag", "the ages of its derivation (Tammemägi 2013)")},
    codes={"race": ("white", "black", "asian", "hispanic", "aian", "nhpi")},
    refuse=_plco_refuse,
    flags=_race_term,
)

# Brock


_BROCK_DIRECT: Final = (
    "age", "family-lung-cancer", "emphysema", "nodule-diameter", "nodule-type", "upper-lobe",
    "nodule-count",
)  # fmt: skip


def _brock(values: Values) -> tuple[float, ...]:
    return (
        brock(
            female=values["sex"] == "female",
            spiculated=_optional(values, "spiculated"),
            **_arguments(values, *_BROCK_DIRECT),
        ),
    )


def _brock_flags(values: Values) -> tuple[str, ...]:
    if "spiculated" in values:
        return ()
    return (
        "Full model without spiculation, since spiculated was not given; its coefficients were "
        "found in one source only.",
    )


_BROCK: Final = RiskModel(
    code="brock",
    version="1.0.0",
    citation="McWilliams A et al., N Engl J Med 2013 (doi 10.1056/NEJMoa1214726)",
    required=("sex", *_BROCK_DIRECT),
    optional=("spiculated",),
    outcomes=(
        Outcome("nodule-malignancy", None, Threshold(10.0, "10 %, the threshold of the BTS")),
    ),
    evaluate=_brock,
    flags=_brock_flags,
)

# Mayo

_MAYO_INPUTS: Final = (
    "age", "ever-smoker", "prior-extrathoracic-cancer", "nodule-diameter", "spiculated",
    "upper-lobe",
)  # fmt: skip


def _mayo(values: Values) -> tuple[float, ...]:
    return (mayo(**_arguments(values, *_MAYO_INPUTS)),)


_MAYO: Final = RiskModel(
    code="mayo",
    version="1.0.0",
    citation="Swensen SJ et al., Arch Intern Med 1997; 157: 849-855",
    required=_MAYO_INPUTS,
    outcomes=(Outcome("nodule-malignancy"),),
    evaluate=_mayo,
    ranges={"nodule-diameter": Range(4, 30, "flag", "the sizes of its derivation")},
)

# Pooled cohort equations

_PCE_INPUTS: Final = (
    "age", "sex", "race", "total-cholesterol", "hdl", "systolic-bp", "bp-treated", "smoker",
    "diabetes",
)  # fmt: skip
_PCE_SOURCE: Final = "the range of the equations (ACC/AHA 2013)"


def _pce(values: Values) -> tuple[float, ...]:
    return (pce(**_arguments(values, *_PCE_INPUTS)),)


_PCE: Final = RiskModel(
    code="pce",
    version="1.0.0",
    citation="ACC/AHA 2013 (doi 10.1161/01.cir.0000437741.48606.98)",
    required=_PCE_INPUTS,
    outcomes=(Outcome("atherosclerotic-cardiovascular-disease", 10),),
    evaluate=_pce,
    ranges={
        "age": Range(40, 79, "refuse", _PCE_SOURCE),
        "total-cholesterol": Range(130, 320, "refuse", _PCE_SOURCE),
        "hdl": Range(20, 100, "refuse", _PCE_SOURCE),
        "systolic-bp": Range(90, 200, "refuse", _PCE_SOURCE),
    },
    codes={"race": ("white", "black")},
    flags=_race_term,
)

# PREVENT

_PREVENT_INPUTS: Final = (
    "age", "sex", "total-cholesterol", "hdl", "systolic-bp", "bp-treated", "statin", "diabetes",
    "smoker", "egfr", "bmi",
)  # fmt: skip
_PREVENT_SOURCE: Final = "the range of the equations (Khan 2024)"


def _prevent(values: Values) -> tuple[float, ...]:
    return prevent(**_arguments(values, *_PREVENT_INPUTS))


_PREVENT: Final = RiskModel(
    code="prevent",
    version="1.0.0",
    citation="Khan SS et al., Circulation 2024 (doi 10.1161/CIRCULATIONAHA.123.067626)",
    required=_PREVENT_INPUTS,
    outcomes=(
        Outcome("cardiovascular-disease", 10),
        Outcome("atherosclerotic-cardiovascular-disease", 10),
        Outcome("heart-failure", 10),
    ),
    evaluate=_prevent,
    ranges={
        "age": Range(30, 79, "refuse", _PREVENT_SOURCE),
        "total-cholesterol": Range(130, 320, "refuse", _PREVENT_SOURCE),
        "hdl": Range(20, 100, "refuse", _PREVENT_SOURCE),
        "systolic-bp": Range(90, 200, "refuse", _PREVENT_SOURCE),
        "egfr": Range(15, 140, "refuse", _PREVENT_SOURCE),
        "bmi": Range(18.5, 40, "refuse", _PREVENT_SOURCE, below=True),
    },
)

# MESA


_MESA_DIRECT: Final = (
    "age", "race", "diabetes", "smoker", "total-cholesterol", "hdl", "lipid-treated",
    "systolic-bp", "bp-treated", "family-mi",
)  # fmt: skip


def _mesa(values: Values) -> tuple[float, ...]:
    return (
        mesa_chd(
            male=values["sex"] == "male",
            agatston=_optional(values, "agatston"),
            **_arguments(values, *_MESA_DIRECT),
        ),
    )


def _mesa_flags(values: Values) -> tuple[str, ...]:
    if "agatston" not in values:
        return (_RACE_TERM, "Model without coronary calcium, since agatston was not given.")
    return (
        _RACE_TERM,
        "Takes the Agatston score as one of a gated cardiac CT; a score of a CT without ECG "
        "gating is not interchangeable.",
    )


_MESA: Final = RiskModel(
    code="mesa-chd",
    version="1.0.0",
    citation="McClelland RL et al., 2015 (PMC4603537)",
    required=("sex", *_MESA_DIRECT),
    optional=("agatston",),
    outcomes=(Outcome("coronary-heart-disease", 10),),
    evaluate=_mesa,
    ranges={"age": Range(45, 85, "refuse", "the ages of its derivation (McClelland 2015)")},
    codes={"race": ("white", "black", "hispanic", "chinese")},
    flags=_mesa_flags,
)

MODELS: Final[Mapping[str, RiskModel]] = MappingProxyType(
    {model.code: model for model in (_PLCO, _BROCK, _MAYO, _PREVENT, _PCE, _MESA)}
)


def risk_model(code: str) -> RiskModel:
    """The model of a code.

    Raises:
        UnprocessableError: `unknown-model`.
    """
    found = MODELS.get(code)
    if found is None:
        raise UnprocessableError(
            f"there is no such risk model; there are {', '.join(MODELS)}", code="unknown-model"
        )
    return found
