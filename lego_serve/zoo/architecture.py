"""The architecture of lego-tiny: an SD3 family small enough to ship and to run on one CPU core."""

import itertools
import json
import random
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from lego_serve.zoo.world.captions import caption
from lego_serve.zoo.world.scenes import sample_scene

PROMPT_TOKENS = 32
TEXT_WIDTH = 96
LATENT_CHANNELS = 8
LATENT_RATIO = 8
SAMPLE_SIZE = 16  # latent pixels a side at the native 128 x 128


def build_tokenizer(captions: int = 6000) -> CLIPTokenizer:
    """Return a byte-pair tokenizer in CLIP's format whose merges come from the caption grammar."""
    rng = random.Random(0)
    corpus = [caption(sample_scene(rng, 1 + i % 2), rng) for i in range(captions)]
    vocab, merges = _learn_merges(corpus)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps(vocab))
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
        Path(folder, "merges.txt").write_text("\n".join(lines) + "\n")
        return CLIPTokenizer(
            vocab=str(Path(folder, "vocab.json")),
            merges=str(Path(folder, "merges.txt")),
            model_max_length=PROMPT_TOKENS,
            pad_token="<|endoftext|>",
        )


def _learn_merges(corpus: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Learn byte-pair merges until every word of the corpus is one token; CLIP marks a word's end."""
    words = sorted({w for line in corpus for w in line.replace(",", " , ").split()})
    pieces = {w: [*w[:-1], w[-1] + "</w>"] for w in words}
    merges: list[tuple[str, str]] = []
    while True:
        counts: dict[tuple[str, str], int] = {}
        for parts in pieces.values():
            for pair in itertools.pairwise(parts):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            break
        best = max(counts, key=lambda p: (counts[p], p))
        merges.append(best)
        for word, parts in pieces.items():
            pieces[word] = _merge(parts, best)
    alphabet = [chr(c) for c in _byte_alphabet()]
    tokens = [*alphabet, *(c + "</w>" for c in alphabet), *("".join(m) for m in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def _byte_alphabet() -> list[int]:
    """Return the printable stand-ins for the 256 bytes, as GPT-2 and CLIP order them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = range(256, 256 + 256 - len(printable))
    return [*printable, *shifted]


def build_text_encoder(vocab_size: int, end_token: int, seed: int) -> CLIPTextModelWithProjection:
    """Return one of the two CLIP text encoders, randomly initialised."""
    torch.manual_seed(seed)
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=3,
            max_position_embeddings=PROMPT_TOKENS,
            projection_dim=TEXT_WIDTH,
            hidden_act="quick_gelu" if seed == 0 else "gelu",
            bos_token_id=end_token - 1,
            eos_token_id=end_token,
            pad_token_id=end_token,
        )
    )


def build_vae() -> AutoencoderKL:
    """Return the autoencoder: 8x downsampling, 8 latent channels, narrow where images are large."""
    torch.manual_seed(2)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 16, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SAMPLE_SIZE * LATENT_RATIO,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def build_transformer() -> SD3Transformer2DModel:
    """Return the MMDiT: width 128, six joint blocks, QK norm, patches of 2 x 2 latent pixels."""
    torch.manual_seed(3)
    return SD3Transformer2DModel(
        sample_size=SAMPLE_SIZE,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=6,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=2 * TEXT_WIDTH,
        caption_projection_dim=128,
        pooled_projection_dim=2 * TEXT_WIDTH,
        pos_embed_max_size=SAMPLE_SIZE,
        qk_norm="rms_norm",
    )


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Return the flow-match Euler scheduler, with SD3's shift: with it 10 steps do what 28 even ones do."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
