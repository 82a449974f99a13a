"""Registered templates: the room for their pins, and the labels of their entries."""

from collections.abc import Sequence
from hashlib import sha256

PINNED_RATIO = 0.5  # of a replica's bytes: unpinned entries need room too, or every step would prime for itself


def pin_room(budget_bytes: int, tenants: int, tenant_bytes: int | None = None) -> int:
    """Return the bytes that one tenant's pins may take on a replica: as configured, or an equal share of all pins'."""
    room = int(PINNED_RATIO * budget_bytes)
    return min(room, room // max(1, tenants) if tenant_bytes is None else tenant_bytes)


def pin_of(tenant: str, token: str) -> str:
    """Return the name of a tenant's pin, which holds a hash of the tenant, not its name."""
    return f"{sha256(tenant.encode()).hexdigest()[:16]}.{token}"


def owner_of(pin: str) -> str:
    """Return the hash of the tenant that owns a pin."""
    return pin.partition(".")[0]


def entries_label(template: str, adapters: Sequence[tuple[str, float]] = ()) -> str:
    """Return the key of a template's entries under a set of adapters: the hashes and scales of those with an effect.

    Edits read only the entries of their own set.
    """
    if not adapters:
        return template
    name = repr(sorted((str(sha), float(scale)) for sha, scale in adapters))
    return f"{template}+{sha256(name.encode()).hexdigest()[:16]}"
