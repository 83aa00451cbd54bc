"""Results are read back as they were written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from result_samples import KERNEL, context, panel_of, resources, result

from fhir_ext.resources.bundle import result_bundle
from fhir_ext.resources.reading import read_member, read_panel
from fhir_ext.results import Region


class Server:
    """Holds resources as a FHIR server does; searches answer in their own order."""

    def __init__(self, bundle: dict[str, Any]) -> None:
        self.held = {item["id"]: item for item in resources(bundle, "Observation")}

    def find(self, resource_type: str, resource_id: str) -> dict[str, Any] | None:
        assert resource_type == "Observation"
        return self.held.get(resource_id)

    def search(
        self, resource_type: str, params: Mapping[str, Any], limit: int = 1000
    ) -> list[dict[str, Any]]:
        assert resource_type == "Observation"
        wanted = params["_id"].split(",")
        return [self.held[key] for key in sorted(wanted) if key in self.held][:limit]


@pytest.fixture
def written() -> tuple[Server, str]:
    made = result(withheld={"perc15": KERNEL})
    bundle = result_bundle(made, context(made))
    return Server(bundle), panel_of(bundle)["id"]


def test_reads_what_was_written(written: tuple[Server, str]) -> None:
    server, panel_id = written
    made = result(withheld={"perc15": KERNEL})
    panel = read_panel(server, panel_id)
    assert panel is not None
    assert panel.code == "lung-density-panel"
    assert panel.status == "preliminary"
    assert panel.series_instance_uid == made.series_instance_uid
    assert [(m.name, m.region, m.value, m.unit, m.reason) for m in panel.members] == [
        (
            m.name,
            m.region,
            m.value,
            m.unit if m.value is not None else "",
            m.refusal.rule if m.refusal else "",
        )
        for m in made.measurements
    ]


def test_missing_panel_is_none(written: tuple[Server, str]) -> None:
    assert read_panel(written[0], "other") is None


def test_missing_and_foreign_members_are_left_out(written: tuple[Server, str]) -> None:
    server, panel_id = written
    first, second = (m["reference"].split("/")[1] for m in server.held[panel_id]["hasMember"][:2])
    del server.held[first]
    server.held[second]["code"] = {"text": "something else"}
    panel = read_panel(server, panel_id)
    assert panel is not None
    assert len(panel.members) == 10
    assert {m.region for m in panel.members} == {
        Region.LUNGS,
        Region.LEFT_LUNG,
        Region.RIGHT_LUNG,
    }


def test_an_observation_of_somebody_else_is_none() -> None:
    assert read_member({"id": "1", "status": "final", "code": {"text": "x"}}) is None
