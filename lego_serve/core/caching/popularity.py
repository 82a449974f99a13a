"""How likely the next request is to ask for a key: decayed counts over several horizons, mixed as they prove right.

A long memory tells the popular from the lucky, a short one follows a shift and sees bursts.  No one of them is best,
so two things are learnt from every request: what share of the requests each horizon explains, which moves slowly, and
which horizon rules now, by Bayes' rule with a small chance of change.  After a shift the long memory cannot explain
what comes; a handful of surprises takes the rule from it, and it has it back when it has learnt.
"""

from collections.abc import Iterator, Sequence
from operator import mul

HALF_LIVES = (2.0, 8.0, 32.0, 256.0, 8192.0)  # requests until a request counts half
LEARNING = 0.3  # how much of the shares a single request decides
LEAST_SHARE = 1e-3  # so that a horizon that was wrong for long comes back quickly
CHANGE = 0.1  # the chance that another horizon rules from the next request on
REMEMBERED = 4096  # keys whose counts are kept, resident or not
RESCALE_AT = 1e100


class Popularity:
    """Counts of at most ``remembered`` keys; the least likely eighth is forgotten when there are more."""

    def __init__(self, remembered: int = REMEMBERED, half_lives: Sequence[float] = HALF_LIVES) -> None:
        if remembered < 1 or not half_lives or min(half_lives) <= 0:
            raise ValueError("popularity needs room for a key and half-lives above 0")
        horizons = len(half_lives)
        self._remembered = remembered
        self._counts: dict[str, list[float]] = {}
        # Instead of letting every count decay, a new request counts more than the one before it.
        self._growth = [2.0 ** (1.0 / half_life) for half_life in half_lives]
        self._unit = [1.0] * horizons
        self._total = [0.0] * horizons
        self._share = [1.0 / horizons] * horizons
        self._rule = [1.0 / horizons] * horizons
        self._factor = [0.0] * horizons  # what a count is worth: its horizon's weight / total

    def __len__(self) -> int:
        return len(self._counts)

    def __contains__(self, key: object) -> bool:
        return key in self._counts

    def __iter__(self) -> Iterator[str]:
        return iter(self._counts)

    def chance(self, key: str) -> float:
        """The probability that the next request asks for the key; 0 for one that is not remembered."""
        counts = self._counts.get(key)
        if counts is None:
            return 0.0
        chance: float = sum(map(mul, self._factor, counts))
        return chance

    def count(self, key: str) -> list[str]:
        """Take note of a request; answers the keys that were forgotten to make room."""
        counts = self._counts.get(key)
        if counts is None:  # foreseen by none of the horizons: it speaks for none
            counts = self._counts[key] = [0.0] * len(self._unit)
        else:
            self._learn(counts)
        weights = _normal([share * rule for share, rule in zip(self._share, self._rule, strict=True)])
        for i, growth in enumerate(self._growth):
            unit = self._unit[i] = self._unit[i] * growth
            counts[i] += unit
            self._total[i] += unit
            self._factor[i] = weights[i] / self._total[i]
            if unit > RESCALE_AT:
                self._rescale(i)
        return self._forget(key) if len(self._counts) > self._remembered else []

    def _learn(self, counts: Sequence[float]) -> None:
        """Give each horizon more say the better it foresaw this request."""
        # Every horizon has seen each key a little: otherwise the long one would get the credit for whatever is rare.
        little = 1.0 / len(self._counts)
        foreseen = [
            (count + little * unit) / (total + unit)
            for count, total, unit in zip(counts, self._total, self._unit, strict=True)
        ]
        rule = _normal([before * seen for before, seen in zip(self._rule, foreseen, strict=True)])
        self._rule = [(1.0 - CHANGE) * part + CHANGE / len(rule) for part in rule]
        explained = _normal([share * seen for share, seen in zip(self._share, foreseen, strict=True)])
        self._share = [
            max(LEAST_SHARE, (1.0 - LEARNING) * share + LEARNING * part)
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
        """Drop the least likely keys, an eighth at a time so that the sorting is paid for rarely."""
        order = sorted((key for key in self._counts if key != newest), key=self.chance)
        gone = order[: max(1, self._remembered // 8)]
        for key in gone:
            del self._counts[key]
        return gone


def _normal(parts: Sequence[float]) -> list[float]:
    whole = sum(parts)
    return [part / whole for part in parts]
