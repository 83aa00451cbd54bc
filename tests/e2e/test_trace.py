"""One trace follows one event from the hook through every step, into the AuditEvent."""

from __future__ import annotations

STEPS = {"hook", "prepare", "analyze", "publish", "finish"}


def test_one_trace_per_event(installation, collector, small_study) -> None:
    (series,) = small_study(installation.patient())
    uid = installation.store(series)
    installation.wait_done(uid)
    patient = installation.results(uid)["RiskAssessment"][0]["subject"]["reference"]
    audits = str(installation.fhir.search("AuditEvent", {"patient": patient}))

    def whole_trace():
        traces: dict[str, dict[str, list]] = {}
        for span in collector.spans:
            traces.setdefault(span.trace_id, {}).setdefault(span.name, []).append(span)
        return [
            (trace_id, spans)
            for trace_id, spans in traces.items()
            if set(spans) >= STEPS and trace_id in audits
        ]

    ((_, spans),) = installation.wait_for(whole_trace, "the spans", timeout=30)
    (hook,) = spans["hook"]
    for step in STEPS - {"hook"}:
        assert {span.parent_id for span in spans[step]} == {hook.span_id}


def test_spans_hold_no_patient_data(installation, collector, small_study) -> None:
    (series,) = small_study(installation.patient())
    installation.wait_done(installation.store(series))
    installation.wait_for(lambda: len(collector.spans) > 5, "spans", timeout=30)
    found = [
        value for value in installation.planted if any(value in s.text for s in collector.spans)
    ]
    assert found == []
