"""Nodes that are nothing but a name, for the tests of what a worker loads and evicts."""

import asyncio
import threading
from collections.abc import Callable

from lego_serve.serving.workers.host import HostedModel, ModelHost


class Name:
    """A node that knows its name and whether it was closed."""

    def __init__(self, name: str) -> None:
        self.name, self.is_closed = name, False

    def close(self) -> None:
        """Note it."""
        self.is_closed = True


class Shelf:
    """Where nodes are loaded from: notes how often each was, and how many at once at the most."""

    def __init__(self, *names: str, size: int = 1, load: Callable[[str], None] = lambda name: None) -> None:
        self.loads: list[str] = []
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()
        self.before = load
        self.models = {name: HostedModel(lambda: size, lambda name=name: self._load(name)) for name in names}  # type: ignore[misc]

    def _load(self, name: str) -> Name:
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self.loads.append(name)
        try:
            self.before(name)
        finally:
            with self._lock:
                self._at_once -= 1
        return Name(name)


async def use(host: ModelHost[Name], name: str, job: str | None = None, then: tuple[str, ...] = ()) -> Name:
    """One call of a moment."""
    async with host.lease(name, job, then) as lease:
        assert not lease.node.is_closed
        await asyncio.sleep(0)
        assert not lease.node.is_closed
        return lease.node
