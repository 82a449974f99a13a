"""Templates on one replica: images whose activations are kept, within a budget of bytes.

An entry holds the activations of one priming pass: of a template at one sigma, under one prompt.  Its bytes are
reserved before they are spent.  Where there is no room, the step that needs an entry computes it for itself and drops
it.  A pinned entry stays until its pin is released; pins never take more than a part of the budget, and those of one
tenant never more than a part of that.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from lego_serve.core.caching.ledger import CacheLedger, ReservationRefused
from lego_serve.core.editing.templates import PINNED_RATIO, owner_of, pin_room
from lego_serve.models.ragged.activations import ACTIVATION_CODECS, Activations
from lego_serve.models.sampling import noise

MAX_RELEASED_PINS = 4096  # how many are remembered, for edits on their way may still bring them


def template_key(latents: np.ndarray, seed: int, image: str = "") -> str:
    """Return the name of a template: that of its image, if any, its content and the seed of its noise."""
    digest = hashlib.sha256(np.ascontiguousarray(latents, dtype=np.float32).tobytes())
    digest.update(f"{latents.shape} {seed}".encode())
    content = digest.hexdigest()[:32]
    return f"{image}.{content}" if image else content


@dataclass(frozen=True, slots=True)
class Template:
    """An image's latents (channels, height, width), and the noise of its edits outside masks; ``key`` names both."""

    key: str
    latents: torch.Tensor
    noise: torch.Tensor = field(repr=False)

    @classmethod
    def of(cls, latents: torch.Tensor, seed: int, image: str = "") -> "Template":
        """Return the template of latents and a seed for its noise; ``image`` is part of its name."""
        channels, height, width = latents.shape
        own_noise = noise((channels, height, width), torch.Generator().manual_seed(seed))
        return cls(template_key(latents.float().cpu().numpy(), seed, image), latents, own_noise)

    def to(self, device: torch.device) -> "Template":
        """Return a copy of this template on a device."""
        return replace(self, latents=self.latents.to(device), noise=self.noise.to(device))

    def noised(self, sigma: float) -> torch.Tensor:
        """Return the image noised to a sigma, as a lane's latents are outside its mask."""
        return sigma * self.noise + (1.0 - sigma) * self.latents


class TemplateStore:
    """The entries of one replica within a budget of bytes; the one that saves the least time for its bytes goes first.

    ``acquire(...)`` before a step, ``commit(...)`` or ``abort(...)`` after it, by the compute thread alone.
    """

    def __init__(
        self,
        budget_bytes: int,
        clock: Callable[[], float],
        coding: str = "bfloat16",
        tenant_pinned_bytes: int | None = None,
    ) -> None:
        self.coding = ACTIVATION_CODECS[coding]
        self._tenant_pinned_bytes = pin_room(budget_bytes, 1, tenant_pinned_bytes)
        self._ledger, self._clock = CacheLedger(budget_bytes), clock
        self._entries: dict[str, Activations] = {}
        self.evicted = 0  # entries dropped for others
        self._pins: dict[str, tuple[str, set[str]]] = {}  # by entry, its owner and the pins that hold it
        self._pinned_bytes: dict[str, int] = {}  # by owner
        self._released: OrderedDict[str, None] = OrderedDict()  # pins

    def __contains__(self, key: object) -> bool:
        """Whether an entry can be read now."""
        return key in self._entries

    def __iter__(self) -> Iterator[str]:
        """Iterate over the keys of the entries."""
        return iter(self._entries)

    @property
    def templates(self) -> frozenset[str]:
        """The templates here, each under the adapters that primed it, as ``entries_label`` names them."""
        return frozenset(key.partition("/")[0] for key in list(self._entries))  # a copy: other threads read it too

    @property
    def used_bytes(self) -> int:
        """The bytes that entries take."""
        return self._ledger.used_bytes

    @property
    def budget_bytes(self) -> int:
        """The bytes that entries may take."""
        return self._ledger.budget_bytes

    @property
    def entries(self) -> int:
        """The number of entries."""
        return len(self._entries)

    @property
    def pinned_bytes(self) -> int:
        """The bytes that pinned entries take."""
        return sum(self._pinned_bytes.values())

    def bytes_of(self, image: str) -> int:
        """Return the bytes that the entries of an image take; any thread may call this."""
        entries = list(self._entries.items())
        return sum(entry.size_bytes for key, entry in entries if key.startswith(f"{image}."))

    def bytes_by_image(self) -> dict[str, int]:
        """Return the bytes that entries take, by image; any thread may call this."""
        found: dict[str, int] = {}
        for key, entry in list(self._entries.items()):
            image = key.partition(".")[0]
            found[image] = found.get(image, 0) + entry.size_bytes
        return found

    def acquire(
        self, key: str, size_bytes: int, load_s: float, *, keeps_text: bool = False
    ) -> tuple[Activations, bool]:
        """Return an entry, and whether it is still to be filled; a filled one is kept if there is room for it."""
        if self._ledger.touch(key, self._clock()):
            return self._entries[key], False
        decision = self._ledger.reserve(key, size_bytes, load_s)
        if not isinstance(decision, ReservationRefused):
            for victim in decision.evict:
                del self._entries[victim]
            self.evicted += len(decision.evict)
        return Activations(self.coding, keeps_text), True

    def commit(self, key: str, entry: Activations) -> None:
        """Keep an entry that has been filled."""
        if self._ledger.is_loading(key):
            self._ledger.commit(key)
            self._entries[key] = entry

    def abort(self, key: str) -> None:
        """Give up an entry that has not been filled."""
        if self._ledger.is_loading(key):
            self._ledger.drop(key)

    def pin(self, key: str, pin: str) -> None:
        """Let nothing evict an entry, where there is room for pins and for this tenant's; one not here is ignored."""
        entry = self._entries.get(key)
        if entry is None or pin in self._released:
            return
        if key in self._pins:
            self._pins[key][1].add(pin)
            return
        owner = owner_of(pin)
        owner_bytes = self._pinned_bytes.get(owner, 0) + entry.size_bytes
        all_bytes = self.pinned_bytes + entry.size_bytes
        if all_bytes > PINNED_RATIO * self._ledger.budget_bytes or owner_bytes > self._tenant_pinned_bytes:
            return
        self._ledger.pin(key)
        self._pins[key] = owner, {pin}
        self._pinned_bytes[owner] = owner_bytes

    def forget(self, image: str, pin: str = "") -> None:
        """Release a pin for good and, between two steps, drop the entries of an image that no other pin holds."""
        if pin:
            self._released[pin] = None
            while len(self._released) > MAX_RELEASED_PINS:
                self._released.popitem(last=False)
        for key in [key for key in self._entries if key.startswith(f"{image}.")]:
            owner, pins = self._pins.get(key, ("", set()))
            pins.discard(pin)
            if not pins:
                self._drop_entry(key, owner)

    def drop(self, template: str) -> None:
        """Drop all entries of a template between two steps, pinned ones too: they must not be read."""
        for key in [key for key in self._entries if key.startswith(template)]:
            self._drop_entry(key, self._pins.get(key, ("", set()))[0])

    def _drop_entry(self, key: str, owner: str) -> None:
        entry = self._entries.pop(key)
        if self._pins.pop(key, None) is not None:
            self._ledger.release(key)
            self._pinned_bytes[owner] -= entry.size_bytes
            if not self._pinned_bytes[owner]:
                del self._pinned_bytes[owner]
        self._ledger.drop(key)
