"""What jobs take after their denoising, learnt from those that ended: lanes are due that much sooner."""

MEMORY = 0.8  # weight what was known keeps with each job


class Tails:
    """Seconds from the last denoising of a job to its end, by workflow, as jobs took lately."""

    def __init__(self) -> None:
        self._known_s: dict[str, float] = {}

    def of(self, workflow: str) -> float:
        """Seconds to expect; 0 while nothing is known."""
        return self._known_s.get(workflow, 0.0)

    def learn(self, workflow: str, took_s: float) -> None:
        """Take note of a job."""
        self._known_s[workflow] = MEMORY * self._known_s.get(workflow, took_s) + (1 - MEMORY) * took_s
