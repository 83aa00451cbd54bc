"""Risk scores by hand, without a server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fhir_ext.errors import UnprocessableError
    from fhir_ext.results import RiskScore
    from operations.risk_score.model import RiskModel


def register(app: typer.Typer) -> None:
    """Add this module's command to the application."""
    app.command("risk-score", rich_help_panel="Models")(risk_score)


def risk_score(
    model: Annotated[
        str | None, typer.Argument(help="A code that `--list` shows, such as `prevent`.")
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="`NAME=VALUE`; a number may have a UCUM unit: `'hdl=1.3 mmol/L'`.",
            metavar="NAME=VALUE...",
        ),
    ] = None,
    as_of: Annotated[
        str | None, typer.Option(help="Date the score is for; today by default.")
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Print sentences, not JSON.")] = False,
    show: Annotated[
        bool, typer.Option("--list", help="List the models, or one model's inputs.")
    ] = False,
) -> None:
    """Print the RiskAssessment of a person whose inputs are all given.

    Example: `fhir-ext risk-score mayo age=65 ever-smoker=true prior-extrathoracic-cancer=false
    'nodule-diameter=1.2 cm' spiculated=true upper-lobe=true`
    """
    from fhir_ext.errors import UnprocessableError
    from operations.risk_score.catalogue import MODELS, risk_model

    try:
        chosen = risk_model(model) if model else None
        if show or chosen is None:
            _list([chosen] if chosen else list(MODELS.values()))
            return
        score = _score(chosen, inputs or [], as_of)
    except UnprocessableError as error:
        _explain(error)
        raise typer.Exit(1) from None
    _print(score, text)


def _score(model: RiskModel, inputs: list[str], as_of: str | None) -> RiskScore:
    from datetime import datetime

    from operations.risk_score.inputs import parse_as_of, parse_texts

    day = parse_as_of(as_of) if as_of else datetime.now().astimezone().date().isoformat()
    return model.compute(parse_texts(inputs), day)


def _print(score: RiskScore, text: bool) -> None:
    from fhir_ext.resources.risk_score import risk_score_assessment, risk_score_text

    if text:
        typer.echo(risk_score_text(score))
    else:
        typer.echo(json.dumps(risk_score_assessment(score, None), indent=2, ensure_ascii=False))


def _list(models: list[RiskModel]) -> None:
    from operations.risk_score.inputs import INPUTS

    for model in models:
        typer.echo(f"{model.code}: {model.title}. {model.purpose}\n  {model.citation}")
        for name in (*model.required, *model.optional):
            optional = " (optional)" if name in model.optional else ""
            typer.echo(f"  {name}{optional}: {model.accepts(name)}. {INPUTS[name].definition}")


def _explain(error: UnprocessableError) -> None:
    typer.echo(f"no score ({error.code}):", err=True)
    for issue in error.issues:
        where = issue.expression or ""
        place = f"{where}: " if where.startswith("argument") else ""
        typer.echo(f"  {place}{issue.diagnostics}", err=True)
    if not error.issues:
        typer.echo(f"  {error.message}", err=True)
