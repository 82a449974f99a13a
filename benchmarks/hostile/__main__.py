"""What hostile requests cost: ``python -m benchmarks.hostile [--url URL | --beside CHECKOUT] [--quick] [--out PAGE]``.

Each attack goes to a gateway process of this version, and of another checkout where one is given, in turn.  Meanwhile
others ask the same gateway for its health and for small images.  A gateway that does not answer afterwards is replaced.
"""

import os
import subprocess
import threading
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.hostile.attacks import ATTACKS, Attack
from benchmarks.hostile.gateway import Gateway, OwnGateway, usage_of
from benchmarks.hostile.probe import Probe, ask_generation, ask_health, is_alive
from benchmarks.hostile.report import Outcome, row, table, with_results
from benchmarks.serving import HERE

GRACE_S = 3.0
SAMPLE_S = 0.05
console = Console(width=200)


class Watch:
    """A thread that remembers the most memory that a process held."""

    def __init__(self, pid: int | None) -> None:
        self.peak = 0
        self._pid = pid
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._is_stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_stopped.wait(SAMPLE_S):
            if (usage := usage_of(self._pid)) is not None:
                self.peak = max(self.peak, usage.rss)


def carry_out(name: str, attack: Attack, version: str, gateway: Gateway, limit_s: float, rest_s: float) -> Outcome:
    """Attack a gateway once, with others beside, and see to it that one answers afterwards."""
    before = usage_of(gateway.pid)
    watch = Watch(gateway.pid)
    health, generation = (Probe(gateway.address, ask) for ask in (ask_health, ask_generation))
    time.sleep(0.5)  # the probes have their connections
    replies = attack(gateway.address, limit_s)
    time.sleep(rest_s)
    for probe in (health, generation):
        probe.stop()
    watch.stop()
    then = usage_of(gateway.pid)
    if was_replaced := not is_alive(gateway.address, GRACE_S):
        gateway.replace()
    return Outcome(
        name, version, replies.answers, replies.seconds, replies.sent, health.longest_s, generation.longest_s,
        health.failed + generation.failed, then.processor_s - before.processor_s if before and then else None,
        None if before is None else (before.rss, watch.peak, None if then is None else then.rss), was_replaced,
    )  # fmt: skip


def commit_of(checkout: Path) -> str:
    """Return the short commit that last changed a checkout's product, with a mark where its files differ from that."""
    git = ["git", "-C", str(checkout)]
    commit, changes = (
        subprocess.run([*git, *command, "--", "lego_serve"], check=True, stdout=subprocess.PIPE, text=True).stdout
        for command in (("log", "-1", "--format=%h"), ("status", "--porcelain"))
    )
    return commit.strip() + ("-dirty" if changes else "")


def main(
    url: Annotated[str | None, typer.Option(help="Attack this gateway, which somebody else has started.")] = None,
    pid: Annotated[int | None, typer.Option(help="With --url: its process, whose memory is watched.")] = None,
    beside: Annotated[Path | None, typer.Option(help="Also attack the gateway of another checkout, in turn.")] = None,
    only: Annotated[str, typer.Option(help="Only attacks whose names contain this.")] = "",
    quick: Annotated[bool, typer.Option(help="Give each attack 15 s rather than 150.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the table under Results of this page.")] = None,
) -> None:
    """Carry out the attacks and print the table."""
    limit_s, rest_s = (15.0, 3.0) if quick else (150.0, 10.0)
    checkouts = {} if beside is None else {commit_of(beside): beside.resolve()}
    load = os.getloadavg()[0]
    outcomes = []
    with ExitStack() as stack:
        gateways: dict[str, Gateway] = {}
        if url is not None:
            gateways = {url: Gateway(url, pid)}
        for version, checkout in {} if url else (checkouts | {commit_of(HERE): HERE}).items():
            gateways[version] = OwnGateway(checkout)
            stack.callback(gateways[version].stop)
        for name, attack in ATTACKS.items():
            for version, gateway in gateways.items() if only in name else ():
                outcomes.append(carry_out(name, attack, version, gateway, limit_s, rest_s))
                console.print(*row(outcomes[-1]), sep=" | ", markup=False)
    date = datetime.now(UTC).date()
    results = (
        f"{date}, {os.cpu_count()} cores, load {load:.1f} before and {os.getloadavg()[0]:.1f} after; at most "
        f"{limit_s:.0f} s for each attack, memory after {rest_s:.0f} s more.\n\n{table(outcomes)}"
    )
    console.print(results, markup=False)
    if out is not None:
        out.write_text(with_results(out.read_text(), results))


if __name__ == "__main__":
    typer.run(main)
