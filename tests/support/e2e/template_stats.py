"""What the gateways of a real server have heard of the templates that replicas keep."""

import json
import os
import time
from pathlib import Path

import httpx2
import pytest
from prometheus_client.mmap_dict import MmapedDict

from lego_serve.process.tree import descendants
from lego_serve.serving.cluster.deploy import STATS_PERIOD_S
from tests.support.e2e.servers import Server

LIMIT_S = 60.0


def heard(server: Server, name: str = "template_entries") -> list[float]:
    """The gauge in each gateway's own file: the page of metrics merges them; 0 where it has heard nothing yet."""
    return [_gauge(pid, f"lego_serve_{name}") for pid in _gateways(server)]


def settle(server: Server, entries: float = 0) -> float:
    """Wait until every gateway knows of the same entries, at least so many, and no job is left; answers how many.

    An edit that is still compared with its full computation would keep its replica busy, and others would go elsewhere.
    Three periods without news end the wait: replicas are asked once in each.
    """
    limit = time.monotonic() + LIMIT_S
    last: list[float] = []
    since = time.monotonic()
    while True:
        now, counts = time.monotonic(), heard(server)
        if counts != last or _jobs(server):
            last, since = counts, now
        if now - since >= 3 * STATS_PERIOD_S and len(set(counts)) == 1 and counts[0] >= entries:
            return counts[0]
        if now > limit:
            pytest.fail(f"after {LIMIT_S:.0f} s gateways know of {counts} entries, of {entries} at least; or jobs run")
        time.sleep(0.2)


def _jobs(server: Server) -> list[object]:
    jobs: list[object] = httpx2.get(f"{server.url}/v1/admin/jobs", timeout=30).json()["data"]
    return jobs


def _gateways(server: Server) -> list[int]:
    """The processes of the gateways."""
    pids = descendants(server.process.pid)
    return [pid for pid in pids if "lego_serve.gateway_process" in Path(f"/proc/{pid}/cmdline").read_text()]


def _gauge(pid: int, metric: str) -> float:
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    [folder] = [os.fsdecode(each.partition(b"=")[2]) for each in environment if each.startswith(b"PROMETHEUS_MULTI")]
    file = Path(folder) / f"gauge_livemostrecent_{pid}.db"
    values = MmapedDict.read_all_values_from_file(str(file)) if file.exists() else ()
    return sum(value for key, value, *_ in values if json.loads(key)[0] == metric)
