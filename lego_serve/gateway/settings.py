"""What the gateway needs to know, as a frozen value."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key by its digest, and who comes with it."""

    sha256: str
    tenant: str
    is_admin: bool
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request."""

    tenant: str = "default"
    is_admin: bool = True
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class TemplateSettings:
    """Where templates are kept and how many; ``budgets`` are the bytes of activations of each model's replicas.

    ``tenant_pins``: what the pins of one tenant may take of these; where nothing is said, all that may be pinned.
    """

    folder: Path
    per_tenant: int
    tenant_bytes: int
    budgets: Mapping[str, int] = field(default_factory=dict)
    tenant_pins: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Limits and keys; without keys everyone is the default tenant's admin.

    ``controlnets`` are the ids of each model's; comparing edits that read activations with their full computation takes
    ``quality_check_fraction`` of the time at most; without ``templates`` none can be registered.
    """

    default_workflow: str
    keys: tuple[ApiKey, ...] = ()
    max_pending_jobs: int = 256
    max_body_bytes: int = 50 * 2**20
    max_image_pixels: int = 16_000_000
    size_multiple: int = 16
    controlnets: Mapping[str, frozenset[str]] = field(default_factory=dict)
    quality_check_fraction: float = 0.0
    templates: TemplateSettings | None = None

    def caller(self, token: str) -> Caller | None:
        """Who holds this token; None when nobody does."""
        digest = sha256(token.encode(errors="replace")).hexdigest()
        found = None
        for key in self.keys:  # all are compared, so that time tells nothing
            if hmac.compare_digest(key.sha256, digest):
                found = Caller(key.tenant, key.is_admin, key.weight)
        return found
