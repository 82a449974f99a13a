"""Which model each tenant has chosen, for its next images by A1111's protocol."""

from typing import Protocol

from lego_serve.compat.a1111.options import Options
from lego_serve.errors import StoreUnavailable

PREFIX = "a1111.checkpoint:"


class SharedSettings(Protocol):
    """What all gateways keep under a name."""

    async def setting(self, name: str, first: str) -> str:
        """Return what is kept; where that is nothing yet, keep ``first`` and return it."""
        ...

    async def set_setting(self, name: str, value: str) -> None:
        """Keep a value in place of what was there."""
        ...


class TenantOptions:
    """The options of each tenant: in the store of jobs where there is one, or else in this process."""

    def __init__(self, shared: SharedSettings | None) -> None:
        self._shared = shared
        self._known: dict[str, Options] = {}

    @property
    def are_shared(self) -> bool:
        """Whether all gateways have them."""
        return self._shared is not None

    async def get(self, tenant: str) -> Options:
        """Return a tenant's options; while the store is away, those that were last seen here."""
        if self._shared is not None:
            try:
                kept = await self._shared.setting(PREFIX + tenant, "")
            except StoreUnavailable:
                return self._known.get(tenant, Options())
            self._known[tenant] = Options(kept or None)
        return self._known.get(tenant, Options())

    async def set(self, tenant: str, options: Options) -> None:
        """Keep a tenant's options.  Raises StoreUnavailable."""
        if self._shared is not None:
            await self._shared.set_setting(PREFIX + tenant, options.checkpoint or "")
        self._known[tenant] = options
