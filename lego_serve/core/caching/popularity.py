"""Estimates how likely the next request asks for a key: decayed counts over several horizons, mixed by their success.

A long memory tells popular keys from lucky ones; a short memory follows shifts and sees bursts.  Neither is always
best, so every request updates two weights of each horizon: the share of requests it explains, which moves slowly, and
the probability that it rules now, by Bayes' rule with a small chance of change.  After a shift the long memory cannot
explain the requests; a few surprises move the rule to shorter horizons, until the long one has learnt the new keys.
"""

from collections.abc import Iterator, Sequence
from operator import mul

HALF_LIVES = (2.0, 8.0, 32.0, 256.0, 8192.0)  # requests until a request counts half
LEARNING = 0.3  # weight of one request in the shares
MIN_SHARE = 1e-3  # lets a horizon that was wrong for long return quickly
CHANGE = 0.1  # probability that another horizon rules from the next request on
REMEMBERED = 4096  # keys whose counts are kept, resident or not
RESCALE_AT = 1e100  # a unit above it is divided out, long before floats overflow


class Popularity:
    """Counts of at most ``remembered`` keys; when there are more, the least likely eighth is forgotten."""

    def __init__(self, remembered: int = REMEMBERED, half_lives: Sequence[float] = HALF_LIVES) -> None:
        if remembered < 1 or not half_lives or min(half_lives) <= 0:
            raise ValueError("popularity needs room for a key and half-lives above 0")
        horizons = len(half_lives)
        self._remembered = remembered
        self._counts: dict[str, list[float]] = {}
        # Instead of decaying every count, each new request adds more than the one before it.
        self._growth = [2.0 ** (1.0 / half_life) for half_life in half_lives]
        self._unit = [1.0] * horizons
        self._total = [0.0] * horizons
        self._share = [1.0 / horizons] * horizons
        self._rule = [1.0 / horizons] * horizons
        self._factor = [0.0] * horizons  # by horizon: weight / total count

    def __len__(self) -> int:
        return len(self._counts)

    def __contains__(self, key: object) -> bool:
        return key in self._counts

    def __iter__(self) -> Iterator[str]:
        return iter(self._counts)

    def chance(self, key: str) -> float:
        """Return the probability that the next request asks for the key; 0 for a key not remembered."""
        counts = self._counts.get(key)
        if counts is None:
            return 0.0
        chance: float = sum(map(mul, self._factor, counts))
        return chance

    def count(self, key: str) -> list[str]:
        """Count a request for the key; return the keys forgotten to make room."""
        counts = self._counts.get(key)
        if counts is None:  # no horizon foresaw a new key, so it teaches nothing about them
            counts = self._counts[key] = [0.0] * len(self._unit)
        else:
            self._learn(counts)
        weights = _normalized([share * rule for share, rule in zip(self._share, self._rule, strict=True)])
        for i, growth in enumerate(self._growth):
            unit = self._unit[i] = self._unit[i] * growth
            counts[i] += unit
            self._total[i] += unit
            self._factor[i] = weights[i] / self._total[i]
            if unit > RESCALE_AT:
                self._rescale(i)
        return self._forget(key) if len(self._counts) > self._remembered else []

    def _learn(self, counts: Sequence[float]) -> None:
        """Increase the weight of each horizon by how well it foresaw this request."""
        # Every horizon gets a small count of each key: otherwise the long one would get the credit for every rare key.
        smoothing = 1.0 / len(self._counts)
        foreseen = [
            (count + smoothing * unit) / (total + unit)
            for count, total, unit in zip(counts, self._total, self._unit, strict=True)
        ]
        posterior = _normalized([prior * seen for prior, seen in zip(self._rule, foreseen, strict=True)])
        self._rule = [(1.0 - CHANGE) * part + CHANGE / len(posterior) for part in posterior]
        explained = _normalized([share * seen for share, seen in zip(self._share, foreseen, strict=True)])
        self._share = [
            max(MIN_SHARE, (1.0 - LEARNING) * share + LEARNING * part)
            for share, part in zip(self._share, explained, strict=True)
        ]

    def _rescale(self, i: int) -> None:
        scale = self._unit[i]
        self._unit[i] = 1.0
        self._total[i] /= scale
        self._factor[i] *= scale
        for counts in self._counts.values():
            counts[i] /= scale

    def _forget(self, newest: str) -> list[str]:
        """Drop the least likely keys, an eighth at a time so that sorting is rare."""
        order = sorted((key for key in self._counts if key != newest), key=self.chance)
        forgotten = order[: max(1, self._remembered // 8)]
        for key in forgotten:
            del self._counts[key]
        return forgotten


def _normalized(parts: Sequence[float]) -> list[float]:
    total = sum(parts)
    return [part / total for part in parts]
