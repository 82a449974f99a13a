"""The fitted profile of costs: what nodes, steps and hand-overs of both systems take on one machine; a JSON file.

A step takes ``constant + rows x row + pairs x pair`` seconds, as :mod:`lego_serve.core.costs` has it; rows are token
rows of all branches, pairs their query-key pairs.  What else computes at the same time slows a computation down by
``crowding`` for each other core that is busy, and further where there are more computations than cores.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from lego_serve.core.costs import Rates, StepWork
from lego_serve.errors import ConfigError

FORMAT = 1
TOKEN_PIXELS = 256  # a latent is an eighth as wide, and a token two latents wide
TEXT_ROWS = 32  # of one branch of lego-tiny, whose tokenizers pad to it


@dataclass(frozen=True, slots=True)
class Amount:
    """Seconds that are a constant and so many for each unit: a prompt, or a pixel."""

    constant_s: float
    unit_s: float = 0.0

    def seconds(self, units: float) -> float:
        """Return the seconds of so many units."""
        return self.constant_s + self.unit_s * units


@dataclass(frozen=True, slots=True)
class AddonShares:
    """By what part of its own rows and pairs a step grows for each ControlNet and each adapter."""

    controlnet: float = 0.0
    adapter: float = 0.0

    def factor(self, controlnets: int, adapters: int) -> float:
        """Return the work of a step with add-ons over that of one without."""
        return 1.0 + self.controlnet * controlnets + self.adapter * adapters


@dataclass(frozen=True, slots=True)
class ServerCosts:
    """The costs of lego_serve; ``handover_s`` are the seconds of a call, by kind, beyond its waiting and running.

    ``outside_s``: from the client to the job's begin and from its end to the client, together.
    """

    encode: Amount
    step: Rates
    decode: Amount
    handover_s: Mapping[str, float]
    outside_s: float
    between_steps_s: float = 0.0  # from the end of a step to the begin of the next one
    crowding: float = 0.0
    addons: AddonShares = AddonShares()
    encode_batch: int = 1
    ready_s: float = 0.0


@dataclass(frozen=True, slots=True)
class MonolithCosts:
    """The costs of the baseline with so many threads; ``image`` is all of a request but its steps, by its pixels."""

    threads: int
    image: Amount
    step: Rates
    crowding: float = 0.0
    addons: AddonShares = AddonShares()
    ready_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Profile:
    """What was fitted, from which loads, on how many cores, and when."""

    fitted_from: tuple[str, ...]
    measured_at: str
    cores: int
    server: ServerCosts
    monolith: Mapping[int, MonolithCosts]  # by threads
    text_rows: int = TEXT_ROWS

    def monolith_with(self, threads: int) -> MonolithCosts:
        """Return the baseline's costs with so many threads.  Raises ConfigError where they were not measured."""
        if threads not in self.monolith:
            known = sorted(self.monolith)
            raise ConfigError(f"the profile has no baseline with {threads} threads, only {known}; calibrate it")
        return self.monolith[threads]


class Costly(Protocol):
    """What decides the work of a request's steps."""

    @property
    def width(self) -> int:
        """Pixels."""
        ...

    @property
    def height(self) -> int:
        """Pixels."""
        ...

    @property
    def guidance(self) -> float:
        """Guided, with two branches, above 1."""
        ...

    @property
    def addons(self) -> tuple[int, int]:
        """How many ControlNets and adapters."""
        ...


def step_work(request: Costly, addons: AddonShares, text_rows: int) -> StepWork:
    """Return the work of one step of a request, both branches where it is guided, add-ons included."""
    branches = 2 if request.guidance > 1.0 else 1
    rows = request.width * request.height // TOKEN_PIXELS + text_rows
    factor = addons.factor(*request.addons)
    return StepWork(math.ceil(branches * rows * factor), math.ceil(branches * rows * rows * factor))


def write_profile(path: Path, profile: Profile) -> None:
    """Write the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"format": FORMAT, **asdict(profile)}, indent=2) + "\n")


def read_profile(path: Path) -> Profile:
    """Read the file.  Raises ConfigError for one that is missing or is no profile."""
    try:
        found = json.loads(path.read_text())
        if found["format"] != FORMAT:
            raise ConfigError(f"{path}: format {found['format']} is not {FORMAT}; fit the profile anew")
        return Profile(
            tuple(found["fitted_from"]),
            str(found["measured_at"]),
            int(found["cores"]),
            _server(found["server"]),
            {int(threads): _monolith(each) for threads, each in found["monolith"].items()},
            int(found["text_rows"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: no profile of costs ({type(error).__name__}: {error}); make one by `fit`") from None


def _server(found: Mapping[str, Any]) -> ServerCosts:
    values = dict(found) | {"encode": Amount(**found["encode"]), "decode": Amount(**found["decode"])}
    return ServerCosts(**values | {"step": Rates(**found["step"]), "addons": AddonShares(**found["addons"])})


def _monolith(found: Mapping[str, Any]) -> MonolithCosts:
    values = dict(found) | {"image": Amount(**found["image"]), "step": Rates(**found["step"])}
    return MonolithCosts(**values | {"addons": AddonShares(**found["addons"])})
