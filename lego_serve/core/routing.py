"""Which replicas may take a call: pure, over replica ids."""

from collections.abc import Collection, Sequence


def allowed(replicas: Sequence[str], avoid: Collection[str]) -> list[str]:
    """The replicas a call may go to: all but those it avoids, or all where it avoids every one."""
    return [replica for replica in replicas if replica not in avoid] or list(replicas)


def quieter(replicas: Sequence[str], suspects: bool) -> list[str]:
    """Suspect calls share one replica, the first by id, so that one death more takes nobody innocent along."""
    return sorted(replicas)[:1] if suspects else list(replicas)
