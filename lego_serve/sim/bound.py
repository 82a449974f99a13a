"""What no policy can beat: the most requests that one preemptive machine as fast as all GPUs together serves in time.

The machine knows every request beforehand.  Three relaxations make the count exact and still a bound: a job may use all
GPUs at once, its work is the least that any batch takes, and a deadline is moved to the latest one of the jobs that
came before it, so that serving in order of arrival is best (Kise, Ibaraki and Mine, 1978).
"""

from collections.abc import Sequence


def most_in_time(release_s: Sequence[float], deadline_s: Sequence[float], work_s: Sequence[float], speed: float) -> int:
    """Return how many jobs such a machine ends in time; jobs are in order of arrival."""
    kept: list[tuple[float, float, float]] = []  # (release, seconds on the machine, start)
    free_s = 0.0
    latest_s = float("-inf")
    for release, deadline, work in zip(release_s, deadline_s, work_s, strict=True):
        latest_s = max(latest_s, deadline)
        seconds = work / speed
        start = max(free_s, release)
        kept.append((release, seconds, start))
        free_s = start + seconds
        if free_s > latest_s + 1e-9:
            free_s = _without_the_costliest(kept)
    return len(kept)


def _without_the_costliest(kept: list[tuple[float, float, float]]) -> float:
    """Drop the job without which the last one ends the earliest; return when it does."""
    last = len(kept) - 1
    ends = kept[last - 1][2] + kept[last - 1][1] if last else 0.0
    best, best_gain = last, kept[last][2] + kept[last][1] - ends
    movable_s = float("inf")  # by how much all jobs after the dropped one can start earlier
    for index in range(last - 1, -1, -1):
        release, _, start = kept[index + 1]
        movable_s = min(movable_s, start - release)
        if movable_s <= best_gain:
            break
        ends = kept[index - 1][2] + kept[index - 1][1] if index else 0.0
        gain = min(start - ends, movable_s)
        if gain > best_gain + 1e-12:
            best, best_gain = index, gain
    del kept[best]
    free_s = kept[best - 1][2] + kept[best - 1][1] if best else 0.0
    for index in range(best, len(kept)):
        release, seconds, _ = kept[index]
        start = max(free_s, release)
        kept[index] = (release, seconds, start)
        free_s = start + seconds
    return free_s
