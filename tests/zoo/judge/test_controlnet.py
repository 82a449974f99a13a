"""The outline ControlNet: what it starts as, how it is trained and exported, and how it is judged."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import SD3ControlNetModel, StableDiffusion3ControlNetPipeline

from lego_serve.zoo.judge.controlnet import judge_controlnet, map_sets, map_table, overlap_of
from lego_serve.zoo.train.controlnet import ControlPlan, build_controlnet, export_controlnet, train_controlnet
from lego_serve.zoo.train.frozen_family import FrozenFamily
from lego_serve.zoo.world.scenes import render, sample_scene
from lego_serve.zoo.world.styles import outline_maps
from tests.support.tiny_models import untrained

QUICK = {"chunks": 1, "chunk_pixels": 4 * 128 * 128, "rows": 4 * 96}


def maps_of(count: int, side: int) -> torch.Tensor:
    """Outline maps of a few scenes."""
    rng = random.Random(3)
    return outline_maps([sample_scene(rng, 1 + i % 2) for i in range(count)], side, side, rng)


def eight_bit(images: torch.Tensor) -> np.ndarray:
    """Images (count, 3, height, width) in -1..1 as 8-bit ones, channels last."""
    return ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


@pytest.fixture
def base() -> FrozenFamily:
    """The architecture with random weights."""
    return FrozenFamily.of(untrained())


def test_a_new_controlnet_changes_nothing(base: FrozenFamily) -> None:
    """Its output layers are zero, so training starts from the family as it is."""
    net = build_controlnet(base.transformer)
    plain = base.generate(["a red circle"], [1], 96, steps=2)
    controlled = base.generate(["a red circle"], [1], 96, steps=2, controlnet=net, maps=maps_of(1, 96))
    assert torch.equal(plain, controlled)


def test_training_resumes_and_what_is_exported_is_what_diffusers_reads(base: FrozenFamily, tmp_path: Path) -> None:
    """Two steps and two more; the folder loads with `from_pretrained`, in bf16, and is small."""
    train_controlnet(tmp_path, base, ControlPlan(steps=2, **QUICK))
    net = train_controlnet(tmp_path, base, ControlPlan(steps=4, **QUICK))
    assert torch.load(tmp_path / "controlnet.pt", weights_only=True)["step"] == 4
    assert any(block.weight.abs().max() > 0 for block in net.controlnet_blocks)
    assert export_controlnet(net, tmp_path / "net") < 8_000_000
    again = SD3ControlNetModel.from_pretrained(tmp_path / "net", torch_dtype=torch.bfloat16)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


def test_we_draw_what_diffusers_controlnet_pipeline_draws(base: FrozenFamily) -> None:
    """The judge's own loop against StableDiffusion3ControlNetPipeline, with a ControlNet that adds something."""
    torch.manual_seed(0)
    family = untrained()
    net = build_controlnet(base.transformer)
    for part in (net.pos_embed_input, *net.controlnet_blocks):
        for weight in part.parameters():
            weight.data.normal_(0, 0.05)
    pipe = StableDiffusion3ControlNetPipeline(
        **{k: v for k, v in family.components.items() if k not in ("image_encoder", "feature_extractor")},
        controlnet=net,
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.vae.encoder.conv_out.bias.data[8:] = -30  # its encoding is sampled: no deviation, no difference
    maps = maps_of(1, 96)
    theirs = pipe(
        "a red circle", control_image=maps, height=96, width=96, num_inference_steps=3, guidance_scale=4.0,
        generator=torch.Generator().manual_seed(1), max_sequence_length=0, output_type="np",
    ).images  # fmt: skip
    ours = base.generate(["a red circle"], [1], 96, controlnet=net, maps=maps, steps=3)
    assert (torch.from_numpy(theirs * 255).round() - ours).abs().max() <= 1


@pytest.mark.parametrize("side", [96, 128, 256])
def test_a_map_is_followed_by_its_own_scene_and_by_no_other(side: int) -> None:
    """Rendered images overlap their own maps by 0.75 and more, and those of others hardly ever by 0.6."""
    rng = random.Random(4)
    scenes = [sample_scene(rng, 1 + i % 2) for i in range(60)]
    shown = eight_bit(outline_maps(scenes, side, side, random.Random(5)))
    images = eight_bit(render(scenes, side, side, random.Random(5)))
    assert min(overlap_of(p, m) for p, m in zip(images, shown, strict=True)) > 0.75
    moved = [overlap_of(p, m) for p, m in zip(np.roll(images, 2, axis=0), shown, strict=True)]
    assert sum(overlap >= 0.6 for overlap in moved) <= 3


def test_the_table_counts_followed_maps_by_kind() -> None:
    """A family that draws the maps themselves follows all; one that draws nothing follows none."""

    def fills(texts: list[str], maps: torch.Tensor, seeds: range) -> np.ndarray:
        from lego_serve.zoo.judge.controlnet import map_mask

        masks = np.stack([map_mask(m) for m in eight_bit(maps)])
        return np.repeat(np.where(masks, 245, 25).astype(np.uint8)[..., None], 3, axis=-1)

    def nothing(texts: list[str], maps: torch.Tensor, seeds: range) -> np.ndarray:
        return np.zeros_like(eight_bit(maps))

    full = map_table(list(judge_controlnet(fills, [96], 10)))["96"]  # type: ignore[arg-type]
    none = map_table(list(judge_controlnet(nothing, [96], 10)))["96"]  # type: ignore[arg-type]
    assert {kind: (c["followed"], c["of"]) for kind, c in full.items()} == {"one_object": (5, 5), "two_objects": (5, 5)}
    assert {c["followed"] for c in none.values()} == {0}


def test_images_of_the_scenes_themselves_are_right_and_those_of_one_colour_are_not() -> None:
    """The judge of plain images counts shapes and colours beside the overlap."""
    one, two = map_sets(128, 40)

    def rendered(texts: list[str], maps: torch.Tensor, seeds: range) -> np.ndarray:
        some = two if " and " in texts[0] else one
        rng = random.Random()
        rng.setstate(some.jitter)
        return eight_bit(render([p.scene for p in some.prompts], 128, 128, rng))[list(seeds)]

    def grey(texts: list[str], maps: torch.Tensor, seeds: range) -> np.ndarray:
        images = rendered(texts, maps, seeds)
        white = np.abs(images.astype(int) - images[:, :1, :1]).max(-1, keepdims=True) > 60
        return np.where(white, 245, 25).astype(np.uint8).repeat(3, axis=-1)

    right = map_table(list(judge_controlnet(rendered, [128], 40)))["128"]  # type: ignore[arg-type]
    assert sum(cell["right"] for cell in right.values()) >= 38
    pale = map_table(list(judge_controlnet(grey, [128], 40)))["128"]  # type: ignore[arg-type]
    assert sum(cell["shapes"] for cell in pale.values()) >= 36
    assert sum(cell["colours"] for cell in pale.values()) <= 12
    assert sum(cell["right"] for cell in pale.values()) <= 4
