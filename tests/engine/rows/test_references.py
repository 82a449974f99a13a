"""Reference images in the engine: computed once for each content, and read by all lanes that name them."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from lego_serve.core.jobs.messages import NodeCall
from lego_serve.core.nodes.messages import DenoiseInput, EncodeImageOutput, TextEncodeOutput
from lego_serve.core.scheduling.batching import StepBatcher, StepLimits
from lego_serve.core.scheduling.ordering import fifo
from lego_serve.engine.lane_state import LaneResult
from lego_serve.engine.rows.references import Reference
from lego_serve.engine.step_engine import StepEngine
from lego_serve.engine.template_store import TemplateStore
from lego_serve.errors import NodeError, RequestError
from lego_serve.models.ragged.backbone import Backbone
from lego_serve.models.sampling import FlowMatchTables
from lego_serve.serving.nodes.lane_requests import lane_requests
from tests.support.engine.engines import Clock, Faulty, latents, request, run

ROOM = 1 << 24
Model = tuple[Backbone, FlowMatchTables]


def image(seed: int, rows: int = 6, columns: int = 10) -> Reference:
    """An encoded image of so many latent pixels."""
    return Reference(torch.randn(8, rows, columns, generator=torch.Generator().manual_seed(seed)))


def engine_with(model: Model, budget_bytes: int = ROOM) -> StepEngine:
    """An engine that keeps what it computes of references in fp32, as far as there is room."""
    batcher = StepBatcher(fifo, StepLimits(float("inf"), None))
    return StepEngine(*model, batcher, Clock(), templates=TemplateStore(budget_bytes, lambda: 0.0, "float32"))


def test_lanes_share_what_was_computed_of_a_reference_once(model: Model) -> None:
    """The first step fills the entry, whoever names it; later lanes, of other sizes and seeds, compute no row of it."""
    engine = engine_with(model)
    engine.add(request("a", 1, references=(image(1),)))
    engine.add(request("b", 2, references=(image(1),), width=128))
    engine.step()
    [first] = list(engine.templates)
    run(engine)
    engine.add(request("c", 3, references=(image(1), image(2))))
    engine.add(request("d", 3, references=(image(3),)))
    run(engine)
    assert next(iter(engine.templates)) == first
    assert engine.templates.entries == 3, "the second of a lane's references stands in a place of its own"


def test_a_lane_is_the_same_alone_among_mates_without_room_and_from_a_checkpoint(model: Model) -> None:
    """Bit for bit: without room every step computes the rows for itself."""
    wanted = request("a", 1, references=(image(1), image(2)))
    engine = engine_with(model)
    engine.add(wanted)
    alone = latents(run(engine)["a"])
    plain = engine_with(model)
    plain.add(replace(wanted, references=()))
    assert not torch.equal(latents(run(plain)["a"]), alone)
    crowded, poor, later = engine_with(model), engine_with(model, 0), engine_with(model)
    for key, seed, references in (("x", 5, ()), ("y", 6, (image(1),)), ("z", 7, (image(2), image(1)))):
        crowded.add(request(key, seed, references=references))
    crowded.add(wanted)
    poor.add(wanted)
    assert torch.equal(latents(run(crowded)["a"]), alone)
    poor.step()
    later.add(replace(wanted, checkpoint=poor.checkpoint("a")))
    assert torch.equal(latents(run(poor)["a"]), alone)
    assert poor.templates.entries == 0
    assert torch.equal(latents(run(later)["a"]), alone)


def test_the_planner_knows_the_rows_of_a_reference(model: Model) -> None:
    """A step of a lane has its own rows, and pairs with the reference's; the filling pass counts until it has run."""
    engine = engine_with(model)
    engine.add(request("plain", 1))
    plan = engine.plan()
    assert plan is not None
    rows, pairs = plan.work.rows, plan.work.pairs
    engine.cancel("plain")
    engine.add(request("a", 1, references=(image(1),)))
    first = engine.plan()
    engine.step()
    second = engine.plan()
    assert first is not None
    assert second is not None
    assert (first.work.rows, second.work.rows) == (rows + 15, rows)
    assert (first.work.pairs, second.work.pairs) == (pairs + 15 * rows + 15 * 15, pairs + 15 * rows)


def test_a_lane_that_breaks_takes_what_it_read_with_it_and_nobody_else(model: Model) -> None:
    """The next lane fills the entry anew."""
    faulty: Any = Faulty(model[0], poison=3.0, nan=True)
    faulty.attentions, faulty.guidance_embeds, faulty.linear_ops = model[0].attentions, False, model[0].linear_ops
    engine = engine_with((faulty, model[1]))
    engine.add(request("bad", 1, references=(image(1),), guidance=3.0))
    engine.add(request("good", 2, references=(image(2),)))
    found = run(engine)
    assert isinstance(found["bad"], NodeError)
    assert isinstance(found["good"], LaneResult)
    assert engine.templates.entries == 1


@pytest.mark.parametrize("sides", [(4, 6, 10), (8, 5, 10), (8, 6, 0), (8, 60)])
def test_what_is_no_image_of_this_model_is_refused(model: Model, sides: tuple[int, ...]) -> None:
    """Before anything is kept of the lane."""
    engine = engine_with(model)
    with pytest.raises(RequestError, match="channels"):
        engine.add(request("a", 1, references=(Reference(torch.zeros(sides)),)))
    with pytest.raises(RequestError, match="finite"):
        engine.add(request("a", 1, references=(Reference(torch.full((8, 6, 10), float("nan"))),)))
    assert engine.lanes == 0


def test_a_workflows_reference_reaches_the_lanes() -> None:
    """Each of a call's images has it."""
    words = TextEncodeOutput(torch.zeros(9, 192).numpy(), torch.zeros(192).numpy())
    encoded = EncodeImageOutput(image(1).latents.numpy(), torch.zeros(8, 6, 10).numpy())
    asked = DenoiseInput(words, 96, 96, 4, 1.0, seed=1, n=2, reference=encoded)
    lanes = lane_requests(NodeCall(asked), asked, 0)
    assert [len(lane.references) for lane in lanes] == [1, 1]
    assert torch.equal(lanes[1].references[0].latents, image(1).latents)
