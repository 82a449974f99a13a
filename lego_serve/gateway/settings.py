"""The gateway's settings, as frozen values, and the keys that change beside them."""

import hmac
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from lego_serve.core.rate_limits import TenantLimits
from lego_serve.core.scheduling.admission import DEFAULT_DEADLINES, DeadlineLimits
from lego_serve.core.tiers.book import TierBook
from lego_serve.errors import LegoError
from lego_serve.jobstore.blobs.port import Blobs

KEYS_PERIOD_S = 1.0  # between two looks at a file of keys
KEY_ID_DIGITS = 12  # of a key's SHA-256, which the configuration has in full
log = logging.getLogger("lego_serve.gateway")


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
class KeysFile:
    """A file of keys that may change, and how all keys are read again; ``read`` raises LegoError."""

    path: Path
    read: Callable[[], tuple[ApiKey, ...]]


class Keys:
    """Who may use the gateway; keys of a file are read again when it has changed."""

    def __init__(
        self, keys: tuple[ApiKey, ...], file: KeysFile | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys, self._file, self._clock = keys, file, clock
        self._looked_s = clock()
        self._version = self._current_version()

    @property
    def are_needed(self) -> bool:
        """Whether a request needs a key at all."""
        return bool(self._keys)

    @property
    def peer_token(self) -> str:
        """What gateways of one configuration know and nobody else, while there are keys."""
        self._look()
        digests = " ".join(sorted(key.sha256 for key in self._keys))
        return hmac.new(digests.encode(), b"lego_serve peers", "sha256").hexdigest()

    def caller(self, token: str) -> Caller | None:
        """Return who holds this token; None where nobody does."""
        self._look()
        digest = sha256(token.encode(errors="replace")).hexdigest()
        caller = None
        for key in self._keys:  # all are compared, so that the time it takes reveals nothing
            if hmac.compare_digest(key.sha256, digest):
                caller = Caller(key.tenant, is_admin=key.is_admin, weight=key.weight, key_id=digest[:KEY_ID_DIGITS])
        return caller

    def _look(self) -> None:
        """Read the keys again where their file has changed; one that is wrong changes nothing."""
        if self._file is None or self._clock() - self._looked_s < KEYS_PERIOD_S:
            return
        self._looked_s = self._clock()
        if (version := self._current_version()) == self._version:
            return
        self._version = version
        try:
            self._keys = self._file.read()
        except LegoError as error:
            log.error("the keys stay as they were: %s", error.message)
        else:
            log.info("%d keys were read again", len(self._keys))

    def _current_version(self) -> tuple[int, int, int] | None:
        """What changes with the file, also where a mounted Secret is exchanged for another; None where it is gone."""
        if self._file is None:
            return None
        try:
            stat = self._file.path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size


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

    blobs: Blobs
    keep_s: float = 3600.0
    max_bytes: int = 2**31


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """What every tenant may ask for, what single tenants may instead, and the Redis that counts for all gateways.

    ``owner`` is this gateway there, as for durable jobs.
    """

    usual: TenantLimits = field(default_factory=TenantLimits)
    tenants: Mapping[str, TenantLimits] = field(default_factory=dict)
    redis_url: str | None = None
    owner: str = ""

    def of(self, tenant: str) -> TenantLimits:
        """Return the limits of a tenant."""
        return self.tenants.get(tenant, self.usual)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model is and where it computes, as its configuration says."""

    family: str
    dtype: str
    device: str


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """The gateway's limits and keys; without keys everyone is the default tenant's admin.

    ``controlnets``: by model, the ids of its ControlNets.  ``quality_check_fraction``: the largest part of the time
    that comparing edits with their full computation may take.  Without ``templates`` none can be registered.
    ``allowed_hosts``: names that requests may call the server by besides loopback's; None is any name.
    ``cors_origins``: the origins of web pages that may use the server.  ``public_url``: what links in answers begin
    with, without a slash at its end.  Without ``kept_images`` answers hold no links.  ``access_log``: whether each
    request is a line of the log, ``log_prompts`` whether that has its prompt.  ``compat``: the foreign protocols that
    are served besides.  ``keys_file`` has been read into ``keys``.  ``operations_port``: where health, metrics and the
    routes of operators are; None is beside the others.  ``tiers`` by model; one without an entry has ``exact`` alone.
    ``slo_s``: by workflow, the seconds in which a request of it should be answered, in place of what the workflow
    says.  ``models``: what is known of them by name.
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
    keys_file: KeysFile | None = None
    operations_port: int | None = None
    tiers: Mapping[str, TierBook] = field(default_factory=dict)
    slo_s: Mapping[str, float] = field(default_factory=dict)
    models: Mapping[str, ModelFacts] = field(default_factory=dict)

    @property
    def has_tenants(self) -> bool:
        """Whether keys are several tenants', or may become so."""
        return self.keys_file is not None or len({key.tenant for key in self.keys}) > 1

    @property
    def weights(self) -> dict[str, float]:
        """The weights of tenants that have keys."""
        return {key.tenant: self.weight_of(key.tenant) for key in self.keys}

    def weight_of(self, tenant: str) -> float:
        """Return the weight of a tenant's jobs: the largest of its keys; 1 where it has none."""
        return max((key.weight for key in self.keys if key.tenant == tenant), default=1.0)
