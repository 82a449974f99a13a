"""Templates on one replica: images whose activations are kept, and the account of the memory they take.

An entry is one priming pass: of a template at one sigma, under one conditioning.  Its bytes are reserved before
they are spent.  Where there is no room the step that needs it computes it for itself and lets go of it.  What is
pinned stays until its pin is released; pins never take more than a part of the budget, and those of one tenant never
more than a part of that.
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

RELEASED = 4096  # pins that are remembered as released


def template_key(latents: np.ndarray, seed: int, image: str = "") -> str:
    """The name of a template: that of its image, its content and the seed of its noise."""
    digest = hashlib.sha256(np.ascontiguousarray(latents, dtype=np.float32).tobytes())
    digest.update(f"{latents.shape} {seed}".encode())
    content = digest.hexdigest()[:32]
    return f"{image}.{content}" if image else content


@dataclass(frozen=True, slots=True)
class Template:
    """An image's latents (channels, height, width), and the noise outside masks; ``key`` names both."""

    key: str
    latents: torch.Tensor
    noise: torch.Tensor = field(repr=False)

    @classmethod
    def of(cls, latents: torch.Tensor, seed: int, image: str = "") -> "Template":
        """The template of some latents and a seed of its own; ``image`` says whose it is too."""
        channels, height, width = latents.shape
        own = noise((channels, height, width), torch.Generator().manual_seed(seed))
        return cls(template_key(latents.float().cpu().numpy(), seed, image), latents, own)

    def to(self, device: torch.device) -> "Template":
        """The same, kept on a device."""
        return replace(self, latents=self.latents.to(device), noise=self.noise.to(device))

    def noised(self, sigma: float) -> torch.Tensor:
        """The image as far as it is noise at a sigma: where a lane outside its mask stands."""
        return sigma * self.noise + (1.0 - sigma) * self.latents


class TemplateStore:
    """The entries of one replica within a budget of bytes; what saves the least time for its bytes goes first.

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
        self._kept: dict[str, Activations] = {}
        self.evicted = 0  # entries let go of for others
        self._pins: dict[str, tuple[str, set[str]]] = {}  # by entry, whose it is and the pins that hold it
        self._pinned: dict[str, int] = {}  # bytes by whose pins hold them
        self._released: OrderedDict[str, None] = OrderedDict()  # edits on their way may still bring these

    def __contains__(self, key: object) -> bool:
        """Whether an entry can be read now."""
        return key in self._kept

    def __iter__(self) -> Iterator[str]:
        """The entries there are."""
        return iter(self._kept)

    @property
    def templates(self) -> frozenset[str]:
        """What is here of templates, each under the adapters that primed it, as ``entries_label`` has it."""
        return frozenset(key.partition("/")[0] for key in list(self._kept))  # asked for from another thread too

    @property
    def used_bytes(self) -> int:
        """What entries take."""
        return self._ledger.used_bytes

    @property
    def budget_bytes(self) -> int:
        """What they may take."""
        return self._ledger.budget_bytes

    @property
    def entries(self) -> int:
        """How many there are."""
        return len(self._kept)

    @property
    def pinned_bytes(self) -> int:
        """What pinned entries take."""
        return sum(self._pinned.values())

    def bytes_of(self, image: str) -> int:
        """What the entries of an image take; may be asked from another thread."""
        kept = list(self._kept.items())
        return sum(entry.size_bytes for key, entry in kept if key.startswith(f"{image}."))

    def acquire(
        self, key: str, size_bytes: int, load_s: float, *, keeps_text: bool = False
    ) -> tuple[Activations, bool]:
        """An entry, and whether it is still to be filled: kept afterwards if there is room for it."""
        if self._ledger.touch(key, self._clock()):
            return self._kept[key], False
        decision = self._ledger.reserve(key, size_bytes, load_s)
        if not isinstance(decision, ReservationRefused):
            for victim in decision.evict:
                del self._kept[victim]
            self.evicted += len(decision.evict)
        return Activations(self.coding, keeps_text), True

    def commit(self, key: str, entry: Activations) -> None:
        """An entry has been filled."""
        if self._ledger.is_loading(key):
            self._ledger.commit(key)
            self._kept[key] = entry

    def abort(self, key: str) -> None:
        """An entry has not been filled."""
        if self._ledger.is_loading(key):
            self._ledger.drop(key)

    def pin(self, key: str, pin: str) -> None:
        """Let nothing evict an entry that is kept, as far as there is room for pins, and for this tenant's."""
        entry = self._kept.get(key)
        if entry is None or pin in self._released:
            return
        if key in self._pins:
            self._pins[key][1].add(pin)
            return
        owner = owner_of(pin)
        mine = self._pinned.get(owner, 0) + entry.size_bytes
        is_beyond = self.pinned_bytes + entry.size_bytes > PINNED_RATIO * self._ledger.budget_bytes
        if is_beyond or mine > self._tenant_pinned_bytes:
            return
        self._ledger.pin(key)
        self._pins[key] = owner, {pin}
        self._pinned[owner] = mine

    def forget(self, image: str, pin: str = "") -> None:
        """Let go of a pin for good, and, between two steps, of the image's entries that no other pin holds."""
        if pin:
            self._released[pin] = None
            while len(self._released) > RELEASED:
                self._released.popitem(last=False)
        for key in [key for key in self._kept if key.startswith(f"{image}.")]:
            owner, pins = self._pins.get(key, ("", set()))
            pins.discard(pin)
            if not pins:
                self._let_go(key, owner)

    def drop(self, template: str) -> None:
        """Let go, between two steps, of all entries of a template, whatever holds them: they are not to be read."""
        for key in [key for key in self._kept if key.startswith(template)]:
            self._let_go(key, self._pins.get(key, ("", set()))[0])

    def _let_go(self, key: str, owner: str) -> None:
        entry = self._kept.pop(key)
        if self._pins.pop(key, None) is not None:
            self._ledger.release(key)
            self._pinned[owner] -= entry.size_bytes
            if not self._pinned[owner]:
                del self._pinned[owner]
        self._ledger.drop(key)
