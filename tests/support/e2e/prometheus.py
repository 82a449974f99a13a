"""A real Prometheus over a server, with the shipped rules in less time than an operator has."""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from lego_serve.cli.demo import free_port

RULES = Path(__file__).parents[3] / "deploy" / "prometheus" / "rules.yaml"
PATIENCE_S = 90.0


class Prometheus:
    """A Prometheus that answers at a port of this machine."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def values(self, expression: str) -> list[float]:
        """What an expression comes to now, series by series."""
        answer = httpx2.get(f"{self._url}/query", params={"query": expression}, timeout=30).raise_for_status()
        return [float(each["value"][1]) for each in answer.json()["data"]["result"]]

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        alerts = httpx2.get(f"{self._url}/alerts", timeout=30).json()["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def wait_for(self, *alerts: str) -> None:
        """Until all of these fire."""
        self._wait(lambda firing: firing >= set(alerts), f"{alerts} do not fire")

    def wait_without(self, alert: str) -> None:
        """Until this one does not fire any more."""
        self._wait(lambda firing: alert not in firing, f"{alert} fires")

    def _wait(self, is_so: Callable[[set[str]], bool], what: str) -> None:
        limit = time.monotonic() + PATIENCE_S
        while not is_so(firing := self.firing()):
            assert time.monotonic() < limit, f"{what} after {PATIENCE_S:.0f} s, but {sorted(firing)}"
            time.sleep(0.5)


def hurried(rules: str) -> str:
    """The rules' rates over the last minute, the least of five seconds, and no patience; thresholds stay."""
    rules = re.sub(r"(min_over_time\(.*?)\[\d+[mh]\]", r"\1[5s]", rules)
    rules = re.sub(r"(rate\(\w+(?:\{.*?\})?)\[\d+[mh]\]", r"\1[1m]", rules)
    return re.sub(r"for: \d+[mh]", "for: 1s", rules)


@contextmanager
def watching(url: str, folder: Path) -> Iterator[Prometheus]:
    """Run one that asks a server each second, until it has been answered."""
    port = free_port()
    (folder / "rules.yaml").write_text(hurried(RULES.read_text()))
    targets = [{"targets": [url.removeprefix("http://")]}]
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(folder / "rules.yaml")],
        "scrape_configs": [{"job_name": "gateways", "static_configs": targets}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(settings))
    words = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([*words, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        prometheus = Prometheus(port)
        _wait_until_it_has_asked(prometheus)
        yield prometheus
    finally:
        process.kill()
        process.wait()


def _wait_until_it_has_asked(prometheus: Prometheus) -> None:
    limit = time.monotonic() + PATIENCE_S
    while time.monotonic() < limit:
        try:
            if prometheus.values("lego_serve_ready_gateways"):
                return
        except httpx2.HTTPError:
            pass  # it does not listen yet, or reads its files
        time.sleep(0.2)
    pytest.fail(f"Prometheus has no metrics of the server after {PATIENCE_S:.0f} s")
