"""What the gateway costs, against HAPI asked directly, in one run.

    read by id     p50 at most 2x, throughput at least 50 %
    search         p50 at most 1.25x, throughput at least 80 %

Each is measured with 1 and with 16 clients, direct and through the gateway in turns, so that
both see the same machine. Clients, gateway and HAPI share its cores. The token is verified for
every request (from the gateway's memory after the first); every access is noted in the journal,
handed over to the queue, and written into HAPI by the worker after the runs, whose pace is
measured too. The clients are processes of their own.

The last line is JSON: milliseconds and requests per second.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from fhir_ext.cli.identity import BACKEND_CLIENT, backend_key
from fhir_ext.cli.tree import Tree
from fhir_ext.clients.fhir import FhirClient
from fhir_ext.issuer.flows import backend_token

PATIENTS, OBSERVATIONS = 20, 40
ROUNDS = 5
WARM_UP = 700
READS, SEARCHES = 1200, 240

GOALS = {"read": (2.0, 0.5), "search": (1.25, 0.8)}


@dataclass(frozen=True, slots=True)
class Load:
    """Requests of one kind.

    Attributes:
        paths: below the FHIR base; taken in turns.
        count: requests of one round, of all clients together.
    """

    paths: tuple[str, ...]
    count: int


LOADS = {
    "read": Load(tuple(f"/Observation/bench-{n}-0" for n in range(PATIENTS)), READS),
    "search": Load(
        tuple(f"/Observation?subject=Patient/bench-{n}&_count=20" for n in range(PATIENTS)),
        SEARCHES,
    ),
}


async def _client(
    session: aiohttp.ClientSession, base: str, load: Load, clients: int, number: int
) -> list[float]:
    times = []
    for turn in range(load.count // clients):
        path = load.paths[(turn * clients + number) % len(load.paths)]
        begin = time.perf_counter()
        async with session.get(base + path) as response:
            body = await response.read()
            if response.status != 200 or not body:
                raise RuntimeError(f"answered {response.status}")
        times.append(time.perf_counter() - begin)
    return times


async def _run(base: str, token: str | None, load: Load, clients: int) -> tuple[list[float], float]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connector = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        begin = time.perf_counter()
        found = await asyncio.gather(
            *(_client(session, base, load, clients, number) for number in range(clients))
        )
        seconds = time.perf_counter() - begin
    return [value for times in found for value in times], seconds


def _in_process(base: str, token: str | None, load: Load, clients: int, answer: Any) -> None:
    answer.put(asyncio.run(_run(base, token, load, clients)))


def measure(base: str, token: str | None, load: Load, clients: int) -> tuple[list[float], float]:
    """One round in a process of its own: seconds of each request, and of all."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=_in_process, args=(base, token, load, clients, answer))
    process.start()
    found: tuple[list[float], float] = answer.get(timeout=300)
    process.join()
    return found


def fill(fhir: FhirClient) -> None:
    """Patients with Observations as a chart has them."""
    for number in range(PATIENTS):
        patient = {"resourceType": "Patient", "id": f"bench-{number}", "gender": "female"}
        entries = [patient, *(_observation(number, item) for item in range(OBSERVATIONS))]
        fhir.transaction(
            {
                "resourceType": "Bundle",
                "type": "transaction",
                "entry": [
                    {
                        "resource": item,
                        "request": {"method": "PUT", "url": f"{item['resourceType']}/{item['id']}"},
                    }
                    for item in entries
                ],
            }
        )


def _observation(patient: int, item: int) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": f"bench-{patient}-{item}",
        "status": "final",
        "category": [{"coding": [{"code": "vital-signs"}]}],
        "code": {"coding": [{"system": "http://loinc.org", "code": "8480-6"}]},
        "subject": {"reference": f"Patient/bench-{patient}"},
        "effectiveDateTime": f"2026-0{item % 9 + 1}-01",
        "valueQuantity": {
            "value": 100 + item,
            "unit": "mm[Hg]",
            "system": "http://unitsofmeasure.org",
            "code": "mm[Hg]",
        },
    }


def compare(kind: str, clients: int, direct: str, gateway: str, token: str) -> dict[str, Any]:
    """Direct and through the gateway in turns."""
    load = LOADS[kind]
    times: dict[str, list[float]] = {"direct": [], "gateway": []}
    rates: dict[str, list[float]] = {"direct": [], "gateway": []}
    for _ in range(ROUNDS):
        for name, base, bearer in (("direct", direct, None), ("gateway", gateway, token)):
            found, seconds = measure(base, bearer, load, clients)
            times[name] += found
            rates[name].append(len(found) / seconds)
    p50 = {name: statistics.median(values) * 1000 for name, values in times.items()}
    p95 = {name: statistics.quantiles(values, n=20)[-1] * 1000 for name, values in times.items()}
    rate = {name: statistics.median(values) for name, values in rates.items()}
    ratio, share = p50["gateway"] / p50["direct"], rate["gateway"] / rate["direct"]
    print(
        f"{kind:6} {clients:2} clients: p50 {p50['direct']:6.2f} -> {p50['gateway']:6.2f} ms "
        f"({ratio:.2f}x), p95 {p95['direct']:6.2f} -> {p95['gateway']:6.2f} ms, "
        f"{rate['direct']:5.0f} -> {rate['gateway']:5.0f} /s ({share:.0%})",
        flush=True,
    )
    return {
        "p50_ms": {name: round(value, 3) for name, value in p50.items()},
        "p95_ms": {name: round(value, 3) for name, value in p95.items()},
        "per_second": {name: round(value) for name, value in rate.items()},
        "p50_ratio": round(ratio, 3),
        "throughput_share": round(share, 3),
    }


def drain(fhir: FhirClient, tree: Tree, limit: float = 120.0) -> float:
    """AuditEvents per second once the worker may write them."""
    tree.release("worker")
    time.sleep(3)
    before, begin = _audit_events(fhir), time.perf_counter()
    time.sleep(min(15.0, limit))
    return (_audit_events(fhir) - before) / (time.perf_counter() - begin)


def _audit_events(fhir: FhirClient) -> int:
    (bundle,) = fhir.pages("AuditEvent", {"_summary": "count"})
    return int(bundle["total"])


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
            direct, gateway = tree.urls["FHIR server"], tree.urls["gateway"]
            fhir = FhirClient(tree.settings.fhir)
            fill(fhir)
            key = backend_key(tree.directory)
            token = backend_token(tree.urls["issuer"], BACKEND_CLIENT, key, "system/*.rs")
            for base, bearer in ((direct, None), (gateway, token)):
                for load in LOADS.values():
                    measure(base, bearer, Load(load.paths, WARM_UP), 4)
            result: dict[str, Any] = {
                f"{kind}_{clients}": compare(kind, clients, direct, gateway, token)
                for kind in LOADS
                for clients in (1, 16)
            }
            result["audit_events_per_second_written"] = round(drain(fhir, tree), 1)
        finally:
            tree.stop()
    result["goals_met"] = {
        name: found["p50_ratio"] <= GOALS[name.partition("_")[0]][0]
        and found["throughput_share"] >= GOALS[name.partition("_")[0]][1]
        for name, found in result.items()
        if isinstance(found, dict)
    }
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(main())
