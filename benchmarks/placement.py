"""Times the placing of jobs on replicas, and the answer to a newcomer, with many in flight.

python -m benchmarks.placement
"""

import random
import time
from statistics import median

from lego_serve.core.placement.pool import Pool
from lego_serve.core.placement.pool_jobs import PoolJob

MODELS = [frozenset({f"m{number}.backbone", f"m{number}.vae"}) for number in range(8)]


def measure(workers: int, in_flight: int, repeats: int = 200) -> tuple[float, float]:
    """Return the median seconds of placing a job and ending another, and of a forecast, with so many in flight."""
    rng, pool = random.Random(0), Pool()
    pool.report({f"w{number}": sorted(rng.choice(MODELS)) for number in range(workers)})
    jobs = [PoolJob(f"j{number}", rng.uniform(0.1, 2.0), rng.choice(MODELS)) for number in range(in_flight + repeats)]
    for job in jobs[:in_flight]:
        pool.add(job, 0.0)
    placed, asked = [], []
    for number, job in enumerate(jobs[in_flight:]):
        began_s = time.perf_counter()
        pool.forecast(job, 1.0)
        asked.append(time.perf_counter() - began_s)
        began_s = time.perf_counter()
        pool.add(job, 1.0)
        pool.end(jobs[number].id, 1.0)
        placed.append(time.perf_counter() - began_s)
    return median(placed), median(asked)


def main() -> None:
    """Print a table in Markdown."""
    print("| workers | jobs in flight | place one and end one | forecast |")
    print("|---|---|---|---|")
    for workers, in_flight in ((2, 8), (2, 64), (8, 64), (64, 256), (64, 1512)):
        placed_s, asked_s = measure(workers, in_flight)
        print(f"| {workers} | {in_flight} | {1e6 * placed_s:.0f} us | {1e6 * asked_s:.0f} us |")


if __name__ == "__main__":
    main()
