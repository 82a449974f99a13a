"""FLUX as a whole: folders loaded by family, images against diffusers' pipelines, faults of a folder named."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxImg2ImgPipeline, FluxPipeline
from safetensors.torch import load_file, save_file

from lego_serve.core.jobs.messages import NodeCall
from lego_serve.core.nodes.messages import DenoiseInput, TextEncodeOutput
from lego_serve.engine.lane_state import LaneRequest
from lego_serve.engine.offline import OfflinePipeline
from lego_serve.errors import CheckpointError, LegoError, RequestError, UnsupportedParameter
from lego_serve.models.loading import load_backbone, load_text_encoder, load_vae
from lego_serve.models.registry import ModelSpec
from tests.support.builders import run_results
from tests.support.nodes import backbone_node, denoised, latents_of
from tests.support.tiny_models import flux_miniature

LENGTH = 8
PROMPT = "a red circle on the left"


def spec(folder: Path, dtype: str = "float32") -> ModelSpec:
    """A miniature as a configuration would name it."""
    return ModelSpec("mine", str(folder), family="flux", dtype=dtype, max_sequence_length=LENGTH)


@pytest.fixture(scope="module")
def ours(flux_folder: Path) -> OfflinePipeline:
    """It in our own engine."""
    return OfflinePipeline.load(spec(flux_folder))


@pytest.fixture(scope="module")
def theirs(flux_folder: Path) -> FluxPipeline:
    """It in diffusers' pipeline."""
    return pipeline(flux_folder, torch.float32)


def pipeline(folder: Path, dtype: torch.dtype) -> FluxPipeline:
    """diffusers' pipeline of a folder, without its progress bar."""
    loaded = FluxPipeline.from_pretrained(folder, dtype=dtype)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@dataclass(frozen=True)
class Wish:
    """One image to ask both sides for."""

    width: int = 128
    height: int = 128
    steps: int = 4
    guidance: float = 3.5
    seed: int = 11
    prompt: str = PROMPT

    def lane(self, ours: OfflinePipeline, key: str = "only") -> LaneRequest:
        """For our engine."""
        cond = ours.text.encode([self.prompt])[0]
        return LaneRequest(key, self.width, self.height, self.steps, self.guidance, self.seed, cond, None)

    def ask(self, theirs: FluxPipeline, output_type: str) -> Any:
        """From the pipeline."""
        return theirs(
            self.prompt, width=self.width, height=self.height, num_inference_steps=self.steps,
            guidance_scale=self.guidance, generator=torch.Generator().manual_seed(self.seed),
            max_sequence_length=LENGTH, output_type=output_type,
        ).images  # fmt: skip

    def latents(self, theirs: FluxPipeline) -> torch.Tensor:
        """The pipeline's latents, unpacked."""
        return FluxPipeline._unpack_latents(self.ask(theirs, "latent"), self.height, self.width, 8)[0]


WISHES = (
    Wish(), Wish(96, 160, 6, 1.0, 12), Wish(160, 96, 3, 5.0, 13, "a blue square"), Wish(112, 112, 1, 2.0, 14, "a"),
    Wish(128, 128, 8, 0.0, 15, ""), Wish(seed=16),
)  # fmt: skip


def off_by(mine: torch.Tensor, reference: np.ndarray) -> int:
    """The largest difference of any 8-bit value."""
    return int((mine.int() - torch.from_numpy((reference * 255).round()).int()).abs().max())


def test_the_text_encoding_equals_diffusers(ours: OfflinePipeline, theirs: FluxPipeline) -> None:
    """T5's tokens and CLIP's pooled vector equal the pipeline's."""
    tokens, pooled, _ = theirs.encode_prompt(PROMPT, None, max_sequence_length=LENGTH)
    mine = ours.text.encode([PROMPT])[0]
    torch.testing.assert_close(mine.tokens, tokens[0])
    torch.testing.assert_close(mine.pooled, pooled[0])


@pytest.mark.parametrize("wish", WISHES[:4], ids=str)
def test_an_image_equals_diffusers_with_its_own_noise(ours: OfflinePipeline, theirs: FluxPipeline, wish: Wish) -> None:
    """From the seed alone the latents are the pipeline's, and every 8-bit value of the image is within 2 of its."""
    latents = run_results(ours, wish.lane(ours))["only"].latents
    torch.testing.assert_close(latents, wish.latents(theirs), atol=1e-4, rtol=1e-4)
    assert off_by(ours.vae.decode(latents[None]), wish.ask(theirs, "np")) <= 2


def test_lanes_of_one_batch_equal_diffusers_one_by_one(ours: OfflinePipeline, theirs: FluxPipeline) -> None:
    """Other sizes, steps, guidances, prompts and seeds in one batch: each lane is its own pipeline's."""
    lanes = [wish.lane(ours, str(i)) for i, wish in enumerate(WISHES)]
    together = run_results(ours, *lanes)
    assert max(together["0"].step_lanes) == len(WISHES)
    for key, wish in enumerate(WISHES):
        latents = together[str(key)].latents
        torch.testing.assert_close(latents, wish.latents(theirs), atol=1e-4, rtol=1e-4)
        assert off_by(ours.vae.decode(latents[None]), wish.ask(theirs, "np")) <= 2


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_pixels_do_not_change_with_batch_mates(ours: OfflinePipeline, sampler: str) -> None:
    """A lane has the same bits alone and in a mixed batch, with either sampler."""
    mine = replace(WISHES[1].lane(ours), sampler=sampler)
    mates = [wish.lane(ours, str(i)) for i, wish in enumerate(WISHES)]
    assert torch.equal(run_results(ours, mine, *mates)["only"].latents, run_results(ours, mine)["only"].latents)


def test_guidance_is_told_to_dev_and_not_to_schnell(flux_form: str, ours: OfflinePipeline) -> None:
    """What a model is not told makes no difference to its image."""
    little, much = (run_results(ours, Wish(guidance=g).lane(ours))["only"].latents for g in (1.0, 8.0))
    assert torch.equal(little, much) == (flux_form == "flux-schnell")


@pytest.mark.parametrize("strength", [0.35, 0.6, 1.0])
def test_image_to_image_equals_diffusers(ours: OfflinePipeline, theirs: FluxPipeline, strength: float) -> None:
    """Encoding, noising by strength and denoising give the image-to-image pipeline's image."""
    image = torch.randint(0, 256, (1, 96, 128, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    lane = replace(Wish(128, 96, 10, seed=5).lane(ours), init=ours.vae.encode(image)[0], strength=strength)
    latents = run_results(ours, lane)["only"].latents
    edit = FluxImg2ImgPipeline(**theirs.components)
    edit.set_progress_bar_config(disable=True)
    reference = edit(
        PROMPT, image=image[0].numpy().astype(np.float32)[None] / 255, strength=strength, num_inference_steps=10,
        guidance_scale=3.5, generator=torch.Generator().manual_seed(5), max_sequence_length=LENGTH,
        output_type="np", width=128, height=96,
    ).images  # fmt: skip
    assert off_by(ours.vae.decode(latents[None]), reference) <= 2


def test_in_bf16_our_error_is_no_larger_than_diffusers(flux_folder: Path, theirs: FluxPipeline) -> None:
    """The distance to the fp32 latents is at most 1.1 times that of diffusers' own bf16, in the median and at p95."""
    rounded, other = OfflinePipeline.load(spec(flux_folder, "bfloat16")), pipeline(flux_folder, torch.bfloat16)
    mine, others = [], []
    for seed in range(6):
        wish = Wish(seed=seed)
        exact = wish.latents(theirs)
        mine.append((run_results(rounded, wish.lane(rounded))["only"].latents - exact).abs())
        others.append((wish.latents(other).float() - exact).abs())
    for part in (0.5, 0.95):
        assert torch.stack(mine).quantile(part) <= 1.1 * torch.stack(others).quantile(part)


def test_a_negative_prompt_is_refused(ours: OfflinePipeline) -> None:
    """The model would not read it."""
    lane = Wish().lane(ours)
    with pytest.raises(UnsupportedParameter, match="takes no negative prompt"):
        ours.engine.add(replace(lane, negative=lane.cond))
    assert ours.engine.lanes == 0


async def test_the_backbone_node_denoises_without_a_negative_prompt(flux_folder: Path, ours: OfflinePipeline) -> None:
    """The node knows no family: a call without `negative` gives the latents the engine gives."""
    node = backbone_node(spec(flux_folder))
    wish = Wish()
    cond = wish.lane(ours).cond
    encoded = TextEncodeOutput(cond.tokens.numpy(), cond.pooled.numpy())
    request = DenoiseInput(encoded, wish.width, wish.height, wish.steps, guidance=wish.guidance, seed=wish.seed, n=1)
    latents = latents_of(await denoised(node, NodeCall(request)))
    assert torch.equal(torch.from_numpy(latents)[0], run_results(ours, wish.lane(ours))["only"].latents)


def test_a_prompt_t5_cannot_read_whole_is_refused(ours: OfflinePipeline) -> None:
    """T5 is given so many tokens, its end mark among them; CLIP's window cuts off what only T5 reads."""
    assert ours.text.count(" ".join(["a"] * (LENGTH - 1))) == LENGTH
    with pytest.raises(RequestError, match=f"has {LENGTH + 1} tokens; this model reads at most {LENGTH}"):
        ours.text.count(" ".join(["a"] * LENGTH))


Load = Callable[[ModelSpec], Any]
CLASSES: dict[str, tuple[Load, str]] = {
    "transformer": (load_backbone, "FluxTransformer2DModel"),
    "text_encoder": (load_text_encoder, "CLIPTextModel"),
    "text_encoder_2": (load_text_encoder, "T5EncoderModel"),
    "vae": (load_vae, "AutoencoderKL"),
}
components = pytest.mark.parametrize("name", CLASSES)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder without a fault."""
    place = tmp_path_factory.mktemp("sound")
    flux_miniature("flux-dev").save_pretrained(place)
    return place


@pytest.fixture
def damaged(sound: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(sound, tmp_path / "model"))


def complaint(load: Load, said_by: ModelSpec) -> str:
    """What a loader says against a folder; always one line that names the model."""
    with pytest.raises(LegoError) as caught:
        load(said_by)
    assert isinstance(caught.value, CheckpointError)
    assert "\n" not in caught.value.message
    return caught.value.message.removeprefix("model mine: ")


@components
def test_a_missing_component_is_named(name: str, damaged: Path) -> None:
    """The first file it needs is missing with it; without its weights the folder is named."""
    load, _ = CLASSES[name]
    next((damaged / name).glob("*.safetensors")).unlink()
    assert complaint(load, spec(damaged)) == f"{damaged / name} holds no .safetensors file"
    shutil.rmtree(damaged / name)
    assert complaint(load, spec(damaged)) == f"{damaged / name / 'config.json'} is missing"


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer_2"])
def test_a_missing_tokenizer_is_named(name: str, damaged: Path) -> None:
    """Both are needed."""
    shutil.rmtree(damaged / name)
    assert complaint(load_text_encoder, spec(damaged)) == f"{damaged / name} is missing"


@components
def test_another_class_is_named_with_the_one_needed(name: str, damaged: Path) -> None:
    """A component of another family does not pass for FLUX's."""
    load, needed = CLASSES[name]
    file = damaged / name / "config.json"
    key = "architectures" if name.startswith("text") else "_class_name"
    other = "CLIPTextModelWithProjection" if name.startswith("text") else "SD3Transformer2DModel"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: [other] if key == "architectures" else other}))
    assert complaint(load, spec(damaged)) == f"{damaged / name} holds {other}, {needed} is needed"


@components
def test_a_weight_of_the_wrong_shape_is_named_with_both_shapes(name: str, damaged: Path) -> None:
    """Nothing is initialised anew in its place."""
    load, _ = CLASSES[name]
    file = next((damaged / name).glob("*.safetensors"))
    state = load_file(file)
    key = next(k for k in sorted(state) if state[k].ndim > 1)
    shape = list(state[key].shape)
    state[key] = torch.zeros(3, *shape[1:])
    save_file(state, file, metadata={"format": "pt"})
    has = f"has the shape {[3, *shape[1:]]}, {shape} is needed"
    assert complaint(load, spec(damaged)) == f"{damaged / name}: weight {key} {has}"


def test_a_text_length_of_nothing_is_refused(sound: Path) -> None:
    """T5's tokens are the only ones FLUX reads."""
    message = complaint(load_text_encoder, replace(spec(sound), max_sequence_length=0))
    assert message == "FLUX reads T5's tokens; set `max_sequence_length` to 1 or more"


def test_a_folder_of_another_family_is_named(tiny_folder: Path) -> None:
    """SD3's transformer is not taken for FLUX's."""
    message = complaint(load_backbone, spec(tiny_folder))
    assert message == f"{tiny_folder / 'transformer'} holds SD3Transformer2DModel, FluxTransformer2DModel is needed"
