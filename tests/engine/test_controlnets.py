"""ControlNets in the engine: parity with diffusers' pipelines, and nothing of it touches batch-mates."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    SD3ControlNetModel,
    SD3MultiControlNetModel,
    StableDiffusion3ControlNetPipeline,
    StableDiffusion3Pipeline,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from lego_serve.engine.controlnets import ControlNetUse
from lego_serve.engine.lane_state import LaneRequest
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.models.controlnet.loading import load_controlnet
from lego_serve.models.registry import ModelSpec
from tests.support.builders import run_lanes
from tests.support.tiny_models import control_miniature, miniature

STEPS = 5
PROMPT, NEGATIVE = "a red circle on the left", "a blue square"
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "InstantX's, for lego-tiny": ("lego-tiny", {}),
    "InstantX's, for SD3 medium": ("sd3-medium", {}),
    "SD3.5 medium's, with dual attention": (
        "sd35-medium", {"force_zeros_for_pooled_projection": False, "dual_attention_layers": (0,), "num_layers": 3},
    ),
    "without positions of its own": ("sd35-medium", {"pos_embed_type": None}),
    "SD3.5 large's, without text": (
        "sd35-medium",
        {"joint_attention_dim": None, "use_pos_embed": False, "force_zeros_for_pooled_projection": False,
         "qk_norm": None},
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def control_latents_are_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers draws control latents from global randomness; both sides are given their mean."""
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())


@dataclass
class Bench:
    """A model in our engine with two ControlNets, and in diffusers' pipeline."""

    folder: Path
    length: int
    ours: OfflinePipeline
    rounded: OfflinePipeline
    nets: list[SD3ControlNetModel]
    exact: StableDiffusion3Pipeline
    images: dict[tuple[int, int, int], torch.Tensor] = field(default_factory=dict)

    def pipeline(self, dtype: torch.dtype, *which: int) -> StableDiffusion3ControlNetPipeline:
        """diffusers' pipeline with some of the ControlNets."""
        nets = [self.nets[i] for i in which]
        # diffusers gives a ControlNet without patch embedding the backbone's: in a copy, which is let go of after it.
        nets = [type(net).from_config(net.config).to(dtype) for net in nets]
        for net, i in zip(nets, which, strict=True):
            net.load_state_dict(self.nets[i].state_dict(), strict=False)
        parts = dict(self.exact.components) | {"image_encoder": None, "feature_extractor": None}
        if dtype != torch.float32:
            absent = {} if (self.folder / "text_encoder_3").exists() else {"text_encoder_3": None, "tokenizer_3": None}
            parts |= StableDiffusion3Pipeline.from_pretrained(self.folder, dtype=dtype, **absent).components
        made = StableDiffusion3ControlNetPipeline(
            **parts, controlnet=nets[0] if len(nets) == 1 else SD3MultiControlNetModel(nets)
        )
        made.set_progress_bar_config(disable=True)
        return made.to(dtype)

    def image(self, seed: int, width: int, height: int) -> torch.Tensor:
        """A control image (height, width, 3) of 8 bits."""
        draw = torch.Generator().manual_seed(100 + seed)
        small = torch.randint(0, 256, (height // 16, width // 16, 3), generator=draw, dtype=torch.uint8)
        return small.repeat_interleave(16, 0).repeat_interleave(16, 1)

    def use(
        self, which: int, width: int, height: int, family: OfflinePipeline | None = None, **more: Any
    ) -> ControlNetUse:
        """A ControlNet with its image as our VAE encodes it."""
        latents = (family or self.ours).vae.encode(self.image(which, width, height)[None])[0].mean
        return ControlNetUse(f"net{which}", latents, **more)

    def lane(self, key: str, uses: tuple[ControlNetUse, ...], size: tuple[int, int] = (128, 128), seed: int = 11,
             family: OfflinePipeline | None = None, **more: Any) -> LaneRequest:  # fmt: skip
        """A lane with ControlNets."""
        cond, negative = (family or self.ours).text.encode([PROMPT, NEGATIVE])
        settings = {"steps": STEPS, "guidance": 4.0, "negative": negative} | more
        return LaneRequest(key, *size, seed=seed, cond=cond, controls=uses, **settings)

    def theirs(
        self,
        dtype: torch.dtype,
        which: list[int],
        size: tuple[int, int],
        seed: int = 11,
        pipeline: StableDiffusion3ControlNetPipeline | None = None,
        **more: Any,
    ) -> torch.Tensor:
        """The latents of diffusers' pipeline."""
        width, height = size
        channels = self.exact.transformer.config.in_channels
        noise = torch.randn(1, channels, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))
        images = [(self.image(i, width, height).permute(2, 0, 1)[None].float() / 255 * 2 - 1).to(dtype) for i in which]
        settings: dict[str, Any] = {
            "guidance_scale": 4.0,
            "num_inference_steps": STEPS,
            "controlnet_conditioning_scale": [1.0] * len(which),
        } | more
        if len(which) == 1:
            settings = {k: v[0] if isinstance(v, list) else v for k, v in settings.items()}
        answer = (pipeline or self.pipeline(dtype, *which))(
            PROMPT, negative_prompt=NEGATIVE, width=width, height=height, latents=noise.to(dtype), output_type="latent",
            control_image=images[0] if len(which) == 1 else images, max_sequence_length=self.length, **settings,
        )  # fmt: skip
        found: torch.Tensor = answer.images[0].float()
        return found


def family_of(folder: Path, length: int, dtype: str, nets: list[Path]) -> OfflinePipeline:
    """Our engine with ControlNets."""
    spec = ModelSpec("m", str(folder), dtype=dtype, max_sequence_length=length)
    controls = {
        f"net{i}": load_controlnet(ModelSpec(f"net{i}", str(net), dtype=dtype), spec) for i, net in enumerate(nets)
    }
    return OfflinePipeline.load(spec, controls=controls)


@pytest.fixture(scope="module", params=FORMS)
def bench(request: pytest.FixtureRequest, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Each form of ControlNet with a backbone of its kind."""
    name, changes = FORMS[request.param]
    folder = tiny_folder
    if name != "lego-tiny":
        folder = tmp_path_factory.mktemp(name)
        miniature(name).save_pretrained(folder)
    absent = {} if name != "lego-tiny" else {"text_encoder_3": None, "tokenizer_3": None}
    exact = StableDiffusion3Pipeline.from_pretrained(folder, dtype=torch.float32, **absent)
    nets, places = [], []
    for seed in (7, 8):
        nets.append(control_miniature(exact.transformer, seed, **changes))
        places.append(tmp_path_factory.mktemp("net"))
        nets[-1].save_pretrained(places[-1])
    length = 0 if name == "lego-tiny" else 8
    return Bench(
        folder, length, family_of(folder, length, "float32", places), family_of(folder, length, "bfloat16", places),
        nets, exact,
    )  # fmt: skip


WISHES: dict[str, tuple[list[int], tuple[int, int], dict[str, Any], list[dict[str, Any]]]] = {
    "one": ([0], (128, 128), {}, [{}]),
    "one, weighed and not guided, of another size": (
        [1], (96, 160), {"guidance_scale": 1.0, "controlnet_conditioning_scale": [0.6]}, [{"weight": 0.6}],
    ),
    "one, from a fifth to three fifths": (
        [0], (128, 96), {"control_guidance_start": [0.2], "control_guidance_end": [0.6]}, [{"start": 0.2, "end": 0.6}],
    ),
    "two, of other weights and parts": (
        [0, 1], (128, 128),
        {"controlnet_conditioning_scale": [1.0, 0.5], "control_guidance_start": [0.0, 0.4],
         "control_guidance_end": [0.8, 1.0]},
        [{"end": 0.8}, {"weight": 0.5, "start": 0.4}],
    ),
}  # fmt: skip


@pytest.mark.parametrize("wish", WISHES)
def test_latents_equal_diffusers(bench: Bench, wish: str) -> None:
    """One ControlNet or several, with weights and parts of the steps, guided or not, in several sizes."""
    which, size, theirs, mine = WISHES[wish]
    reference = bench.theirs(torch.float32, which, size, **theirs)
    uses = tuple(bench.use(i, *size, **more) for i, more in zip(which, mine, strict=True))
    found = run_lanes(bench.ours, bench.lane("me", uses, size, guidance=theirs.get("guidance_scale", 4.0)))["me"]
    torch.testing.assert_close(found, reference, atol=3e-4, rtol=3e-4)
    plain = run_lanes(bench.ours, bench.lane("me", (), size, guidance=theirs.get("guidance_scale", 4.0)))["me"]
    assert (plain - found).abs().max() > 0.01, "the ControlNet changes nothing, and nothing is shown"


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.long)])
def test_no_lane_notices_its_batch_mates(bench: Bench, dtype: str) -> None:
    """Plain lanes and lanes of one ControlNet and two, of several sizes, have the bits they have alone."""
    family = bench.ours if dtype == "float32" else bench.rounded

    def lanes() -> list[LaneRequest]:
        def of(key: str, size: tuple[int, int], *uses: ControlNetUse, **more: Any) -> LaneRequest:
            return bench.lane(key, uses, size, seed=len(key), family=family, **more)

        square, wide = (128, 128), (160, 96)
        return [
            of("plain", square),
            of("one", square, bench.use(0, *square, family)),
            of("both", wide, bench.use(0, *wide, family, weight=0.7), bench.use(1, *wide, family, start=0.4)),
            of("turned round", square, bench.use(1, *square, family), bench.use(0, *square, family, end=0.6)),
            of("unguided", wide, bench.use(1, *wide, family), guidance=1.0),
            of("plain wide", wide, steps=3),
            of("twice", square, bench.use(0, *square, family), bench.use(0, *square, family, weight=-0.5), steps=4),
        ]

    together = run_lanes(family, *lanes())
    for lane in lanes():
        assert torch.equal(run_lanes(family, lane)[lane.key], together[lane.key]), lane.key
    backwards = run_lanes(family, *lanes()[::-1])
    assert all(torch.equal(backwards[key], latents) for key, latents in together.items())


@pytest.mark.long
def test_in_bf16_our_error_is_no_larger_than_diffusers(bench: Bench) -> None:
    """The distance to the fp32 latents is at most 1.1 times that of diffusers' own bf16, in the median and at p95."""
    mine, others = [], []
    rounded = bench.pipeline(torch.bfloat16, 0, 1)
    for seed in range(4):
        exact = bench.theirs(torch.float32, [0, 1], (96, 96), seed)
        uses = tuple(bench.use(i, 96, 96, bench.rounded) for i in (0, 1))
        found = run_lanes(bench.rounded, bench.lane("me", uses, (96, 96), seed, family=bench.rounded))["me"]
        mine.append((found - exact).abs())
        others.append((bench.theirs(torch.bfloat16, [0, 1], (96, 96), seed, pipeline=rounded) - exact).abs())
    for part in (0.5, 0.95):
        assert torch.stack(mine).quantile(part) <= 1.1 * torch.stack(others).quantile(part)
