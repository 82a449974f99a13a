"""The page of metrics of several processes: jobs in flight add up at every scrape, also where a process died."""

from collections.abc import Iterator
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.registry import Collector

ACCEPTED, ENDED, IN_FLIGHT = "lego_serve_jobs_accepted", "lego_serve_jobs_ended", "lego_serve_requests_in_flight"
ENDED_HELP = "Jobs that ended; with those in flight they are the accepted ones, at every scrape."


class WithInFlight(Collector):
    """Collects what another does, and the jobs in flight: those accepted without those ended, of one and the same look.

    A gauge of its own would be read at another moment than the counters of other processes.
    """

    def __init__(self, counted: Collector) -> None:
        self._counted = counted

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        accepted = ended = 0.0
        for metric in self._counted.collect():
            total = sum(sample.value for sample in metric.samples if sample.name == f"{metric.name}_total")
            accepted += total if metric.name == ACCEPTED else 0
            ended += total if metric.name == ENDED else 0
            yield metric
        yield GaugeMetricFamily(IN_FLIGHT, "Jobs accepted and not ended.", value=accepted - ended)


def settle(folder: Path, pid: int) -> None:
    """Count the jobs that a gateway process had when it died as failed: nobody else can."""
    path = folder / f"counter_{pid}.db"
    if not path.exists():
        return
    values = MmapedDict(str(path))  # type: ignore[no-untyped-call]
    try:
        found = {key: value for key, value, _ in values.read_all_values()}  # type: ignore[no-untyped-call]
        accepted = sum(value for key, value in found.items() if f'"{ACCEPTED}"' in key)
        lost = accepted - sum(value for key, value in found.items() if f'"{ENDED}"' in key)
        if lost > 0:
            failed = mmap_key(ENDED, f"{ENDED}_total", ["outcome"], ["failed"], ENDED_HELP)  # type: ignore[no-untyped-call]
            values.write_value(failed, found.get(failed, 0.0) + lost, 0.0)  # type: ignore[no-untyped-call]
    finally:
        values.close()  # type: ignore[no-untyped-call]
