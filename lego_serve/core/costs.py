"""What a step takes: predicted from what steps have taken so far."""

MEMORY = 0.95  # weight an earlier step keeps with each step that follows
SPREAD = 1e-3  # relative variance of the rows below which no slope can be told


class StepCost:
    """Seconds of a step of so many token rows: a constant and a slope, refined with every step seen.

    A least-squares line through the steps observed, the latest weighing most.
    """

    def __init__(self) -> None:
        self._weight = self._rows = self._s = self._rows_rows = self._rows_s = 0.0

    def observe(self, rows: int, took_s: float) -> None:
        """Take note of a step."""
        self._weight = MEMORY * self._weight + 1
        self._rows = MEMORY * self._rows + rows
        self._s = MEMORY * self._s + took_s
        self._rows_rows = MEMORY * self._rows_rows + rows * rows
        self._rows_s = MEMORY * self._rows_s + rows * took_s

    def seconds(self, rows: int) -> float:
        """Predicted seconds of a step of so many rows; 0 while no step has been seen."""
        if not self._weight:
            return 0.0
        mean_rows, mean_s = self._rows / self._weight, self._s / self._weight
        variance = self._rows_rows / self._weight - mean_rows**2
        if variance <= SPREAD * mean_rows**2:
            return mean_s
        slope = max(0.0, (self._rows_s / self._weight - mean_rows * mean_s) / variance)
        if slope * mean_rows > mean_s:  # the line would promise less than nothing for small steps
            return rows * self._rows_s / self._rows_rows
        return mean_s + slope * (rows - mean_rows)
