"""Code systems of ours about risk scores: models, their inputs, and what they predict."""

from __future__ import annotations

from typing import Final

from fhir_ext.resources.codes.base import LocalSystem, local_codes, profile

#: Extension on a RiskAssessment: one input that the score was computed from.
RISK_INPUT_EXTENSION: Final = profile("risk-input")

RISK_OUTCOME: Final = LocalSystem(
    "risk-outcome",
    "Outcomes of risk assessments",
    "What a RiskAssessment of ours speaks of.",
    local_codes(
        ("emphysema", "Emphysema", "Emphysema of the lungs."),
        ("lung-cancer", "Lung cancer", "A diagnosis of lung cancer."),
        (
            "nodule-malignancy",
            "Malignancy of a pulmonary nodule",
            "The pulmonary nodule that was looked at is cancer.",
        ),
        (
            "cardiovascular-disease",
            "Cardiovascular disease",
            "A first event of atherosclerotic cardiovascular disease or heart failure.",
        ),
        (
            "atherosclerotic-cardiovascular-disease",
            "Atherosclerotic cardiovascular disease",
            "A first event of atherosclerotic cardiovascular disease, as the model defines it.",
        ),
        ("heart-failure", "Heart failure", "A first event of heart failure."),
        (
            "coronary-heart-disease",
            "Coronary heart disease",
            "A first event of coronary heart disease, as the model defines it.",
        ),
    ),
)

RISK_MODEL: Final = LocalSystem(
    "risk-model",
    "Risk models",
    "Published models that compute a probability from what is known of a person.",
    local_codes(
        (
            "plco-m2012",
            "PLCOm2012",
            "Lung cancer within six years, in people who have smoked.",
        ),
        (
            "brock",
            "Brock (PanCan) full model",
            "Cancer in a nodule that a first screening CT found.",
        ),
        ("mayo", "Mayo Clinic model", "Cancer in a solitary pulmonary nodule, before PET."),
        (
            "prevent",
            "PREVENT base model",
            "A first cardiovascular event within ten years: in total, atherosclerotic disease, "
            "heart failure.",
        ),
        (
            "pce",
            "Pooled cohort equations",
            "A first hard event of atherosclerotic cardiovascular disease within ten years.",
        ),
        (
            "mesa-chd",
            "MESA CHD risk score",
            "Coronary heart disease within ten years, with or without coronary calcium.",
        ),
    ),
)

RISK_INPUT_SOURCE: Final = LocalSystem(
    "risk-input-source",
    "Sources of inputs",
    "Where an input of a risk score came from.",
    local_codes(
        ("caller", "Caller", "Given by whoever asked for the score."),
        ("chart", "Chart", "Read from the patient's record."),
        ("imaging", "Imaging", "Read from a result of imaging."),
    ),
)

RISK_INPUT: Final = LocalSystem(
    "risk-input",
    "Inputs of risk models",
    "What the risk models read, under the same name in every model.",
    local_codes(
        ("age", "Age", "Age at the date the score is for."),
        ("sex", "Sex", "Sex, as the publication divides its cohort."),
        (
            "race",
            "Race or ethnicity",
            "Race or ethnicity, only for models that were published with a term for it; aian is "
            "American Indian or Alaska Native, nhpi Native Hawaiian or Pacific Islander.",
        ),
        (
            "education",
            "Education",
            "1 less than high school, 2 high school, 3 some training after it, 4 some college, "
            "5 college graduate, 6 postgraduate or professional degree.",
        ),
        ("bmi", "Body mass index", "Weight over squared height."),
        ("copd", "COPD", "History of chronic obstructive pulmonary disease."),
        ("personal-cancer", "Cancer in the past", "Personal history of cancer."),
        ("family-lung-cancer", "Lung cancer in the family", "Family history of lung cancer."),
        (
            "smoking-status",
            "Smoking status",
            "Whether cigarettes are smoked now, were smoked, or never were.",
        ),
        ("ever-smoker", "Ever smoker", "Smokes or has smoked."),
        ("smoker", "Current smoker", "Smokes at the date the score is for."),
        (
            "cigarettes-per-day",
            "Cigarettes per day",
            "Average number of cigarettes a day over the years of smoking.",
        ),
        ("years-smoked", "Years smoked", "How long smoking lasted."),
        ("years-quit", "Years since quitting", "Time since smoking ended; 0 while it lasts."),
        ("emphysema", "Emphysema", "Emphysema, known or seen on CT."),
        (
            "nodule-diameter",
            "Nodule diameter",
            "Longest diameter of the nodule; not the mean diameter of Lung-RADS.",
        ),
        ("nodule-type", "Nodule type", "Composition of the nodule."),
        ("upper-lobe", "Upper lobe", "The nodule lies in an upper lobe."),
        ("nodule-count", "Nodule count", "Number of nodules on the scan."),
        ("spiculated", "Spiculated", "The margin of the nodule is spiculated."),
        (
            "prior-extrathoracic-cancer",
            "Extrathoracic cancer in the past",
            "A cancer outside of the chest, more than five years ago.",
        ),
        ("total-cholesterol", "Total cholesterol", "Total cholesterol in serum or plasma."),
        ("hdl", "HDL cholesterol", "HDL cholesterol in serum or plasma."),
        ("systolic-bp", "Systolic blood pressure", "Systolic blood pressure at rest."),
        ("bp-treated", "Blood pressure treated", "Takes antihypertensive drugs."),
        ("lipid-treated", "Lipids treated", "Takes lipid-lowering drugs of any kind."),
        ("statin", "Statin", "Takes a statin."),
        ("diabetes", "Diabetes", "Diabetes mellitus is known."),
        (
            "egfr",
            "Estimated GFR",
            "Estimated glomerular filtration rate per 1.73 m2 of body surface.",
        ),
        ("family-mi", "Heart attack in the family", "Family history of heart attack."),
        ("agatston", "Agatston score", "Coronary artery calcium by the method of Agatston."),
    ),
)
