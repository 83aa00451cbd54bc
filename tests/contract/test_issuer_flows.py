"""The development issuer over real HTTP: what users allow apps, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import requests
from joserfc import jwk, jwt
from oauth_flows import FlowRefused, begin_launch, login, refresh, running_issuer

from fhir_ext.auth.grant import Grant, Persona
from fhir_ext.auth.verify import TokenVerifier, build_verifier
from fhir_ext.errors import UnauthorizedError
from fhir_ext.issuer import flows
from fhir_ext.settings import AuthSettings, HttpAuth, OutgoingSettings

FHIR_BASE = "http://127.0.0.1:8000/fhir"
SECRET = "demo-confidential-is-no-secret"
GATEWAY = ("demo-gateway", "demo-gateway-is-no-secret")
LOOPBACK = OutgoingSettings(private_networks=True, plain_http=True)


@dataclass(frozen=True)
class Issuer:
    url: str

    @property
    def verifier(self) -> TokenVerifier:
        return build_verifier(AuthSettings(issuer=self.url), LOOPBACK, FHIR_BASE)

    def grant(self, answer: dict) -> Grant:
        """What the gateway's own verifier makes of a token."""
        return self.verifier.verify(answer["access_token"])

    def introspect(self, token: str, auth: tuple[str, str] = GATEWAY) -> dict:
        answer = requests.post(f"{self.url}/introspect", data={"token": token}, auth=auth)
        assert answer.status_code == 200
        return answer.json()

    def revoke(self, token: str, client_id: str = "demo-app") -> requests.Response:
        return requests.post(f"{self.url}/revoke", data={"token": token, "client_id": client_id})

    def request(self, **changes: str | None) -> tuple[dict[str, str], str]:
        """A good authorization request, changed; and the verifier of its challenge."""
        verifier = "v" * 50
        good = {
            "response_type": "code",
            "client_id": "demo-app",
            "redirect_uri": flows.REDIRECT_URI,
            "scope": "openid patient/*.rs",
            "state": "a-state",
            "aud": FHIR_BASE,
            "code_challenge": flows.challenge(verifier),
            "code_challenge_method": "S256",
        }
        return {k: v for k, v in (good | changes).items() if v is not None}, verifier


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    folder = tmp_path_factory.mktemp("issuer")
    with running_issuer(key_file=folder / "keys.json", fhir_base=FHIR_BASE + "/") as url:
        yield Issuer(url)


@pytest.mark.parametrize("persona", [p for p in Persona if p is not Persona.SERVICE])
def test_each_persona_logs_in(issuer: Issuer, persona: Persona) -> None:
    grant = issuer.grant(login(issuer.url, "demo-app", persona, "openid fhirUser user/*.rs"))
    assert grant.personas == {persona}
    assert grant.subject == f"demo-{persona.value}"
    assert grant.client_id == "demo-app"
    assert [(s.context, s.resource_type, s.letters) for s in grant.scopes] == [
        ("user", "*", frozenset("rs"))
    ]
    kind = "Patient" if persona is Persona.PATIENT else "Practitioner"
    assert grant.fhir_user == f"{kind}/demo-{persona.value}"


def test_programs_reach_the_grant(issuer: Issuer) -> None:
    assert issuer.grant(login(issuer.url, "demo-app", "coordinator", "user/*.rs")).programs == {
        "demo-screening"
    }
    assert not issuer.grant(login(issuer.url, "demo-app", "auditor", "user/*.rs")).programs


def test_a_clinician_chooses_a_patient(issuer: Issuer) -> None:
    answer = login(
        issuer.url, "demo-app", "clinician", "launch/patient patient/Observation.rs", patient="p-1"
    )
    assert (answer["patient"], answer["need_patient_banner"]) == ("p-1", True)
    assert (answer["token_type"], answer["expires_in"]) == ("Bearer", 300)
    assert answer["scope"] == "launch/patient patient/Observation.rs"
    assert "refresh_token" not in answer
    assert "id_token" not in answer
    assert issuer.grant(answer).patient == "p-1"


@pytest.mark.parametrize("chosen", ["", "no spaces", "../Patient", "a" * 65])
def test_a_patient_must_be_chosen(issuer: Issuer, chosen: str) -> None:
    with pytest.raises(FlowRefused, match="page"):
        login(issuer.url, "demo-app", "clinician", "patient/*.rs", patient=chosen)


def test_a_patient_has_only_themself_in_context(issuer: Issuer) -> None:
    answer = login(issuer.url, "demo-app", "patient", "patient/*.rs", patient="another")
    assert answer["patient"] == "demo-patient"
    launch = begin_launch(issuer.url, "another")
    with pytest.raises(FlowRefused, match="access_denied"):
        login(issuer.url, "demo-app", "patient", "launch patient/*.rs", launch=launch)


def test_an_ehr_launch_brings_its_context_once(issuer: Issuer) -> None:
    launch = begin_launch(issuer.url, "p-2", "e-2")
    scopes = "launch launch/encounter patient/*.rs"
    answer = login(issuer.url, "demo-app", "radiologist", scopes, launch=launch)
    assert (answer["patient"], answer["encounter"]) == ("p-2", "e-2")
    assert issuer.grant(answer).patient == "p-2"
    for value in (launch, "invented", None):
        with pytest.raises(FlowRefused, match="invalid_request"):
            login(issuer.url, "demo-app", "radiologist", scopes, launch=value)


def test_the_id_token_says_who_the_user_is(issuer: Issuer) -> None:
    request, verifier = issuer.request(scope="openid fhirUser profile user/*.rs", nonce="n-1")
    code = flows.authorize(issuer.url, request, "radiologist")
    answer = flows.exchange(issuer.url, "demo-app", code, verifier)
    keys = jwk.KeySet.import_key_set(requests.get(f"{issuer.url}/jwks").json())
    token = jwt.decode(answer["id_token"], keys, ["ES384"])
    assert token.header["kid"] == keys.keys[0].kid
    claims = token.claims
    assert (claims["iss"], claims["aud"], claims["nonce"]) == (issuer.url, "demo-app", "n-1")
    assert claims["fhirUser"] == "Practitioner/demo-radiologist"
    headers = {"authorization": f"Bearer {answer['access_token']}"}
    user = requests.get(f"{issuer.url}/userinfo", headers=headers).json()
    assert user == {name: claims[name] for name in ("sub", "name", "fhirUser")}
    with pytest.raises(FlowRefused, match="invalid_request"):
        flows.authorize(issuer.url, request, "radiologist")  # the nonce is used up


def test_userinfo_needs_a_token_with_openid(issuer: Issuer) -> None:
    assert requests.get(f"{issuer.url}/userinfo").status_code == 401
    answer = login(issuer.url, "demo-app", "auditor", "user/*.rs")
    headers = {"authorization": f"Bearer {answer['access_token']}"}
    assert requests.get(f"{issuer.url}/userinfo", headers=headers).status_code == 403


def test_unknown_foreign_and_system_scopes_are_left_out(issuer: Issuer) -> None:
    asked = "user/Patient.rs system/*.rs user/Patient.sr user/Nothing.r secret user/*.read"
    answer = login(issuer.url, "demo-app", "clinician", asked)
    assert answer["scope"] == "user/Patient.rs user/*.read"
    with pytest.raises(FlowRefused, match="invalid_scope"):
        login(issuer.url, "demo-app", "administrator", "system/*.rs")


def test_restricted_scopes_stay_restricted(issuer: Issuer) -> None:
    scope = "user/Observation.rs?category=laboratory"
    answer = login(issuer.url, "demo-app", "clinician", scope)
    assert answer["scope"] == scope
    assert issuer.grant(answer).scopes[0].restriction == (("category", "laboratory"),)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"state": None}, "invalid_request"),
        ({"aud": None}, "invalid_request"),
        ({"aud": "http://127.0.0.1:8000/other"}, "invalid_request"),
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"scope": None}, "invalid_scope"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"prompt": "none"}, "login_required"),
        # Without a certain address the browser must not be sent anywhere.
        ({"redirect_uri": None}, "page"),
        ({"redirect_uri": "http://127.0.0.1/other"}, "page"),
        ({"redirect_uri": "http://127.0.0.1/callback?more"}, "page"),
        ({"redirect_uri": "http://127.0.0.1.example.org/callback"}, "page"),
        ({"redirect_uri": "http://127.0.0.1@example.org/callback"}, "page"),
        ({"redirect_uri": "https://127.0.0.1/callback"}, "page"),
        ({"redirect_uri": 'http://127.0.0.1/"'}, "page"),
        ({"client_id": "unknown"}, "page"),
        ({"client_id": None}, "page"),
        ({"client_id": "demo-gateway"}, "page"),
    ],
)
def test_wrong_authorization_requests(issuer: Issuer, changes: dict, error: str) -> None:
    request, _ = issuer.request(**changes)
    with pytest.raises(FlowRefused) as refused:
        flows.authorize(issuer.url, request, "clinician", patient="p")
    assert refused.value.error == error


def test_a_repeated_parameter_is_refused(issuer: Issuer) -> None:
    request, _ = issuer.request()
    twice = [*request.items(), ("scope", "user/*.cruds")]
    answer = requests.get(f"{issuer.url}/authorize", params=twice, allow_redirects=False)
    assert answer.status_code == 400
    assert "text/html" in answer.headers["content-type"]
    form = [("grant_type", "refresh_token")] * 2
    assert requests.post(f"{issuer.url}/token", data=form).json()["error"] == "invalid_request"


def test_a_loopback_redirect_may_have_any_port(issuer: Issuer) -> None:
    for uri in ("http://127.0.0.1:61234/callback", "http://localhost:9/index.html"):
        assert login(issuer.url, "demo-app", "auditor", "user/*.rs", redirect_uri=uri)


def test_the_user_may_say_no(issuer: Issuer) -> None:
    request, _ = issuer.request()
    with pytest.raises(FlowRefused, match="access_denied"):
        flows.authorize(issuer.url, request, "patient", allow=False)


def test_a_code_needs_its_verifier_and_is_spent_by_a_wrong_one(issuer: Issuer) -> None:
    request, verifier = issuer.request()
    for wrong in ("w" * 50, "", flows.challenge(verifier)):
        code = flows.authorize(issuer.url, request, "patient")
        for tried in (wrong, verifier):
            with pytest.raises(FlowRefused, match=r"invalid_(grant|request)"):
                flows.exchange(issuer.url, "demo-app", code, tried)


def test_a_code_is_for_its_client_and_its_redirect(issuer: Issuer) -> None:
    request, verifier = issuer.request()
    code = flows.authorize(issuer.url, request, "patient")
    with pytest.raises(FlowRefused, match="invalid_grant"):
        flows.exchange(issuer.url, "demo-opaque", code, verifier)
    with pytest.raises(FlowRefused, match="invalid_grant"):
        flows.exchange(issuer.url, "demo-app", code, verifier, "http://127.0.0.1/")


def test_a_reused_code_ends_what_came_of_it(issuer: Issuer) -> None:
    request, verifier = issuer.request(scope="patient/*.rs offline_access")
    code = flows.authorize(issuer.url, request, "patient")
    answer = flows.exchange(issuer.url, "demo-app", code, verifier)
    assert issuer.introspect(answer["access_token"])["active"]
    with pytest.raises(FlowRefused, match="invalid_grant"):
        flows.exchange(issuer.url, "demo-app", code, verifier)
    assert issuer.introspect(answer["access_token"]) == {"active": False}
    with pytest.raises(FlowRefused, match="invalid_grant"):
        refresh(issuer.url, "demo-app", answer["refresh_token"])


def test_a_confidential_client_needs_its_secret(issuer: Issuer) -> None:
    assert login(issuer.url, "demo-confidential", "auditor", "user/*.rs", secret=SECRET)
    for secret in (None, "wrong"):
        with pytest.raises(FlowRefused, match="invalid_client"):
            login(issuer.url, "demo-confidential", "auditor", "user/*.rs", secret=secret)


def test_malformed_credentials_are_refused(issuer: Issuer) -> None:
    for value in ("Basic /////w==", "Basic x", "Basic", "Bearer x", "x"):
        answer = requests.post(
            f"{issuer.url}/token",
            data={"grant_type": "refresh_token", "refresh_token": "x"},
            headers={"authorization": value},
        )
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


def test_refresh_tokens_rotate_and_reuse_ends_the_family(issuer: Issuer) -> None:
    first = login(issuer.url, "demo-app", "clinician", "patient/*.rs offline_access", patient="p-3")
    second = refresh(issuer.url, "demo-app", first["refresh_token"])
    assert second["refresh_token"] != first["refresh_token"]
    assert (second["patient"], second["scope"]) == ("p-3", first["scope"])
    assert issuer.grant(second).patient == "p-3"
    with pytest.raises(FlowRefused, match="invalid_grant"):
        refresh(issuer.url, "demo-app", first["refresh_token"])
    with pytest.raises(FlowRefused, match="invalid_grant"):
        refresh(issuer.url, "demo-app", second["refresh_token"])
    assert issuer.introspect(second["access_token"]) == {"active": False}


def test_a_refresh_cannot_widen_the_scope_or_change_the_client(issuer: Issuer) -> None:
    answer = login(issuer.url, "demo-app", "auditor", "user/AuditEvent.rs online_access")
    form = {"grant_type": "refresh_token", "refresh_token": answer["refresh_token"]}
    with pytest.raises(FlowRefused, match="invalid_scope"):
        flows.token_request(issuer.url, form | {"scope": "user/*.rs"}, "demo-app")
    with pytest.raises(FlowRefused, match="invalid_grant"):
        flows.token_request(issuer.url, form, "demo-opaque")
    narrow = flows.token_request(issuer.url, form | {"scope": "user/AuditEvent.rs"}, "demo-app")
    assert narrow["scope"] == "user/AuditEvent.rs"


def test_a_revoked_token_is_inactive(issuer: Issuer) -> None:
    answer = login(issuer.url, "demo-app", "auditor", "user/*.rs offline_access")
    other = login(issuer.url, "demo-app", "auditor", "user/*.rs offline_access")
    assert issuer.revoke(answer["access_token"]).status_code == 200
    assert issuer.introspect(answer["access_token"]) == {"active": False}
    again = refresh(issuer.url, "demo-app", answer["refresh_token"])
    assert issuer.introspect(again["access_token"])["active"]
    assert issuer.revoke(again["refresh_token"]).status_code == 200
    assert issuer.introspect(again["access_token"]) == {"active": False}
    with pytest.raises(FlowRefused, match="invalid_grant"):
        refresh(issuer.url, "demo-app", again["refresh_token"])
    assert issuer.introspect(other["access_token"])["active"]
    assert issuer.revoke("unknown").status_code == 200


def test_a_client_revokes_only_its_own(issuer: Issuer) -> None:
    answer = login(issuer.url, "demo-app", "auditor", "user/*.rs")
    assert issuer.revoke(answer["access_token"], "demo-opaque").json()["error"] == "invalid_grant"
    assert issuer.introspect(answer["access_token"])["active"]


def test_introspection_is_for_resource_servers(issuer: Issuer) -> None:
    answer = login(issuer.url, "demo-app", "auditor", "user/*.rs offline_access")
    found = issuer.introspect(answer["access_token"])
    assert (found["sub"], found["client_id"]) == ("demo-auditor", "demo-app")
    assert (found["aud"], found["scope"]) == (FHIR_BASE, "user/*.rs offline_access")
    assert issuer.introspect(answer["refresh_token"]) == {"active": False}
    assert issuer.introspect("unknown") == {"active": False}
    other = ("demo-confidential", SECRET)
    assert issuer.introspect(answer["access_token"], other) == {"active": False}
    for auth in (None, ("demo-gateway", "wrong"), ("demo-app", "")):
        refused = requests.post(
            f"{issuer.url}/introspect", data={"token": answer["access_token"]}, auth=auth
        )
        assert refused.status_code == 401


def test_the_gateway_reads_opaque_tokens_by_introspection(issuer: Issuer) -> None:
    answer = login(issuer.url, "demo-opaque", "radiologist", "patient/*.rs", patient="p-4")
    settings = AuthSettings(
        issuer=issuer.url,
        introspection_url=f"{issuer.url}/introspect",
        introspection_auth=HttpAuth(kind="basic", username=GATEWAY[0], password=GATEWAY[1]),
    )
    grant = build_verifier(settings, LOOPBACK, FHIR_BASE).verify(answer["access_token"])
    assert (grant.patient, grant.personas) == ("p-4", {Persona.RADIOLOGIST})
    issuer.revoke(answer["access_token"], "demo-opaque")
    with pytest.raises(UnauthorizedError):
        build_verifier(settings, LOOPBACK, FHIR_BASE).verify(answer["access_token"])


def test_a_page_is_answered_once(issuer: Issuer) -> None:
    request, _ = issuer.request()
    page = requests.get(f"{issuer.url}/authorize", params=request)
    key = flows._interaction(page)
    early = {"interaction": key, "decision": "allow"}
    assert requests.post(f"{issuer.url}/consent", data=early).status_code == 400
    unknown = {"interaction": key, "user": "nobody"}
    assert requests.post(f"{issuer.url}/login", data=unknown).status_code == 400
    requests.post(f"{issuer.url}/login", data={"interaction": key, "user": "demo-patient"})
    answers = [
        requests.post(f"{issuer.url}/consent", data=early, allow_redirects=False).status_code
        for _ in range(2)
    ]
    assert answers == [303, 400]
