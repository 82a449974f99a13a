"""Values for what a request adds to a model: adapters (LoRA) and ControlNets, as requested, as loaded, as used."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from lego_serve.core.values import Array, Tensor
from lego_serve.errors import RequestError

NAME = re.compile(r"[a-z0-9_-]{1,64}")
MAX_ADDONS = 4  # per request: of adapters, and of ControlNets
MAX_SCALE = 10.0


@dataclass(frozen=True, slots=True)
class AdapterRequest:
    """One entry of a request's `lora`: an adapter and its scale, active in steps i of n with start <= i / n < end."""

    name: str
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """A requested adapter, resolved by the LoRA node to a file; other nodes fetch the weights by the file's hash.

    ``sha256`` is empty while the file is read for the first time; nodes then ask for the hash of this ``version`` of
    the file.  ``early_ratio``: the fraction of the steps that may run without the adapter while it loads, from its
    measured profile.  ``is_warm``: the LoRA node had the weights in memory already.  ``has_text`` and
    ``has_denoiser``: whether the adapter changes the text encoder, the denoiser, or both.
    """

    request: AdapterRequest
    sha256: str
    size_bytes: int
    has_text: bool
    early_ratio: float = 0.0
    is_warm: bool = False
    has_denoiser: bool = True
    version: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class AdapterStats:
    """How a lane used an adapter: ``hit`` if it was in memory, else the seconds and bytes of its load.

    The adapter was active in ``steps_active`` of the lane's steps; ``steps_without_adapter`` ran before it arrived.
    ``passed_over`` names the parts of its file that are not used.
    """

    name: str
    scale: float
    hit: bool
    load_s: float = 0.0
    bytes: int = 0
    steps_without_adapter: int = 0
    steps_active: int = 0
    passed_over: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ControlNetStats:
    """How a lane used a ControlNet: where it ran, and the wall-clock start and end of each of its passes (``ran``).

    The ControlNet was active in ``steps_active`` of the lane's steps.  ``hit``: it was in memory; if not, ``load_s``
    and ``bytes`` are the seconds and bytes of its load.
    """

    name: str
    placement: Literal["colocated", "remote"]
    ran: tuple[tuple[float, float], ...] = ()
    steps_active: int = 0
    hit: bool = True
    load_s: float = 0.0
    bytes: int = 0


class AdapterFacts(TypedDict, total=False):
    """What an operator may learn of an adapter: keys are absent where the file has not been read far enough.

    ``resident`` lists the places that have the adapter in memory; None if that is unknown.  ``passed_over`` names parts
    of the file that are not used.
    """

    registered: bool
    path: str
    bytes: int | None
    rank: int | None
    ranks: list[int]
    layers: int
    components: list[str]
    sha256: str
    early_ratio: float
    resident: list[str] | None
    passed_over: list[str]
    fault: str


@dataclass(frozen=True, slots=True)
class ControlNetRequest:
    """One entry of a request's `controlnet`: 8-bit pixels (height, width, 3), a weight, and the range of the steps."""

    name: str
    pixels: Array
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True, slots=True)
class ControlNetInput:
    """A ControlNet request with its image encoded: latents (channels, height, width), and a key of their content."""

    name: str
    latents: Tensor
    key: str
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0


def entry_param(field: str, name: str) -> str:
    """Return the ``param`` of an error about one entry of a request's `lora` or `controlnet`, by the entry's name.

    The gateway, which has the request, replaces the name with the entry's index.
    """
    return f"{field}[{name}]" if NAME.fullmatch(name) else field


def check_requests(field: str, what: str, entries: Sequence[tuple[str, float, float, float]]) -> None:
    """Check the entries (name, amount, start, end) of a request's `lora` or `controlnet`.  Raises RequestError."""
    amount = "scale" if field == "lora" else "weight"
    if len(entries) > MAX_ADDONS:
        raise RequestError(f"`{field}` has more than {MAX_ADDONS} entries.", param=field, code="too_many")
    for index, (name, value, start, end) in enumerate(entries):
        place = f"{field}[{index}]"
        if NAME.fullmatch(name) is None:
            message = f"`{place}.name` must be 1 to 64 of a-z, 0-9, _ and -."
            if field == "lora":
                message += " A file of any other name is used under such a one, which an operator registers for it."
            raise RequestError(message, param=f"{place}.name")
        if not abs(value) <= MAX_SCALE:  # not `>`: NaN must fail too
            message = f"`{place}.{amount}` must lie between -{MAX_SCALE:g} and {MAX_SCALE:g}."
            raise RequestError(message, param=f"{place}.{amount}", code="out_of_range")
        if not 0 <= start < end <= 1:
            message = f"`{place}.start` must be less than its `end`, both from 0 to 1."
            raise RequestError(message, param=f"{place}.start", code="out_of_range")
    names = [entry[0] for entry in entries]
    for index, name in enumerate(names):
        if name in names[:index]:
            message = f"`{field}` names {what} twice: {name}."
            raise RequestError(message, param=f"{field}[{index}].name", code="duplicate_name")


def check_contents(adapters: Iterable[LoadedAdapter]) -> None:
    """Raise RequestError if two adapters, of those whose hash is known, have the same content."""
    name_by_hash: dict[str, str] = {}
    for adapter in adapters:
        name = adapter.request.name
        other = name_by_hash.setdefault(adapter.sha256, name) if adapter.sha256 else name
        if other != name:
            message = f"Adapters {other} and {name} have the same content; name one, with the sum of their scales."
            raise RequestError(message, param=entry_param("lora", name), code="duplicate_content")


def steps_without_adapter(adapters: Sequence[LoadedAdapter], steps: int) -> int:
    """Return how many of a lane's steps may run before its adapters arrive: not all, and none without a profile."""
    # A profile is measured at scale 1 and says nothing about larger scales, which may change an image sooner.
    ratios = [a.early_ratio if abs(a.request.scale) <= 1 else 0.0 for a in adapters if a.request.scale != 0]
    return max(0, min(math.floor(min(ratios, default=0.0) * steps), steps - 1))
