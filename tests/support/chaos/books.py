"""What the metrics say adds up, whatever has happened: each chaos test ends with this."""

import re
import time

import httpx2

PATTERN = re.compile(r"^lego_serve_([a-z_]+?)(?:_total)?(?:\{(.*)\})? ([0-9.e+-]+)$", re.MULTILINE)


def totals(page: str) -> dict[str, float]:
    """Sums by the metric's name, and of ended jobs by outcome too."""
    found: dict[str, float] = {}
    for name, labels, value in PATTERN.findall(page):
        found[name] = found.get(name, 0.0) + float(value)
        if name == "jobs_ended":
            found[labels] = found.get(labels, 0.0) + float(value)
    return found


def check_books(url: str, patience_s: float = 60.0) -> dict[str, float]:
    """Nothing is in flight any more, and every accepted job has ended in exactly one way."""
    limit = time.monotonic() + patience_s
    while True:
        found = totals(httpx2.get(f"{url}/metrics", timeout=30).text)
        if found["requests_in_flight"] == 0 or time.monotonic() > limit:
            break
        time.sleep(0.05)
    assert found["requests_in_flight"] == 0, found
    assert found["jobs_accepted"] == found["jobs_ended"], found
    assert found.get('result="broken"', 0.0) == 0
    return found


def retries(url: str) -> float:
    """Return how often a call of a job that has ended was made again."""
    return totals(httpx2.get(f"{url}/metrics", timeout=30).text).get("node_retries", 0.0)
