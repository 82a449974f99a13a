"""What is replayed is what lego_serve's own gateway takes: add-ons, edits, masks, deadlines."""

import asyncio
import random
from pathlib import Path

import httpx2

from lego_serve.gateway.app import create_app
from lego_serve.gateway.settings import GatewaySettings, TemplateSettings
from lego_serve.metrics import Metrics
from loadgen.runs.arrivals import Schedule
from loadgen.runs.outcome import Outcome
from loadgen.runs.posting import Mix, posted
from loadgen.runs.session import Objectives, Session
from loadgen.traces.payloads import Asking, to_records
from loadgen.traces.profiles import PROFILES
from loadgen.traces.synth import synthesise
from tests.support.gateway.runner import FakeRunner

ASKING = Asking(models=("lego-tiny",), adapters=("watercolor",), size="96x96", steps=4, forces_steps=True)
MIX = Mix(adapters=("watercolor",), controlnets=("edges", "depth"), edit_share=0.3, inpaint_share=0.3)


async def replay(name: str, folder: Path) -> list[Outcome]:
    templates = TemplateSettings(folder, 3, 100_000, {"lego-tiny": 300_000})
    nets = {"lego-tiny": frozenset({"edges", "depth"})}
    runner = FakeRunner()
    app = create_app(runner, runner, GatewaySettings("lego-tiny", controlnets=nets, templates=templates), Metrics())
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://gateway") as http:
        session = Session(http, Objectives(slo_ms=60_000, is_sent=True), lambda _: None)
        requests = posted(list(to_records(synthesise(PROFILES[name], 12, None, 0), ASKING, 0)), MIX, 0)
        return await session.run(requests, Schedule([0.01 * index for index in range(12)]), random.Random(0))


def test_the_gateway_takes_what_is_replayed(tmp_path: Path) -> None:
    """Generations with adapters and ControlNets, edits and inpaintings are all answered with an image."""
    kinds = set()
    for name in ("gentd26", "katz"):
        outcomes = asyncio.run(replay(name, tmp_path))
        assert not [outcome.error for outcome in outcomes if outcome.error]
        kinds |= {outcome.kind for outcome in outcomes}
    assert kinds == {"generation", "edit", "inpaint"}
