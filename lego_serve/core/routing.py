"""Which replica takes a call: the one with the least work in hand among those that may; pure, over replica ids."""

from collections.abc import Collection, Mapping, Sequence


def allowed(replicas: Sequence[str], avoid: Collection[str]) -> list[str]:
    """The replicas a call may go to: all but those it avoids, or all where it avoids every one."""
    return [replica for replica in replicas if replica not in avoid] or list(replicas)


def quieter(replicas: Sequence[str], suspects: bool) -> list[str]:
    """Suspect calls share one replica, the first by id, so that their next deaths take one replica down, not all."""
    return sorted(replicas)[:1] if suspects else list(replicas)


def denoising_work(inputs: Mapping[str, object]) -> float:
    """What a denoising call weighs against another: its pixels times the passes over them, of both branches."""
    number = {name: float(value) for name, value in inputs.items() if isinstance(value, int | float)}
    passes = number.get("steps", 1) * (2 if number.get("guidance", 1) > 1 and "negative" in inputs else 1)
    return number.get("n", 1) * number.get("width", 1) * number.get("height", 1) * passes


class Outstanding:
    """The work that calls of one process have in hand, by the replica they were sent to.

    Counted whole until a call ends: how far each is is known too late to be worth the messages.
    """

    def __init__(self) -> None:
        self._calls: dict[str, tuple[str, float]] = {}

    def of(self, replica: str) -> float:
        """The work of the calls a replica has."""
        return sum(work for place, work in list(self._calls.values()) if place == replica)

    def least(self, replicas: Sequence[str]) -> list[str]:
        """The replicas with the least work in hand."""
        work = [self.of(replica) for replica in replicas]
        return [replica for replica, mine in zip(replicas, work, strict=True) if mine == min(work)]

    def place(self, call: str, replica: str, work: float) -> None:
        """A call goes to a replica; placed again, it has moved."""
        self._calls[call] = (replica, work)

    def end(self, call: str) -> None:
        """A call has ended, wherever it was."""
        self._calls.pop(call, None)
