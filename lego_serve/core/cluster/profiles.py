"""What a pass, a load and a move of a model cost, from measured tables, and how far calls stray from it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from lego_serve.core.suggest import did_you_mean
from lego_serve.errors import ConfigError

PACE_MEMORY = 0.98  # weight of the past against the next call
SURENESS = 1.3  # standard deviations that are kept free


@dataclass(frozen=True, slots=True)
class Profile:
    """A model's bytes on a GPU, the seconds to copy them there, and the seconds of a pass by its batch."""

    name: str
    load_s: float
    size_bytes: int
    batch_s: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        batches = [batch for batch, _ in self.batch_s]
        if not batches or batches != sorted(set(batches)) or batches[0] < 1:
            raise ValueError(f"profile {self.name}: batches {batches} must be at least 1 and grow")
        if self.load_s < 0 or self.size_bytes < 0 or min(seconds for _, seconds in self.batch_s) < 0:
            raise ValueError(f"profile {self.name}: seconds and bytes are not negative")

    def seconds(self, batch: int) -> float:
        """The seconds of a pass over so many rows: linear between two points, in proportion beyond the last."""
        below = self.batch_s[0]
        for point in self.batch_s:
            if point[0] == batch:
                return point[1]
            if point[0] > batch:
                share = (batch - below[0]) / (point[0] - below[0]) if point is not below else 0.0
                return below[1] + share * (point[1] - below[1])
            below = point
        return below[1] * batch / below[0]


class CostModel:
    """The profiles of all models, and what moving a job between workers costs."""

    def __init__(
        self, profiles: Iterable[Profile], *, hop_s: float = 0.0, sync_s: float = 0.0, move_s: float = 0.0
    ) -> None:
        self._profiles = {profile.name: profile for profile in profiles}
        self.hop_s = hop_s  # of each step that one worker takes
        self.sync_s = sync_s  # of each step that two workers share
        self.move_s = move_s  # of a started job to another worker
        self._seconds: dict[tuple[str, int], float] = {}

    def __contains__(self, model: object) -> bool:
        return model in self._profiles

    def profile(self, model: str) -> Profile:
        """Return the profile of a model.  Raises ConfigError for a model without one."""
        found = self._profiles.get(model)
        if found is None:
            raise ConfigError(did_you_mean("profile of a model", model, self._profiles))
        return found

    def seconds(self, model: str, batch: int) -> float:
        """The seconds of one pass of the model over a batch."""
        key = (model, batch)
        seconds = self._seconds.get(key)
        if seconds is None:
            seconds = self._seconds[key] = self.profile(model).seconds(batch)
        return seconds

    def load_s(self, models: Iterable[str]) -> float:
        """The seconds to copy the models to a GPU, one after the other."""
        return sum(self.profile(model).load_s for model in models)

    def size_bytes(self, models: Iterable[str]) -> int:
        """The bytes of the models on a GPU."""
        return sum(self.profile(model).size_bytes for model in models)


class Pace:
    """A running mean and variance of the seconds by which calls exceed their estimates."""

    def __init__(self) -> None:
        self._mean_s = 0.0
        self._square = 0.0

    def ended(self, estimated_s: float, taken_s: float) -> None:
        """Hear of a call."""
        excess = taken_s - estimated_s
        if abs(excess) < 1e-9:
            excess = 0.0
        self._mean_s = PACE_MEMORY * self._mean_s + (1.0 - PACE_MEMORY) * excess
        self._square = PACE_MEMORY * self._square + (1.0 - PACE_MEMORY) * excess * excess

    def padding_s(self, calls: int) -> float:
        """The seconds by which a job of so many calls may well be late; 0 where estimates hold."""
        if not self._square:
            return 0.0
        variance = max(0.0, self._square - self._mean_s * self._mean_s)
        return max(0.0, calls * self._mean_s + SURENESS * math.sqrt(calls * variance))
