"""`fhir-ext phantom`: a study to try a model with, and what comes out of it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fhir_ext.errors import SettingsError, UpstreamError

if TYPE_CHECKING:
    from fhir_ext.cli.parts import Parts

Json = dict[str, Any]

PANEL = "Try it out"


def register(app: typer.Typer) -> None:
    """Add this module's commands to the application."""
    app.command(rich_help_panel=PANEL)(phantom)


def phantom(
    emphysema: Annotated[
        float, typer.Option(min=0, max=0.6, help="Share of the lungs that is drawn below -950 HU.")
    ] = 0.05,
    kernel: Annotated[str, typer.Option(help="soft or sharp.")] = "soft",
    patience: Annotated[float, typer.Option(help="Longest wait for results (s).")] = 180.0,
) -> None:
    """Store a chest CT phantom of an invented patient, wait, and print what the models say.

    It goes the whole way: archive, ImagingStudy, queue, models, FHIR server. Exits with 1 when
    the study is parked. Example: `fhir-ext phantom --emphysema 0.12`
    """
    from fhir_ext.cli.demo_studies import register, store_phantom
    from fhir_ext.cli.parts import Parts, load_settings
    from fhir_ext.clients.dicomweb import DicomWebClient
    from fhir_ext.phantom import KERNELS, PhantomPatient, PhantomSpec

    if kernel not in KERNELS:
        raise SettingsError(f"the kernel is one of {', '.join(KERNELS)}")
    settings = load_settings()
    if not settings.bridge.issuers:
        raise SettingsError("bridge.issuers is empty: the phantom's patient could not be linked")
    issuer, system = next(iter(settings.bridge.issuers.items()))
    parts = Parts(settings)
    number = f"PHANTOM-{uuid.uuid4().hex[:8].upper()}"
    patient = PhantomPatient(number, issuer, f"Phantom^{number}", "F", "19600214")
    register(parts.fhir, patient, system, number.lower())
    archive = DicomWebClient(settings.archive, settings.limits)
    # Another seed is another study: the same pixels would be the same work.
    spec = PhantomSpec(emphysema_fraction=emphysema, seed=int(number[-8:], 16))
    case = store_phantom(archive, patient, spec, (kernel,), typer.echo)  # type: ignore[arg-type]
    state = _wait(parts, case.study_instance_uid, patience)
    for line in _lines(parts, case.study_instance_uid):
        typer.echo(line)
    if state == "parked":
        typer.echo("the study waits for a human: `fhir-ext tasks list` says why")
        raise typer.Exit(1)


def _wait(parts: Parts, study_instance_uid: str, patience: float) -> str:
    """Until a run of the study is over; its state.

    Raises:
        UpstreamError: no worker did it in time.
    """
    from fhir_ext.cli.watching import finished_run, within

    run = within(patience, lambda: finished_run(parts.repository, study_instance_uid))
    if run is None:
        raise UpstreamError(
            "the study has no results yet; see `fhir-ext tasks list` and `fhir-ext doctor`"
        )
    typer.echo(f"{run.state} after {', '.join(run.step_seconds)}")
    return run.state


def _lines(parts: Parts, study_instance_uid: str) -> Iterator[str]:
    """What each service said: a line for each number, refusal, or reason not to look."""
    for row in parts.repository.outcomes(study_instance_uid):
        if row.panel_id is None:
            reasons = "; ".join(f"{r['rule']}: {r['seen']}" for r in row.reasons)
            yield f"{row.service}: {row.status}: {reasons}"
        else:
            yield from _members(parts, row.service, row.panel_id)


def _members(parts: Parts, service: str, panel_id: str) -> Iterator[str]:
    from fhir_ext.cli.watching import version_of

    panel = parts.fhir.read("Observation", panel_id)
    version = version_of(parts.fhir, panel)
    for member in panel.get("hasMember", []):
        found = parts.fhir.read(*member["reference"].split("/")[:2])
        site = found.get("bodySite", {}).get("coding", [{}])[0].get("display", "")
        name = found["code"].get("text") or found["code"]["coding"][0].get("display", "")
        yield f"{service} {version}: {name} ({site}): {_value(found)}"


def _value(observation: Json) -> str:
    if (quantity := observation.get("valueQuantity")) is not None:
        return f"{quantity['value']:g} {quantity.get('unit', '')}"
    if (concept := observation.get("valueCodeableConcept")) is not None:
        return str(concept.get("text") or concept["coding"][0].get("display", ""))
    reason = observation.get("dataAbsentReason", {})
    return f"refused: {reason.get('text', '')}"
