"""`fhir-ext risk-score`: JSON for programs, sentences for people, lists when it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime

from typer.testing import CliRunner, Result

from fhir_ext.cli import app

PREVENT = [
    "age=50",
    "sex=female",
    "total-cholesterol=200",
    "hdl=45",
    "systolic-bp=160",
    "bp-treated=true",
    "statin=false",
    "diabetes=true",
    "smoker=false",
    "egfr=90",
    "bmi=35",
]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["risk-score", *arguments])


def test_a_risk_assessment() -> None:
    done = run("prevent", *PREVENT, "--as-of", "2026-02-03")
    assert done.exit_code == 0
    resource = json.loads(done.stdout)
    assert resource["resourceType"] == "RiskAssessment"
    assert resource["occurrenceDateTime"] == "2026-02-03"
    assert round(resource["prediction"][0]["probabilityDecimal"], 2) == 14.68


def test_today_by_default() -> None:
    before = datetime.now().astimezone().date().isoformat()
    resource = json.loads(run("prevent", *PREVENT).stdout)
    after = datetime.now().astimezone().date().isoformat()
    assert before <= resource["occurrenceDateTime"] <= after


def test_sentences() -> None:
    done = run("prevent", *PREVENT, "--text")
    assert "Cardiovascular disease within 10 years: 14.68 %" in done.stdout
    assert "Heart failure within 10 years: 8.06 %" in done.stdout


def test_units() -> None:
    metric = [text for text in PREVENT if not text.startswith(("hdl", "total"))]
    metric += ["hdl=1.1637 mmol/L", "total-cholesterol=5.172 mmol/L"]
    assert "14.68 %" in run("prevent", *metric, "--text").stdout


def test_what_is_missing_is_listed() -> None:
    done = run("mayo", "age=65", "upper-lobe=true")
    assert done.exit_code == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0] == "no score (missing-input):"
    assert [line.split()[0] for line in lines[1:]] == [
        "ever-smoker",
        "prior-extrathoracic-cancer",
        "nodule-diameter",
        "spiculated",
    ]
    assert "0.1 to 300 mm" in done.stderr


def test_what_is_wrong_is_listed() -> None:
    done = run("mayo", "age=650", "shoe-size=43", "upper-lobe")
    assert done.exit_code == 1
    assert "argument 1: age" in done.stderr
    assert "argument 2: there is no input of that name" in done.stderr
    assert "argument 3: an input is written NAME=VALUE" in done.stderr
    assert run("prevent", *PREVENT, "--as-of", "soon").exit_code == 1
    unknown = run("crystal-ball", "age=50")
    assert unknown.exit_code == 1
    assert "mesa-chd" in unknown.stderr


def test_lists() -> None:
    everything = run("--list")
    assert everything.exit_code == 0
    for code in ("plco-m2012", "brock", "mayo", "prevent", "pce", "mesa-chd"):
        assert f"\n{code}: " in f"\n{everything.stdout}"
    one = run("mesa-chd", "--list").stdout
    assert "agatston (optional): quantity from 0 to 30000 1" in one
    assert "white | black | hispanic | chinese" in one
    assert "prevent" not in one


def test_the_command_needs_no_settings_and_no_heavy_library() -> None:
    code = (
        "import sys\n"
        "from fhir_ext.cli import app\n"
        f"app(['risk-score', 'prevent', *{PREVENT!r}], standalone_mode=False)\n"
        "heavy = ('pint', 'lark', 'torch', 'highdicom', 'scipy')\n"
        "assert [m for m in heavy if m in sys.modules] == []\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
    )
