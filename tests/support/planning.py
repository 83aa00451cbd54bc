"""Plans of studies that are no more than their series."""

from __future__ import annotations

from collections.abc import Mapping

from models.lifecycle import Assignment
from operations.analyze.plan import Plan, make_plan
from operations.analyze.rules import Rules


def plan_of(
    rules: Rules,
    images: Mapping[str, str],
    assigned: Mapping[str, Assignment],
    *series: tuple[str, str, int],
) -> Plan:
    """The plan of a study of (series UID, modality, number of instances).

    Args:
        images: what each service is shown.
        assigned: which of their versions look at the study.
    """
    study = {
        "started": "2026-05-04",
        "series": [
            {"uid": uid, "modality": {"code": modality}, "numberOfInstances": count}
            for uid, modality, count in series
        ],
    }
    return make_plan(
        rules,
        study,
        birth_date=None,
        programs=frozenset(),
        assigned=assigned,
        images=lambda service, _version: images[service],  # type: ignore[arg-type,return-value]
    )
