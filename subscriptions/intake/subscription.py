"""Our rest-hook Subscriptions in HAPI: created, checked and repaired by us."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from fhir_ext.clients.fhir import FhirClient
from fhir_ext.logs import event, get_logger
from fhir_ext.settings import IntakeSettings
from subscriptions.intake.routes import SECRET_HEADER

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Hook:
    """One Subscription of ours.

    Attributes:
        id: id of the resource.
        criteria: search string; its type is the last part of the endpoint's path.
        reason: for whoever reads it in the server.
    """

    id: str
    criteria: str
    reason: str


STUDIES: Final = Hook(
    "fhir-ext-imaging-study",
    "ImagingStudy?status=available",
    "fhir-ext analyses imaging studies as they become available",
)
SUBSCRIPTION_ID: Final = STUDIES.id


@dataclass(frozen=True, slots=True)
class SubscriptionState:
    """How the Subscription stands.

    `state` is `active`, `pending` (HAPI has not activated it yet), `missing`, `error` (HAPI
    or a human switched it off) or `changed` (another endpoint, criteria or secret).
    """

    state: Literal["active", "pending", "missing", "error", "changed"]
    detail: str


def wanted_subscription(settings: IntakeSettings, hook: Hook = STUDIES) -> dict[str, Any]:
    """R4 Subscription with a full payload, so that HAPI calls PUT {endpoint}/{type}/{id}."""
    return {
        "resourceType": "Subscription",
        "id": hook.id,
        "status": "requested",
        "reason": hook.reason,
        "criteria": hook.criteria,
        "channel": {
            "type": "rest-hook",
            "endpoint": settings.hook_url,
            "payload": "application/fhir+json",
            "header": [f"{SECRET_HEADER}: {settings.hook_secret.get_secret_value()}"],
        },
    }


def check_subscription(
    fhir: FhirClient, settings: IntakeSettings, hook: Hook = STUDIES
) -> SubscriptionState:
    """Compare the Subscription in HAPI with the wanted one; changes nothing."""
    found = fhir.find("Subscription", hook.id)
    wanted = wanted_subscription(settings, hook)
    if found is None:
        return SubscriptionState("missing", "HAPI has no such Subscription")
    differing = [
        name
        for name, seen, need in [
            ("criteria", found.get("criteria"), wanted["criteria"]),
            *(
                (f"channel.{key}", found.get("channel", {}).get(key), value)
                for key, value in wanted["channel"].items()
            ),
        ]
        if seen != need
    ]
    if differing:
        return SubscriptionState("changed", f"differs in {', '.join(differing)}")
    status = found.get("status")
    if status == "active":
        return SubscriptionState("active", "active")
    if status == "requested":
        return SubscriptionState("pending", "waits for HAPI to activate it")
    return SubscriptionState("error", f"its status is {status}")


def ensure_subscription(
    fhir: FhirClient, settings: IntakeSettings, hook: Hook = STUDIES
) -> SubscriptionState:
    """Create or repair the Subscription when it is missing, off, or not as wanted.

    Returns:
        The state that was found before the repair.
    """
    state = check_subscription(fhir, settings, hook)
    if state.state in ("missing", "changed", "error"):
        fhir.put(wanted_subscription(settings, hook))
        event(log, "subscription-written", reason=state.state)
    return state
