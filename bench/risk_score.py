"""What `$risk-score` costs, against HAPI asked directly for the same data, in one run.

    from the chart      p50 at most 1.5x one search of HAPI for the same data
    all inputs given    at least 400 requests per second

The same data are either the batch that the operation sends, sent straight to HAPI, or one search,
`Patient?_id=…&_revinclude=…`, which cannot choose among Observations and brings all of them. Two
kinds of charts are measured: `whole` holds 240 Observations in eight visits, of which the model
may read 48, a share like that of Synthea's records; `lean` holds these 48 alone, so that the one
search brings nothing in vain. Both are asked with `Cache-Control: no-store`, HAPI's quickest way.

One client asks for the three in turns, so that all see the same machine. Clients, gateway and
HAPI share its cores; each request carries a token, which is verified, and is noted in the journal.

    python bench/risk_score.py

The last line is JSON.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import requests

from fhir_ext.cli.identity import BACKEND_CLIENT, backend_key
from fhir_ext.cli.tree import Tree
from fhir_ext.clients.fhir import FhirClient
from fhir_ext.issuer.flows import backend_token
from operations.risk_score.catalogue import risk_model
from operations.risk_score.chart_searches import PAGE, Planner, everything

Json = dict[str, Any]

PATIENTS, YEARS = 20, 8
CHARTS = ("whole", "lean")

#: Other results of a visit (blood count, metabolic panel, vital signs), as Synthea codes them.
OTHER_CODES = (
    "6690-2", "789-8", "718-7", "4544-3", "787-2", "785-6",
    "786-4", "777-3", "2339-0", "6299-2", "38483-4", "49765-1",
    "2947-0", "6298-4", "2069-3", "20565-8", "8302-2", "29463-7",
    "72514-3", "2571-8", "18262-6", "4548-4", "8867-4", "9279-1",
)  # fmt: skip
ROUNDS, CHART_REQUESTS, GIVEN_REQUESTS = 5, 150, 3000
WARM_UP_CHART, WARM_UP_GIVEN = 300, 1500
GIVEN_CLIENTS = 8
MODEL = "prevent"

LN, SCT = "http://loinc.org", "http://snomed.info/sct"
RXNORM, UCUM = "http://www.nlm.nih.gov/research/umls/rxnorm", "http://unitsofmeasure.org"
FHIR = "application/fhir+json"


@dataclass(frozen=True, slots=True)
class Load:
    """Requests of one kind.

    Attributes:
        requests: (method, URL, body), taken in turns.
        headers: of every request.
    """

    requests: tuple[tuple[str, str, bytes | None], ...]
    headers: dict[str, str] = field(default_factory=dict)


async def _client(
    session: aiohttp.ClientSession, load: Load, count: int, number: int
) -> list[float]:
    times = []
    for turn in range(count):
        method, url, body = load.requests[(turn + 7 * number) % len(load.requests)]
        begin = time.perf_counter()
        async with session.request(method, url, data=body) as response:
            answer = await response.read()
            if response.status != 200 or not answer:
                raise RuntimeError(f"{url} answered {response.status}: {answer[:300]!r}")
        times.append(time.perf_counter() - begin)
    return times


async def _run(load: Load, count: int, clients: int) -> tuple[list[float], float]:
    connector = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(connector=connector, headers=load.headers) as session:
        begin = time.perf_counter()
        found = await asyncio.gather(
            *(_client(session, load, count // clients, number) for number in range(clients))
        )
        return [one for times in found for one in times], time.perf_counter() - begin


def _in_process(load: Load, count: int, clients: int, answer: Any) -> None:
    answer.put(asyncio.run(_run(load, count, clients)))


def measure(load: Load, count: int, clients: int = 1) -> tuple[list[float], float]:
    """One round in a process of its own: seconds of each request, and of all."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=_in_process, args=(load, count, clients, answer))
    process.start()
    found: tuple[list[float], float] = answer.get(timeout=300)
    process.join()
    return found


def concept(system: str, code: str) -> Json:
    return {"coding": [{"system": system, "code": code}]}


def quantity(value: float, unit: str) -> Json:
    return {"value": value, "unit": unit, "system": UCUM, "code": unit}


def patient_id(kind: str, number: int) -> str:
    return f"bench-{kind}-{number}"


def chart(kind: str, number: int) -> list[Json]:
    """A chart of some years that holds everything that PREVENT needs."""
    patient = patient_id(kind, number)
    subject = {"reference": f"Patient/{patient}"}
    today = datetime.now(UTC).date()
    found: list[Json] = [
        {
            "resourceType": "Patient",
            "id": patient,
            "gender": "female",
            "birthDate": f"{today.year - 55}-01-01",
        }
    ]

    def add(kind: str, **content: Any) -> None:
        found.append({"resourceType": kind, "id": f"{patient}-{len(found)}", **content})

    for year in range(YEARS):
        when = (today - timedelta(days=10 + 365 * year)).isoformat()
        common = {"status": "final", "subject": subject, "effectiveDateTime": when}
        for code, value, unit in (
            ("2093-3", 200.0, "mg/dL"),
            ("2085-9", 45.0, "mg/dL"),
            ("98979-8", 90.0, "mL/min/{1.73_m2}"),
            ("39156-5", 31.0, "kg/m2"),
        ):
            add(
                "Observation", code=concept(LN, code), valueQuantity=quantity(value, unit), **common
            )
        systolic = {"code": concept(LN, "8480-6"), "valueQuantity": quantity(140.0, "mm[Hg]")}
        add("Observation", code=concept(LN, "85354-9"), component=[systolic], **common)
        for code in OTHER_CODES if kind == "whole" else ():
            other = quantity(7.0, "1")
            add("Observation", code=concept(LN, code), valueQuantity=other, **common)
        smoking = concept(SCT, "266919005")
        add("Observation", code=concept(LN, "72166-2"), valueCodeableConcept=smoking, **common)
    for code in ("44054006", "38341003", "69896004"):
        add("Condition", code=concept(SCT, code), subject=subject)
    for code in ("617310", "314076", "198014"):
        add(
            "MedicationRequest",
            status="active",
            intent="order",
            subject=subject,
            medicationCodeableConcept=concept(RXNORM, code),
            authoredOn=today.isoformat(),
        )
    return found


def fill(fhir: FhirClient) -> None:
    for kind, number in itertools.product(CHARTS, range(PATIENTS)):
        fhir.transaction(
            {
                "resourceType": "Bundle",
                "type": "transaction",
                "entry": [
                    {
                        "resource": item,
                        "request": {"method": "PUT", "url": f"{item['resourceType']}/{item['id']}"},
                    }
                    for item in chart(kind, number)
                ],
            }
        )


def batch(patient: str) -> bytes:
    """The batch that the operation sends for a patient."""
    today = datetime.now(UTC).date()
    names = risk_model(MODEL).reads
    plan = Planner().plan(patient, names, today, today=today, rights=everything)
    urls = [plan.patient, *(search.url(PAGE) for search in plan.searches)]
    entries = [{"request": {"method": "GET", "url": url}} for url in urls]
    return json.dumps({"resourceType": "Bundle", "type": "batch", "entry": entries}).encode()


def given() -> bytes:
    """Parameters with every input of the model."""

    def part(name: str, **value: Any) -> Json:
        parts = [{"name": "name", "valueCode": name}, {"name": "value", **value}]
        return {"name": "input", "part": parts}

    return json.dumps(
        {
            "resourceType": "Parameters",
            "parameter": [
                {"name": "model", "valueCode": MODEL},
                part("age", valueQuantity=quantity(55, "a")),
                part("sex", valueCode="female"),
                part("total-cholesterol", valueQuantity=quantity(200, "mg/dL")),
                part("hdl", valueQuantity=quantity(45, "mg/dL")),
                part("systolic-bp", valueQuantity=quantity(140, "mm[Hg]")),
                part("bp-treated", valueBoolean=True),
                part("statin", valueBoolean=True),
                part("diabetes", valueBoolean=True),
                part("smoker", valueBoolean=False),
                part("egfr", valueQuantity=quantity(90, "mL/min/{1.73_m2}")),
                part("bmi", valueQuantity=quantity(31, "kg/m2")),
            ],
        }
    ).encode()


def check_same_data(kind: str, load: Load) -> None:
    """The search must bring the whole chart, not its first page."""
    answer = requests.get(load.requests[0][1], headers=load.headers, timeout=60).json()
    found, expected = len(answer["entry"]), len(chart(kind, 0))
    if found != expected:
        raise SystemExit(f"the search brings {found} of {expected} resources")


def chart_loads(kind: str, direct: str, gateway: str, token: str) -> dict[str, Load]:
    people = [patient_id(kind, number) for number in range(PATIENTS)]
    included = "&".join(
        f"_revinclude={name}:patient"
        for name in ("Observation", "Condition", "MedicationRequest", "MedicationStatement")
    )
    fresh = {"Accept": FHIR, "Cache-Control": "no-store"}

    def get(form: str) -> tuple[tuple[str, str, bytes | None], ...]:
        return tuple(("GET", form.format(person), None) for person in people)

    return {
        "search": Load(get(f"{direct}/Patient?_id={{}}&{included}&_count=1000"), fresh),
        "batch": Load(
            tuple(("POST", direct, batch(person)) for person in people),
            {**fresh, "Content-Type": FHIR},
        ),
        "score": Load(
            get(f"{gateway}/Patient/{{}}/$risk-score?model={MODEL}"),
            {"Accept": FHIR, "Authorization": f"Bearer {token}"},
        ),
    }


def given_load(gateway: str, token: str) -> Load:
    headers = {"Accept": FHIR, "Content-Type": FHIR, "Authorization": f"Bearer {token}"}
    return Load((("POST", f"{gateway}/RiskAssessment/$risk-score", given()),), headers)


def compare(kind: str, found: dict[str, Load]) -> Json:
    """Search, batch and score in turns, one client."""
    check_same_data(kind, found["search"])
    for load in found.values():
        measure(load, WARM_UP_CHART)
    times: dict[str, list[float]] = {"search": [], "batch": [], "score": []}
    for _ in range(ROUNDS):
        for name, values in times.items():
            values += measure(found[name], CHART_REQUESTS)[0]
    p50 = {name: round(statistics.median(values) * 1000, 3) for name, values in times.items()}
    p95 = {
        name: round(statistics.quantiles(values, n=20)[-1] * 1000, 3)
        for name, values in times.items()
    }
    ratio = {name: round(p50["score"] / p50[name], 3) for name in ("search", "batch")}
    for name in times:
        print(
            f"{kind} chart, {name:6} p50 {p50[name]:7.2f} ms, p95 {p95[name]:7.2f} ms", flush=True
        )
    return {"p50_ms": p50, "p95_ms": p95, "score_to_search": ratio["search"],
            "score_to_batch": ratio["batch"]}  # fmt: skip


def throughput(load: Load) -> Json:
    rates, times = [], []
    for _ in range(ROUNDS):
        found, seconds = measure(load, GIVEN_REQUESTS, GIVEN_CLIENTS)
        rates.append(len(found) / seconds)
        times += found
    rate = statistics.median(rates)
    print(f"all inputs given, {GIVEN_CLIENTS} clients: {rate:.0f} requests/s", flush=True)
    return {
        "per_second": round(rate, 1),
        "p50_ms": round(statistics.median(times) * 1000, 3),
        "p95_ms": round(statistics.quantiles(times, n=20)[-1] * 1000, 3),
    }


def main() -> None:
    environment = {
        "FHIR_EXT_GATEWAY__REQUESTS_PER_MINUTE": "10000000",
        "FHIR_EXT_GATEWAY__BURST": "1000000",
        "FHIR_EXT_ISSUER__TOKEN_LIFETIME": "PT2H",
    }
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(Path(folder), lambda line: print(f"-- {line}"), environment=environment)
        try:
            tree.start()
            # It would write AuditEvents into the same HAPI while others are measured.
            tree.hold("worker")
            fhir = FhirClient(tree.settings.fhir)
            fill(fhir)
            key = backend_key(tree.directory)
            token = backend_token(tree.urls["issuer"], BACKEND_CLIENT, key, "system/*.rs")
            direct, gateway = tree.urls["FHIR server"], tree.urls["gateway"]
            result: Json = {"bench": "risk_score"}
            for kind in CHARTS:
                result[kind] = compare(kind, chart_loads(kind, direct, gateway, token))
            load = given_load(gateway, token)
            measure(load, WARM_UP_GIVEN, GIVEN_CLIENTS)
            result["all_given"] = throughput(load)
        finally:
            tree.stop()
    result["goals_met"] = {
        **{
            f"{kind}_{name}": result[kind][name] <= 1.5
            for kind in CHARTS
            for name in ("score_to_search", "score_to_batch")
        },
        "all_given": result["all_given"]["per_second"] >= 400,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
