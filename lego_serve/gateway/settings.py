"""The gateway's settings, as frozen values."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from lego_serve.core.rate_limits import TenantLimits
from lego_serve.core.scheduling.admission import DEFAULT_DEADLINES, DeadlineLimits

KEY_ID_DIGITS = 12  # of a key's SHA-256, which the configuration has in full


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key by its digest, and whose it is."""

    sha256: str
    tenant: str
    is_admin: bool
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request: a tenant, and the weight of its jobs; ``key_id`` tells its keys apart in logs."""

    tenant: str = "default"
    is_admin: bool = True
    weight: float = 1.0
    key_id: str | None = None


@dataclass(frozen=True, slots=True)
class TemplateSettings:
    """Where templates are stored and how many.

    ``budgets``: by model, the bytes of activations that each of its replicas keeps.  ``tenant_pins``: by model, how
    many of these the pins of one tenant may take; without an entry, all that may be pinned.
    """

    folder: Path
    per_tenant: int
    tenant_bytes: int
    budgets: Mapping[str, int] = field(default_factory=dict)
    tenant_pins: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KeptImageSettings:
    """Where images are kept that answers hold links to, for how long, and how much all of them may take."""

    folder: Path
    keep_s: float = 3600.0
    max_bytes: int = 2**31


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """What every tenant may ask for, what single tenants may instead, and the Redis that counts for all gateways."""

    usual: TenantLimits = field(default_factory=TenantLimits)
    tenants: Mapping[str, TenantLimits] = field(default_factory=dict)
    redis_url: str | None = None

    def of(self, tenant: str) -> TenantLimits:
        """Return the limits of a tenant."""
        return self.tenants.get(tenant, self.usual)


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """The gateway's limits and keys; without keys everyone is the default tenant's admin.

    ``controlnets``: by model, the ids of its ControlNets.  ``quality_check_fraction``: the largest part of the time
    that comparing edits with their full computation may take.  Without ``templates`` none can be registered.
    ``allowed_hosts``: names that requests may call the server by besides loopback's; None is any name.
    ``cors_origins``: the origins of web pages that may use the server.  ``public_url``: what links in answers begin
    with, without a slash at its end.  Without ``kept_images`` answers hold no links.  ``access_log``: whether each
    request is a line of the log,
    ``log_prompts`` whether that has its prompt.
    with, without a slash at its end.
    ``compat``: the foreign protocols that are served besides.
    """

    default_workflow: str
    keys: tuple[ApiKey, ...] = ()
    max_pending_jobs: int = 256
    max_body_bytes: int = 50 * 2**20
    max_image_pixels: int = 52_000_000
    size_multiple: int = 16
    controlnets: Mapping[str, frozenset[str]] = field(default_factory=dict)
    quality_check_fraction: float = 0.0
    templates: TemplateSettings | None = None
    allowed_hosts: frozenset[str] | None = None
    cors_origins: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    max_pending_images: int | None = None
    deadlines: DeadlineLimits = DEFAULT_DEADLINES
    public_url: str | None = None
    default_response_format: str = "b64_json"
    kept_images: KeptImageSettings | None = None
    limits: LimitSettings = field(default_factory=LimitSettings)
    access_log: bool = True
    log_prompts: bool = False
    compat: frozenset[str] = frozenset()

    @property
    def has_tenants(self) -> bool:
        """Whether keys are several tenants'."""
        return len({key.tenant for key in self.keys}) > 1

    def weight_of(self, tenant: str) -> float:
        """Return the weight of a tenant's jobs: the largest of its keys; 1 where it has none."""
        return max((key.weight for key in self.keys if key.tenant == tenant), default=1.0)

    def caller(self, token: str) -> Caller | None:
        """Return who holds this token; None where nobody does."""
        digest = sha256(token.encode(errors="replace")).hexdigest()
        caller = None
        for key in self.keys:  # all are compared, so that the time it takes reveals nothing
            if hmac.compare_digest(key.sha256, digest):
                caller = Caller(key.tenant, is_admin=key.is_admin, weight=key.weight, key_id=digest[:KEY_ID_DIGITS])
        return caller
