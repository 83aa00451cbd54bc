"""All settings, nested by concern, read once by the program that starts.

Sources, strongest first: constructor arguments, environment (`FHIR_EXT_<GROUP>__<NAME>`),
a YAML file named by `FHIR_EXT_CONFIG`. There is no import-time singleton: `create_app`,
the worker and every command build a `Settings` and pass it down.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

#: Placeholders that people leave in examples; a secret must not be one of them.
PLACEHOLDERS = frozenset({"changeme", "change-me", "secret", "password", "xxx", "todo", "example"})


class Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HttpAuth(Group):
    """How we authenticate to a server we call."""

    kind: Literal["none", "basic", "bearer", "oauth2"] = Field(
        "none", description="`oauth2` is the client-credentials grant (RFC 6749 section 4.4)."
    )
    username: str | None = Field(None, description="User of `basic`; client id of `oauth2`.")
    password: SecretStr | None = Field(
        None, description="Password of `basic`; client secret of `oauth2`."
    )
    token: SecretStr | None = Field(None, description="Token of `bearer`.")
    token_url: str | None = Field(None, description="Token endpoint of `oauth2`.")
    scope: str | None = Field(None, description="Scope asked for by `oauth2`.")
    client_certificate: Path | None = Field(None, description="PEM certificate for mTLS.")
    client_key: Path | None = Field(None, description="PEM private key for mTLS.")
    ca_bundle: Path | None = Field(None, description="PEM file of trusted CAs.")

    @model_validator(mode="after")
    def _complete(self) -> HttpAuth:
        needed = {
            "none": (),
            "basic": ("username", "password"),
            "bearer": ("token",),
            "oauth2": ("username", "password", "token_url"),
        }[self.kind]
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"auth kind {self.kind} also needs: {', '.join(missing)}")
        return self


class FhirSettings(Group):
    """The HAPI FHIR server."""

    base_url: str = Field("http://127.0.0.1:8080/fhir", description="FHIR base of HAPI.")
    auth: HttpAuth = Field(default_factory=HttpAuth, description="Credentials for HAPI.")
    timeout: timedelta = Field(timedelta(seconds=30), description="Longest wait for one answer.")


class ArchiveSettings(Group):
    """The DICOMweb archive; the three services may have different base URLs."""

    qido_url: str = Field("http://127.0.0.1:8042/dicom-web", description="QIDO-RS base.")
    wado_url: str = Field("http://127.0.0.1:8042/dicom-web", description="WADO-RS base.")
    stow_url: str = Field("http://127.0.0.1:8042/dicom-web", description="STOW-RS base.")
    orthanc_url: str | None = Field(
        None, description="Orthanc REST root, for its `/changes` feed; QIDO is polled without it."
    )
    auth: HttpAuth = Field(default_factory=HttpAuth, description="Credentials for the archive.")
    timeout: timedelta = Field(timedelta(seconds=60), description="Longest silence of one answer.")


class LimitSettings(Group):
    """What may come in."""

    body_bytes: int = Field(2_000_000, description="Largest request body.")
    instance_bytes: int = Field(1_000_000_000, description="Largest DICOM instance.")
    volume_bytes: int = Field(4_000_000_000, description="Largest decoded volume.")
    frames: int = Field(20_000, description="Most frames of one series.")
    rows_columns: int = Field(8192, description="Largest Rows and largest Columns.")
    series_per_study: int = Field(500, description="Most series of one study.")


class BridgeSettings(Group):
    """Archive bridge: archive changes become ImagingStudy resources."""

    enabled: bool = Field(True, description="Off where the site writes ImagingStudy itself.")
    poll_interval: timedelta = Field(timedelta(seconds=0.5), description="Pause between polls.")
    quiet_period: timedelta = Field(
        timedelta(seconds=5), description="A study is bridged once it did not grow for so long."
    )
    issuers: dict[str, str] = Field(
        default_factory=dict,
        description="IssuerOfPatientID (0010,0021) to Patient.identifier.system.",
    )
    default_issuer: str | None = Field(
        None, description="Identifier system when the header names no issuer; unset: not linked."
    )
    create_patients: bool = Field(
        False, description="Create a Patient from the DICOM header when none matches. Demo only."
    )


def _real_secret(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if len(text) < 16 or text.lower() in PLACEHOLDERS:
        raise ValueError("must be at least 16 characters and not a placeholder")
    return value


class IntakeSettings(Group):
    """Hooks, sweep and completeness."""

    hook_secret: SecretStr = Field(description="Secret that HAPI sends back in each hook.")
    hook_url: str = Field(
        "http://127.0.0.1:8000/hooks", description="Where HAPI reaches our hooks."
    )
    sweep_interval: timedelta = Field(timedelta(seconds=60), description="Pause between sweeps.")
    sweep_overlap: timedelta = Field(
        timedelta(minutes=5), description="How far each sweep looks back behind its watermark."
    )
    incomplete_retry: timedelta = Field(
        timedelta(seconds=5), description="First wait for a study whose counts differ; doubles."
    )
    incomplete_give_up: timedelta = Field(
        timedelta(hours=6), description="After so long an incomplete study becomes a Task."
    )
    upstream_retry: timedelta = Field(
        timedelta(seconds=1), description="First wait when HAPI or the archive is down; doubles."
    )
    upstream_give_up: timedelta = Field(
        timedelta(hours=48), description="After so long a failing step becomes a Task."
    )

    @field_validator("hook_secret")
    @classmethod
    def _real_hook_secret(cls, value: SecretStr) -> SecretStr:
        return _real_secret(value)


class DatabaseSettings(Group):
    """Our own database: queue, watermarks, progress, samples of what models said, of nobody."""

    url: str = Field(
        "sqlite:///.run/fhir-ext.sqlite",
        description="SQLAlchemy URL; sqlite:/// or postgresql+psycopg://.",
    )


class WorkerSettings(Group):
    """The worker process."""

    executor_id: str | None = Field(
        None, description="Stable and unique per worker; required on Postgres."
    )
    concurrency: int = Field(2, description="Studies worked on at once by one worker.")
    chores: int = Field(
        2,
        description="Chores (new scores, recalls, follow-ups) worked on at once by one worker, "
        "and as many audit entries beside them.",
    )
    queue_poll_interval: timedelta = Field(
        timedelta(seconds=0.03), description="Pause between looks at the queue."
    )
    lease_ttl: timedelta = Field(
        timedelta(seconds=10), description="A worker silent for so long is taken over by a peer."
    )
    retention: timedelta = Field(
        timedelta(days=30), description="Finished workflows are deleted after this."
    )
    rules_file: Path | None = Field(
        None, description="YAML planning rules; the shipped rules without it."
    )


class ModelSettings(Group):
    """Model versions that the site brings, and what runs models."""

    folder: Path = Field(
        Path("site-models"),
        description="Installed versions of the site; workers and HTTP side must both see it.",
    )
    inbox: Path = Field(
        Path("model-inbox"),
        description="Where folders lie that may be installed over HTTP, by their names.",
    )
    device: str | None = Field(
        None, description="`cpu`, `cuda` or `cuda:0,cuda:1`; unset: all GPUs, else the CPU."
    )
    memory_bytes: int = Field(
        4_000_000_000, description="Most that the networks of one device may hold."
    )
    isolated_bytes: int = Field(
        8_000_000_000,
        ge=1_000_000_000,
        description="Most memory of the process of a network with `isolate`.",
    )
    pixel_bytes: int = Field(
        4_000_000_000, description="Most pixels that a worker holds at once, over all studies."
    )
    weights_bytes: int = Field(4_000_000_000, description="Largest weights of one model.")
    remote_auth: HttpAuth = Field(
        default_factory=HttpAuth,
        description="Credentials for remote model servers; only where `outgoing.hosts` is set, "
        "since manifests name the servers.",
    )


class MonitoringSettings(Group):
    """Monitoring of model versions: what counts as a change, and who is told."""

    interval: timedelta = Field(timedelta(hours=1), description="Pause between two looks.")
    window: timedelta = Field(
        timedelta(days=7), description="What is compared: the whole days before today (UTC)."
    )
    reference: timedelta = Field(
        timedelta(days=28),
        description="With what: the first days of the version, as far as the window leaves them.",
    )
    retention: timedelta = Field(
        timedelta(days=730), description="Samples and alerts are deleted after this."
    )
    least: int = Field(30, ge=5, description="Fewer results than this are not compared.")
    alpha: float = Field(
        0.01,
        gt=0,
        lt=1,
        description="Chance of any false finding in one comparison of one version (Holm).",
    )
    psi_moderate: float = Field(
        0.1, gt=0, description="Population stability index of a moderate change."
    )
    psi_major: float = Field(0.25, gt=0, description="Population stability index of a major one.")
    rate_moderate: float = Field(
        0.05, gt=0, description="Difference of a rate (refusals, reviews) that is moderate."
    )
    rate_major: float = Field(0.15, gt=0, description="Difference of a rate that is major.")
    webhook_url: str | None = Field(
        None, description="Where alerts are posted as JSON; obeys the settings of `outgoing`."
    )
    webhook_secret: SecretStr | None = Field(
        None, description="Signs what is posted (Standard Webhooks 1.0): text, or `whsec_` base64."
    )
    webhook_timeout: timedelta = Field(
        timedelta(seconds=10), description="Longest wait for the receiver's answer."
    )

    @model_validator(mode="after")
    def _signed(self) -> MonitoringSettings:
        secret = self.webhook_secret.get_secret_value() if self.webhook_secret else ""
        if self.webhook_url and (len(secret) < 16 or secret.lower() in PLACEHOLDERS):
            raise ValueError("webhook_url needs a webhook_secret of at least 16 characters")
        return self

    @model_validator(mode="after")
    def _whole_days(self) -> MonitoringSettings:
        if self.window < timedelta(days=1) or self.window % timedelta(days=1):
            raise ValueError("window must be whole days")
        return self


class ServerSettings(Group):
    """The HTTP side."""

    host: str = Field("127.0.0.1", description="Bind address.")
    port: int = Field(8000, description="Bind port.")
    public_url: str = Field("http://127.0.0.1:8000", description="How others reach us.")
    status_password: SecretStr | None = Field(
        None,
        description="Asked for by the status page and `/metrics` (HTTP Basic, any user name); "
        "set it where others than operators reach the port.",
    )

    @field_validator("status_password")
    @classmethod
    def _real_password(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else _real_secret(value)

    @property
    def fhir_base(self) -> str:
        """The FHIR base as others see it; no slash at its end."""
        return f"{self.public_url.rstrip('/')}/fhir"


class AuthSettings(Group):
    """Who may come in: the issuer of tokens and what its claims mean."""

    issuer: str | None = Field(
        None, description="`iss` of the tokens; without it `/fhir` is closed."
    )
    audience: str | None = Field(
        None, description="`aud` of the tokens; the public FHIR base without it."
    )
    jwks_url: str | None = Field(
        None, description="Keys of the issuer (RFC 7517); its discovery document names it else."
    )
    introspection_url: str | None = Field(
        None, description="RFC 7662 endpoint, for tokens that are not JWTs."
    )
    introspection_auth: HttpAuth = Field(
        default_factory=HttpAuth, description="Our credentials at the introspection endpoint."
    )
    leeway: timedelta = Field(timedelta(seconds=10), description="Clock difference accepted.")
    jwks_lifetime: timedelta = Field(
        timedelta(minutes=10), description="Keys are fetched again after this."
    )
    jwks_cooldown: timedelta = Field(
        timedelta(seconds=10),
        description="Shortest pause between two fetches, however many unknown keys are seen.",
    )
    roles_claim: str = Field(
        "roles", description="Claim with role names; a dot goes one level down."
    )
    roles: dict[str, str] = Field(
        default_factory=dict, description="Role name of the issuer to persona; same names without."
    )
    programs_claim: str = Field(
        "programs", description="Claim with ids of the Groups a user works for."
    )
    development_issuer: bool = Field(
        False, description="Whether `issuer` is ours for development; refused on public addresses."
    )


class GatewaySettings(Group):
    """The door `/fhir`."""

    connections: int = Field(64, description="Most connections to the FHIR server.")
    checked_bytes: int = Field(
        50_000_000, description="Largest answer of the FHIR server that must be read to be checked."
    )
    bundle_entries: int = Field(500, description="Most entries of a batch or transaction.")
    page_size: int = Field(1000, description="Largest `_count` of a search.")
    requests_per_minute: int = Field(
        6000, description="Requests of one client per minute, on average."
    )
    burst: int = Field(500, description="Requests that one client may send at once.")
    receive_timeout: timedelta = Field(
        timedelta(seconds=30), description="Longest wait for the next piece of a request's body."
    )
    membership_lifetime: timedelta = Field(
        timedelta(seconds=10), description="How long the members of a program are remembered."
    )
    link_secret: SecretStr | None = Field(
        None,
        min_length=16,
        description="Signs links to further pages; the same for all copies of `serve`. "
        "Random per process without it.",
    )
    cors_origins: tuple[str, ...] = Field(
        (), description="Origins of browser apps that may call `/fhir`."
    )


class IssuerSettings(Group):
    """The development issuer of tokens (`fhir-ext issuer`): loopback only, no passwords."""

    host: str = Field("127.0.0.1", description="Bind address; refused unless loopback.")
    port: int = Field(8001, description="Bind port.")
    public_url: str = Field(
        "http://127.0.0.1:8001", description="`iss` of the tokens; refused unless loopback."
    )
    fhir_base: str = Field(
        "http://127.0.0.1:8000/fhir", description="`aud` of the tokens: the public FHIR base."
    )
    key_file: Path = Field(
        Path(".run/issuer-keys.json"), description="Signing keys; made when missing."
    )
    algorithm: Literal["ES384", "RS384", "RS256"] = Field(
        "ES384", description="How tokens are signed."
    )
    token_lifetime: timedelta = Field(
        timedelta(minutes=5), description="Access tokens expire after this."
    )
    refresh_lifetime: timedelta = Field(
        timedelta(hours=12), description="A refresh token that is not used expires after this."
    )
    clients: Path | None = Field(
        None, description="YAML or JSON of further clients, and of keys for those of the demo."
    )
    personas: Path | None = Field(
        None, description="YAML or JSON of users instead of those of the demo."
    )
    patients: dict[str, str] = Field(
        default_factory=dict, description="Patient id to the words shown for it when one is chosen."
    )


class OutgoingSettings(Group):
    """Addresses that may be called though others named them (JWKS, tokens, Subscriptions)."""

    hosts: tuple[str, ...] = Field(
        (), description="Hosts that may be called; any public one when empty."
    )
    private_networks: bool = Field(
        False, description="Whether private and loopback addresses may be called."
    )
    plain_http: bool = Field(False, description="Whether `http` may be used.")


class AuditSettings(Group):
    """AuditEvents of accesses."""

    journal: Path = Field(
        Path(".run/audit"), description="Folder where accesses are noted until they are queued."
    )
    flush_interval: timedelta = Field(
        timedelta(seconds=0.25), description="Pause between two hand-overs to the queue."
    )
    batch: int = Field(100, description="Most accesses in one entry of the queue.")


class TelemetrySettings(Group):
    """Logs, metrics, traces."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Lowest level that is written."
    )
    log_format: Literal["json", "text"] = Field("json", description="`text` is for a terminal.")
    log_salt: SecretStr | None = Field(
        None,
        min_length=16,
        description="Keys the short study references in logs and traces; a random key per "
        "process without it, so that references of two programs do not match.",
    )
    otlp_endpoint: str | None = Field(None, description="OTLP/HTTP collector for spans.")
    worker_metrics_port: int | None = Field(
        None, description="Port on which the worker shows its metrics, loopback only."
    )


class Settings(BaseSettings):
    """The whole configuration of one installation."""

    model_config = SettingsConfigDict(
        env_prefix="FHIR_EXT_", env_nested_delimiter="__", extra="ignore", frozen=True
    )

    fhir: FhirSettings = Field(default_factory=FhirSettings)
    archive: ArchiveSettings = Field(default_factory=ArchiveSettings)
    bridge: BridgeSettings = Field(default_factory=BridgeSettings)
    intake: IntakeSettings
    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    worker: WorkerSettings = Field(default_factory=WorkerSettings)
    models: ModelSettings = Field(default_factory=ModelSettings)
    monitoring: MonitoringSettings = Field(default_factory=MonitoringSettings)
    server: ServerSettings = Field(default_factory=ServerSettings)
    auth: AuthSettings = Field(default_factory=AuthSettings)
    gateway: GatewaySettings = Field(default_factory=GatewaySettings)
    issuer: IssuerSettings = Field(default_factory=IssuerSettings)
    outgoing: OutgoingSettings = Field(default_factory=OutgoingSettings)
    audit: AuditSettings = Field(default_factory=AuditSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        sources = [init_settings, env_settings]
        if path := os.environ.get("FHIR_EXT_CONFIG"):
            sources.append(YamlConfigSettingsSource(settings_cls, yaml_file=path))
        return tuple(sources)
