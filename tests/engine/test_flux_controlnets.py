"""FLUX's ControlNets in the engine: parity with diffusers' pipeline, alone and among batch-mates."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxControlNetModel, FluxControlNetPipeline, FluxMultiControlNetModel, FluxPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from lego_serve.engine.controlnets import ControlNetUse
from lego_serve.engine.lane_state import LaneRequest
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.errors import RequestError
from lego_serve.models.controlnet.loading import load_controlnet
from lego_serve.models.registry import ModelSpec
from tests.support.builders import run_lanes
from tests.support.tiny_models import flux_control_miniature, flux_miniature

STEPS, LENGTH, PROMPT = 5, 8, "a red circle on the left"
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "InstantX's, told the guidance": ("flux-dev", {}),
    "for schnell, without single blocks": ("flux-schnell", {"num_single_layers": 0, "num_layers": 2}),
    "a union's": ("flux-dev", {"num_mode": 3, "guidance_embeds": False}),
    "XLabs', of pixels": ("flux-dev", {"conditioning_embedding_channels": 16, "patch_size": 2, "num_layers": 1}),
}


@pytest.fixture(autouse=True)
def control_latents_are_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers samples control latents; both sides are given their mean."""
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())


@dataclass
class Bench:
    """A model in our engine with two ControlNets, and what diffusers' pipeline is made of."""

    folder: Path
    places: list[Path]
    ours: OfflinePipeline
    rounded: OfflinePipeline
    changes: dict[str, Any]

    def image(self, which: int, size: tuple[int, int]) -> torch.Tensor:
        """A control image (height, width, 3) of 8 bits."""
        width, height = size
        draw = torch.Generator().manual_seed(100 + which)
        small = torch.randint(0, 256, (height // 16, width // 16, 3), generator=draw, dtype=torch.uint8)
        return small.repeat_interleave(16, 0).repeat_interleave(16, 1)

    def pixels(self, which: int, size: tuple[int, int]) -> torch.Tensor:
        """It as (3, height, width) in -1..1."""
        return self.image(which, size).permute(2, 0, 1).float() / 255 * 2 - 1

    def use(
        self, which: int, size: tuple[int, int], family: OfflinePipeline | None = None, **more: Any
    ) -> ControlNetUse:
        """A ControlNet with its image as it is to be given."""
        latents = self.pixels(which, size)
        if "conditioning_embedding_channels" not in self.changes:
            latents = (family or self.ours).vae.encode(self.image(which, size)[None])[0].mean
        mode = which if "num_mode" in self.changes else None
        return ControlNetUse(f"net{which}", latents, mode=mode, **more)

    def lane(self, key: str, uses: tuple[ControlNetUse, ...], size: tuple[int, int] = (128, 128), seed: int = 11,
             family: OfflinePipeline | None = None, **more: Any) -> LaneRequest:  # fmt: skip
        """A lane with ControlNets."""
        cond = (family or self.ours).text.encode([PROMPT])[0]
        settings = {"steps": STEPS, "guidance": 3.5} | more
        return LaneRequest(key, *size, seed=seed, cond=cond, negative=None, controls=uses, **settings)

    def pipeline(self, dtype: torch.dtype, *which: int) -> FluxControlNetPipeline:
        """diffusers' pipeline with some of the ControlNets."""
        nets = [FluxControlNetModel.from_pretrained(self.places[i], dtype=dtype) for i in which]
        parts = FluxPipeline.from_pretrained(self.folder, dtype=dtype).components
        parts = {name: part for name, part in parts.items() if name not in ("image_encoder", "feature_extractor")}
        net = nets[0] if len(nets) == 1 else FluxMultiControlNetModel(nets)
        made = FluxControlNetPipeline(**parts, controlnet=net)
        made.set_progress_bar_config(disable=True)
        return made

    def theirs(
        self, pipeline: FluxControlNetPipeline, which: list[int], size: tuple[int, int], seed: int = 11, **more: Any
    ) -> torch.Tensor:
        """The latents of diffusers' pipeline."""
        width, height = size
        noise = torch.randn(1, 16, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))
        packed = FluxPipeline._pack_latents(noise, 1, 16, height // 8, width // 8).to(pipeline.dtype)
        settings: dict[str, Any] = {"controlnet_conditioning_scale": [1.0] * len(which)} | more
        if "num_mode" in self.changes:
            settings["control_mode"] = which
        images = [self.pixels(i, size)[None].to(pipeline.dtype) for i in which]
        if len(which) == 1:
            settings = {k: v[0] if isinstance(v, list) else v for k, v in settings.items()}
        if "num_mode" in self.changes and len(which) == 1:
            settings["control_mode"] = which[0]
        answer = pipeline(
            PROMPT, width=width, height=height, latents=packed, num_inference_steps=STEPS, guidance_scale=3.5,
            control_image=images[0] if len(which) == 1 else images, max_sequence_length=LENGTH,
            output_type="latent", **settings,
        )  # fmt: skip
        found: torch.Tensor = FluxPipeline._unpack_latents(answer.images, height, width, 8)[0].float()
        return found


@pytest.fixture(scope="module", params=FORMS)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Each form of ControlNet with a backbone of its kind."""
    name, changes = FORMS[request.param]
    folder = tmp_path_factory.mktemp(name)
    pipeline = flux_miniature(name)
    pipeline.save_pretrained(folder)
    places = [tmp_path_factory.mktemp("net") for _ in range(2)]
    for seed, place in enumerate(places):
        flux_control_miniature(pipeline.transformer, 7 + seed, **changes).save_pretrained(place)

    def family(dtype: str) -> OfflinePipeline:
        spec = ModelSpec("m", str(folder), family="flux", dtype=dtype, max_sequence_length=LENGTH)
        nets = {
            f"net{i}": load_controlnet(ModelSpec(f"net{i}", str(place), dtype=dtype), spec)
            for i, place in enumerate(places)
        }
        return OfflinePipeline.load(spec, controls=nets)

    return Bench(folder, places, family("float32"), family("bfloat16"), changes)


WISHES: dict[str, tuple[list[int], tuple[int, int], dict[str, Any], list[dict[str, Any]]]] = {
    "one, of another size": ([1], (96, 160), {}, [{}]),
    "one, weighed, from a fifth to three fifths": (
        [0], (128, 128),
        {"control_guidance_start": [0.2], "control_guidance_end": [0.6], "controlnet_conditioning_scale": [0.7]},
        [{"start": 0.2, "end": 0.6, "weight": 0.7}],
    ),
    "two, of other weights and parts": (
        [0, 1], (128, 96),
        {"controlnet_conditioning_scale": [1.0, 0.5], "control_guidance_start": [0.0, 0.4],
         "control_guidance_end": [0.8, 1.0]},
        [{"end": 0.8}, {"weight": 0.5, "start": 0.4}],
    ),
}  # fmt: skip


@pytest.mark.parametrize("wish", WISHES)
def test_latents_equal_diffusers(bench: Bench, wish: str) -> None:
    """One ControlNet or several, with weights and parts of the steps, in several sizes."""
    which, size, theirs, mine = WISHES[wish]
    reference = bench.theirs(bench.pipeline(torch.float32, *which), which, size, **theirs)
    uses = tuple(bench.use(i, size, **more) for i, more in zip(which, mine, strict=True))
    found = run_lanes(bench.ours, bench.lane("me", uses, size))["me"]
    torch.testing.assert_close(found, reference, atol=3e-4, rtol=3e-4)
    plain = run_lanes(bench.ours, bench.lane("me", (), size))["me"]
    assert (plain - found).abs().max() > 0.01, "the ControlNet changes nothing, and nothing is shown"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_lane_notices_its_batch_mates(bench: Bench, dtype: str) -> None:
    """Plain lanes and lanes of one ControlNet and two, of several sizes, have the bits they have alone."""
    family = bench.ours if dtype == "float32" else bench.rounded
    square, wide = (128, 128), (160, 96)

    def lanes() -> list[LaneRequest]:
        def of(key: str, size: tuple[int, int], *uses: ControlNetUse, **more: Any) -> LaneRequest:
            return bench.lane(key, uses, size, seed=len(key), family=family, **more)

        return [
            of("plain", square),
            of("one", square, bench.use(0, square, family)),
            of("both", wide, bench.use(0, wide, family, weight=0.7), bench.use(1, wide, family, start=0.4)),
            of("turned round", square, bench.use(1, square, family), bench.use(0, square, family, end=0.6)),
            of("plain wide", wide, steps=3),
        ]

    together = run_lanes(family, *lanes())
    for lane in lanes():
        assert torch.equal(run_lanes(family, lane)[lane.key], together[lane.key]), lane.key


def test_in_bf16_our_error_is_no_larger_than_diffusers(bench: Bench) -> None:
    """The distance to the fp32 latents is at most 1.1 times that of diffusers' own bf16, in the median and at p95."""
    mine, others = [], []
    exact_side, rounded_side = bench.pipeline(torch.float32, 0, 1), bench.pipeline(torch.bfloat16, 0, 1)
    for seed in range(3):
        exact = bench.theirs(exact_side, [0, 1], (96, 96), seed)
        uses = tuple(bench.use(i, (96, 96), bench.rounded) for i in (0, 1))
        found = run_lanes(bench.rounded, bench.lane("me", uses, (96, 96), seed, family=bench.rounded))["me"]
        mine.append((found - exact).abs())
        others.append((bench.theirs(rounded_side, [0, 1], (96, 96), seed) - exact).abs())
    for part in (0.5, 0.95):
        assert torch.stack(mine).quantile(part) <= 1.1 * torch.stack(others).quantile(part)


def test_a_mode_is_asked_of_a_union_and_of_no_other(bench: Bench) -> None:
    """A union ControlNet without a mode, with one it lacks, and another with one: the request's fault, at once."""
    is_union = "num_mode" in bench.changes
    use = bench.use(0, (128, 128))
    for mode in (None, 3, -1) if is_union else (0,):
        wrong = ControlNetUse(use.controlnet, use.latents, mode=mode)
        with pytest.raises(RequestError, match="mode"):
            bench.ours.engine.add(bench.lane("wrong", (wrong,)))
    assert bench.ours.engine.lanes == 0
