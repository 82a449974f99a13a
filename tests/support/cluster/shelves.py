"""Nodes that are nothing but a name, for the tests of what a worker loads and evicts."""

import asyncio
import threading
from collections.abc import Callable

from lego_serve.serving.workers.host import HostedModel, ModelHost
from lego_serve.serving.workers.host_copies import Copy


class NameCopy:
    """The weights of a node that knows its name, in host memory."""

    def __init__(self, name: str, size_bytes: int) -> None:
        self.name, self.size_bytes, self.is_dropped = name, size_bytes, False

    def drop(self) -> None:
        """Note it."""
        self.is_dropped = True


class Name:
    """A node that knows its name, whether it was closed, and the bytes that it has on a device."""

    def __init__(self, name: str, device_bytes: int = 0) -> None:
        self.name, self.device_bytes, self.is_closed = name, device_bytes, False
        self.copy: NameCopy | None = None

    def close(self) -> None:
        """Note it."""
        self.is_closed = True

    def stop(self) -> int:
        """It is closed for whoever would use it."""
        self.is_closed = True
        return self.device_bytes

    def to_host(self) -> NameCopy:
        """Note that its weights are there."""
        assert self.is_closed
        self.copy = NameCopy(self.name, self.device_bytes)
        return self.copy


class Shelf:
    """Where nodes are loaded from: notes how often each was, and how many at once at the most.

    On a ``device`` each has its size there, and whatever comes from host memory is noted in ``restored`` alone.
    """

    def __init__(
        self, *names: str, size: int = 1, load: Callable[[str], None] = lambda name: None, device: bool = False
    ) -> None:
        self.loads: list[str] = []
        self.restored: list[NameCopy] = []
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()
        self._device_bytes = size if device else 0
        self.before = load
        self.models = {name: HostedModel(lambda: size, self._loader(name)) for name in names}

    def _loader(self, name: str) -> Callable[[Copy | None], Name]:
        return lambda copy: self._load(name) if copy is None else self._restore(name, copy)

    def _restore(self, name: str, copy: Copy) -> Name:
        assert isinstance(copy, NameCopy)
        assert (copy.name, copy.is_dropped) == (name, False)
        self.restored.append(copy)
        return Name(name, self._device_bytes)

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
        return Name(name, self._device_bytes)


async def use(host: ModelHost[Name], name: str, job: str | None = None, then: tuple[str, ...] = ()) -> Name:
    """One call of a moment."""
    async with host.lease(name, job, then) as lease:
        assert not lease.node.is_closed
        await asyncio.sleep(0)
        assert not lease.node.is_closed
        return lease.node
