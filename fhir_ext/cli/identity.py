"""What the embedded tree needs for tokens: the development issuer, and a backend client's key."""

from __future__ import annotations

import json
from pathlib import Path

from joserfc import jwk

from fhir_ext.issuer.flows import register_backend

#: Client of `fhir_ext/issuer/demo.yaml` that is a program without a user.
BACKEND_CLIENT = "demo-backend"


def issuer_settings(directory: Path, issuer_port: int, service: str) -> dict[str, str]:
    """Settings that make the tree's programs trust the tree's own issuer.

    Args:
        directory: of the tree; the issuer's and the backend client's keys are kept there.
        issuer_port: where the issuer listens on loopback.
        service: public URL of `serve`, without a slash at its end.
    """
    folder = directory / "issuer"
    folder.mkdir(mode=0o700, exist_ok=True)
    clients = folder / "clients.json"
    register_backend(clients, BACKEND_CLIENT, backend_key(directory))
    issuer = f"http://127.0.0.1:{issuer_port}"
    return {
        "FHIR_EXT_AUTH__ISSUER": issuer,
        "FHIR_EXT_AUTH__DEVELOPMENT_ISSUER": "true",
        "FHIR_EXT_OUTGOING__PRIVATE_NETWORKS": "true",
        "FHIR_EXT_OUTGOING__PLAIN_HTTP": "true",
        "FHIR_EXT_ISSUER__PORT": str(issuer_port),
        "FHIR_EXT_ISSUER__PUBLIC_URL": issuer,
        "FHIR_EXT_ISSUER__FHIR_BASE": f"{service}/fhir",
        "FHIR_EXT_ISSUER__KEY_FILE": str(folder / "keys.json"),
        "FHIR_EXT_ISSUER__CLIENTS": str(clients),
        "FHIR_EXT_AUDIT__JOURNAL": str(directory / "audit"),
    }


def backend_key(directory: Path) -> jwk.ECKey:
    """Private key (P-384) of the tree's backend client; made when it is missing."""
    path = directory / "issuer" / "backend-key.json"
    if path.exists():
        return jwk.ECKey.import_key(json.loads(path.read_text()))
    key = jwk.ECKey.generate_key("P-384", private=True, auto_kid=True)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps(key.as_dict(private=True)))
    return key
