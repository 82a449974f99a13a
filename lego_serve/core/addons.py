"""What a request adds to a model, as values: adapters (LoRA) and ControlNets, asked for, resolved and used."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from lego_serve.errors import RequestError

NAME = re.compile(r"[a-z0-9_-]{1,64}")
MAX_ADDONS = 4  # adapters of a request, and ControlNets of a request
MAX_SCALE = 10.0


@dataclass(frozen=True, slots=True)
class AdapterRequest:
    """An adapter a request asks for, with its scale, in the steps i of n where start <= i / n < end."""

    name: str
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """An adapter as the LoRA node found it: by the hash of its file, whoever needs its bytes asks for these.

    It is empty while the file is being read for the first time: who needs it then asks for that of this ``version`` of
    the file.  ``early_ratio`` is the part of the steps that may run without it while it loads, as its profile measured;
    ``is_warm``: the LoRA node had it already.  ``has_text`` and ``has_denoiser``: what it changes, which may be both.
    """

    ask: AdapterRequest
    sha256: str
    size_bytes: int
    has_text: bool
    early_ratio: float = 0.0
    is_warm: bool = False
    has_denoiser: bool = True
    version: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class AdapterStats:
    """What became of an adapter in a lane: whether it was at hand, else how long its load took, and of how much.

    It took part in ``steps_active`` of the lane's steps; ``steps_without_adapter`` were denoised before it had come.
    """

    name: str
    scale: float
    hit: bool
    load_s: float = 0.0
    bytes: int = 0
    steps_without_adapter: int = 0
    steps_active: int = 0


@dataclass(frozen=True, slots=True)
class ControlNetStats:
    """Where a lane's ControlNet ran, and when in each of its steps: beginning and end, by the wall clock.

    It took part in ``steps_active`` of them.  ``hit``: it was at hand, else its load took so long, and of so much.
    """

    name: str
    placement: Literal["colocated", "remote"]
    ran: tuple[tuple[float, float], ...] = ()
    steps_active: int = 0
    hit: bool = True
    load_s: float = 0.0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class AdapterCommand:
    """What an operator wants of a model's adapters; of the only model that has any where it is not said which.

    ``names`` are told without what is in the files.  ``path`` leads from a configured root to the file of an adapter to
    be registered.
    """

    verb: Literal["names", "list", "show", "register", "remove"]
    model: str | None = None
    name: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True)
class ControlNetRequest:
    """A ControlNet a request asks for: its image as 8-bit pixels (height, width, 3), weight and part of the steps."""

    name: str
    pixels: object
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True, slots=True)
class ControlNetInput:
    """The same with its image encoded: latents (channels, height, width), and a key that tells their content."""

    name: str
    latents: object
    key: str
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0


def entry_param(field: str, name: str) -> str:
    """What an error is about that lies with one entry of a request's `lora` or `controlnet`, told by the entry's name.

    Who has the request turns it into the entry's place.
    """
    return f"{field}[{name}]" if NAME.fullmatch(name) else field


def check_requests(field: str, what: str, asks: Sequence[tuple[str, float, float, float]]) -> None:
    """Raise RequestError about a field for names, amounts or ranges (name, amount, start, end) that are none."""
    amount = "scale" if field == "lora" else "weight"
    if len(asks) > MAX_ADDONS:
        raise RequestError(f"`{field}` has more than {MAX_ADDONS} entries.", param=field, code="too_many")
    for index, (name, value, start, end) in enumerate(asks):
        place = f"{field}[{index}]"
        if NAME.fullmatch(name) is None:
            said = f"`{place}.name` must be 1 to 64 of a-z, 0-9, _ and -."
            raise RequestError(said, param=f"{place}.name")
        if not abs(value) <= MAX_SCALE:  # not `>`: NaN must fail too
            said = f"`{place}.{amount}` must lie between -{MAX_SCALE:g} and {MAX_SCALE:g}."
            raise RequestError(said, param=f"{place}.{amount}", code="out_of_range")
        if not 0 <= start < end <= 1:
            said = f"`{place}.start` must be less than its `end`, both from 0 to 1."
            raise RequestError(said, param=f"{place}.start", code="out_of_range")
    names = [ask[0] for ask in asks]
    for index, name in enumerate(names):
        if name in names[:index]:
            said = f"`{field}` names {what} twice: {name}."
            raise RequestError(said, param=f"{field}[{index}].name", code="duplicate_name")


def check_contents(adapters: Iterable[LoadedAdapter]) -> None:
    """Raise RequestError where two names have the same content, as far as their contents are known."""
    found: dict[str, str] = {}
    for adapter in adapters:
        name = adapter.ask.name
        other = found.setdefault(adapter.sha256, name) if adapter.sha256 else name
        if other != name:
            said = f"Adapters {other} and {name} have the same content; name one, with the sum of their scales."
            raise RequestError(said, param=entry_param("lora", name), code="duplicate_content")


def steps_without_adapter(adapters: Sequence[LoadedAdapter], steps: int) -> int:
    """How many of a lane's steps may run before its adapters have come: fewer than all, and none without a profile."""
    # A profile is measured at scale 1, and nothing is known of what a stronger use changes when.
    ratios = [a.early_ratio if abs(a.ask.scale) <= 1 else 0.0 for a in adapters if a.ask.scale != 0]
    return max(0, min(math.floor(min(ratios, default=0.0) * steps), steps - 1))
