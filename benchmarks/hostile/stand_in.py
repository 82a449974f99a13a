"""Runs a checkout's own gateway process over a runner that answers at once: ``python stand_in.py CONFIG PORT PEERS``.

What is not the checkout's is put in place of two names that its ``run_gateway`` looks up: the connection to Ray, and
the coordinator, for which its tests' ``FakeRunner`` stands in.  The server, its limits and the application are those of
production.  Imports nothing of this checkout: it runs with another's modules.
"""

import asyncio
import importlib
import signal
import sys
import time
from pathlib import Path
from typing import Any

LONG_STEPS, LONG_S = 100, 10.0


class NoPools:
    """Where jobs wait for shared workers, of which there are none."""

    def waiting(self) -> dict[str, int]:
        """Return how many wait, by application."""
        return {}


def stand_in(base: Any) -> type:
    """Return a runner like the tests' one, with a clock that runs, which keeps nothing of the jobs that have ended."""

    class StandIn(base):
        def __init__(self, *_arguments: object, **_more: object) -> None:
            super().__init__()
            self.pools = NoPools()

        def now(self) -> float:
            return time.monotonic()

        def departed(self, replicas: object) -> None:
            pass

        async def run(self, job: Any, *more: Any, **named: Any) -> Any:
            if job.inputs.get("steps") != LONG_STEPS:
                try:
                    return await super().run(job, *more, **named)
                finally:
                    self.jobs.clear()
            self.in_flight += 1
            try:
                await asyncio.sleep(LONG_S)
            finally:
                self.in_flight -= 1
            return await super().run(job, *more, **named)

    return StandIn


def main(config: Path, port: int, peers: Path) -> None:
    """Serve until the process is ended."""
    connect = importlib.import_module("lego_serve.serving.cluster.connect")
    coordinator = importlib.import_module("lego_serve.serving.coordinator.coordinator")
    runner = importlib.import_module("tests.support.gateway.runner")
    gateway_process = importlib.import_module("lego_serve.gateway_process")
    vars(connect)["connect"] = lambda *_: {}
    vars(coordinator)["Coordinator"] = stand_in(runner.FakeRunner)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gateway_process.run_gateway(config, "", port, peers)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
