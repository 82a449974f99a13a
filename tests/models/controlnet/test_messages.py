"""A ControlNet behind a wire: the same bits, both at once, merged steps, and what is remembered."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel

from lego_serve.core.scheduling.controlnet_placement import residual_bytes
from lego_serve.errors import NodeError
from lego_serve.models.controlnet.common import run_together
from lego_serve.models.controlnet.messages import (
    PromptImageCache,
    ResidualBuffer,
    StepMessage,
    content_key,
    image_message,
    prompt_message,
    step_message,
    to_array,
    to_tensor,
)
from lego_serve.models.controlnet.sd3 import Sd3ControlNet
from lego_serve.models.families.sd3 import Sd3Backbone
from lego_serve.models.model_files import load_module
from lego_serve.models.ragged.conditioning import Conditioning, PreparedPrompt
from lego_serve.models.ragged.controlnet_source import (
    ActiveControlNet,
    ControlImage,
    ControlNetLane,
    ControlNetSource,
    ControlNetSpec,
)
from lego_serve.models.ragged.lane_input import LaneInput
from lego_serve.models.registry import ModelSpec
from tests.support.builders import raw_lane
from tests.support.tiny_models import control_miniature

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CHANNELS, WIDTH = 8, 128


@pytest.fixture(scope="module", params=DTYPES)
def dtype(request: pytest.FixtureRequest) -> str:
    """Both dtypes that travel."""
    return str(request.param)


@pytest.fixture(scope="module")
def transformer(dtype: str, tiny_folder: Path) -> SD3Transformer2DModel:
    """lego-tiny's, with random weights."""
    return load_module(ModelSpec("m", str(tiny_folder), dtype=dtype), tiny_folder, "transformer", SD3Transformer2DModel)


def net(transformer: SD3Transformer2DModel, name: str, seed: int) -> Sd3ControlNet:
    """A ControlNet of two blocks."""
    module = control_miniature(transformer, seed).to(transformer.dtype)
    return Sd3ControlNet(module, ControlNetSpec(name, WIDTH, 2, 0, CHANNELS))


class Wired:
    """A ControlNet that runs on a thread of its own and hears and says arrays alone."""

    def __init__(self, net: Sd3ControlNet, dtype: torch.dtype, *, fails: bool = False) -> None:
        self.spec, self._net, self._dtype = net.spec, net, dtype
        self._fails = fails
        self.cache = PromptImageCache(net)
        self.spans: list[tuple[float, float]] = []
        self.meet: threading.Barrier | None = None

    def prepare(self, cond: Conditioning, mode: int | None = None) -> PreparedPrompt:
        """Keeps it, and sends what is to be remembered."""
        message = prompt_message(cond, mode)
        self.cache.put(message)
        return PreparedPrompt(cond.tokens, cond.pooled, message.key)

    def image(self, latents: torch.Tensor, key: str = "") -> ControlImage:
        """Likewise."""
        message = image_message(latents, key)
        self.cache.put(message)
        return ControlImage(latents, message.key)

    def start(self, lanes: Sequence[ControlNetLane]) -> ResidualBuffer:
        """Ask the thread."""
        step = step_message(lanes)
        box = ResidualBuffer(self.spec.residuals, self._dtype, timeout_s=60)

        def work() -> None:
            started = time.perf_counter()
            if self.meet is not None:
                self.meet.wait(60)
            if self._fails:
                box.fail(NodeError("The ControlNet's replica died."))
                return
            assert not self.cache.missing(step)
            made = [to_array(residual) for residual in self._net.residuals(self.cache.lanes(step))]
            self.spans.append((started, time.perf_counter()))  # before the last one is there to be waited for
            for index, residual in reversed(list(enumerate(made))):
                box.put(index, residual)

        threading.Thread(target=work, daemon=True).start()
        return box


def lanes(backbone: Sd3Backbone, *sources: ControlNetSource) -> list[LaneInput]:
    """Guided lanes of two sizes with ControlNets, and one without."""
    made = []
    for seed, (height, width) in enumerate([(8, 8), (12, 8), (8, 8)]):
        image = torch.randn(CHANNELS, height, width, generator=torch.Generator().manual_seed(9))
        raw = raw_lane(seed, height, width, text_rows=9, channels=CHANNELS, text_width=192, pooled_width=192)
        uses = tuple(
            ActiveControlNet(source, source.image(image), 0.8, source.prepare(raw.cond), source.prepare(raw.negative))
            for source in sources
        )
        plain = raw.for_model(backbone)
        made.append(LaneInput(plain.latents, plain.time, plain.guidance, plain.cond, plain.negative, uses))
    return [made[0], made[1], LaneInput(plain.latents, plain.time, plain.guidance, plain.cond, plain.negative)]


def test_a_controlnet_behind_a_wire_changes_no_bit(transformer: SD3Transformer2DModel, dtype: str) -> None:
    """Two of them, running at the same time elsewhere, give the velocities the same two here give."""
    backbone = Sd3Backbone(transformer, 8)
    here = [net(transformer, "a", 7), net(transformer, "b", 8)]
    far = [Wired(n, DTYPES[dtype]) for n in here]
    barrier = threading.Barrier(2)
    for source in far:
        source.meet = barrier  # neither goes on before the other has begun
    mine, theirs = backbone.velocity(lanes(backbone, *here)), backbone.velocity(lanes(backbone, *far))
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    (a_start, a_end), (b_start, b_end) = far[0].spans[0], far[1].spans[0]
    assert max(a_start, b_start) < min(a_end, b_end)


def test_the_failure_of_a_controlnet_names_it(transformer: SD3Transformer2DModel, dtype: str) -> None:
    """What the wire tells is the cause."""
    backbone = Sd3Backbone(transformer, 8)
    source = Wired(net(transformer, "a", 7), DTYPES[dtype], fails=True)
    with pytest.raises(NodeError, match="ControlNet a failed") as caught:
        backbone.velocity(lanes(backbone, source))
    assert "died" in str(caught.value.__cause__)


def test_steps_of_several_backbones_in_one_pass_keep_their_bits(transformer: SD3Transformer2DModel, dtype: str) -> None:
    """A shared ControlNet answers each as if it were alone, in as many bytes as its rows foretell."""
    backbone, shared = Sd3Backbone(transformer, 8), net(transformer, "a", 7)
    steps = [
        [
            ControlNetLane(lane.latents, lane.time, lane.guidance, use.image, use.cond, use.negative)
            for lane in lanes(backbone, shared)[first:last]
            for use in lane.controls
        ]
        for first, last in ((0, 1), (0, 2), (1, 2))
    ]
    alone = [list(shared.residuals(step)) for step in steps]
    for index, together in enumerate(run_together(shared, steps)):
        for number, residual in enumerate(together):
            assert torch.equal(residual, alone[number][index])
    rows = 2 * shared.rows(steps[0][0])
    foretold = residual_bytes(rows, WIDTH, shared.spec.residuals, DTYPES[dtype].itemsize)
    assert sum(to_array(residual).nbytes for residual in alone[0]) == foretold


def test_arrays_carry_every_bit(dtype: str) -> None:
    """There and back, from memory that may not be written as well."""
    tensor = torch.randn(5, 7).to(DTYPES[dtype])
    array = to_array(tensor)
    assert torch.equal(to_tensor(array, DTYPES[dtype]), tensor)
    array.flags.writeable = False
    assert torch.equal(to_tensor(array, DTYPES[dtype]), tensor)


def test_keys_name_content() -> None:
    """Equal tensors share a key; other numbers, shapes, dtypes or modes have another."""
    tensor = torch.arange(6.0)
    others = [tensor + 1, tensor.view(2, 3), tensor.double()]
    assert content_key(tensor) == content_key(tensor.clone())
    assert len({content_key(tensor), content_key(tensor, mode=1), *(content_key(x) for x in others)}) == 5


def test_the_cache_drops_what_was_used_longest_ago(transformer: SD3Transformer2DModel) -> None:
    """Within its bytes, and nothing the step to run needs."""
    cache = PromptImageCache(net(transformer, "a", 7), max_bytes=3 * CHANNELS * 16 * 4)
    images = [image_message(torch.full((CHANNELS, 4, 4), float(i)), f"p{i}") for i in range(5)]
    for message in images[:4]:
        cache.put(message)
    assert cache.missing(asking("p0")) == {"p0", "prompt"}
    cache.put(images[4], keep={"p1"})
    kept = [key for key in ("p0", "p1", "p2", "p3", "p4") if key not in cache.missing(asking(key))]
    assert kept == ["p1", "p3", "p4"]


def asking(image: str) -> StepMessage:
    """A step that names an image, and a prompt that no cache has."""
    cond = PreparedPrompt(torch.zeros(1, 1), torch.zeros(1), "prompt")
    return step_message([ControlNetLane(torch.zeros(1), 0.5, 1.0, ControlImage(torch.zeros(1), image), cond, None)])


def test_a_residual_that_does_not_come_is_not_waited_for_for_ever() -> None:
    """The wait ends with an error of its own."""
    with pytest.raises(NodeError, match="in time"):
        ResidualBuffer(1, torch.float32, timeout_s=0.01).block(0)
