"""Interpolates the position embeddings of a model, so that it makes larger images than it was trained for.

For measurements of speed alone: positions do not change the cost of a forward pass, but the images mean little.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

WEIGHTS, CONFIG = "diffusion_pytorch_model.safetensors", "config.json"
TABLE = "pos_embed.pos_embed"


def interpolate_positions(weights: Path, side: int, folder: Path) -> Path:
    """Copy a model in diffusers' format into ``folder`` and let the copy make images of ``side`` pixels a side."""
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(weights, folder)
    transformer = folder / "transformer"
    config = json.loads((transformer / CONFIG).read_text())
    blocks = json.loads((folder / "vae" / CONFIG).read_text())["block_out_channels"]
    tokens = side // (config["patch_size"] * 2 ** (len(blocks) - 1))
    state = load_file(transformer / WEIGHTS)
    state[TABLE] = _interpolate(state[TABLE], config["pos_embed_max_size"], tokens)
    save_file(state, transformer / WEIGHTS, metadata={"format": "pt"})
    config["pos_embed_max_size"] = tokens
    (transformer / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    return folder


def _interpolate(table: torch.Tensor, before: int, after: int) -> torch.Tensor:
    """Resize a table (1, before x before, width) to (1, after x after, width), bilinearly."""
    square = table.float().view(before, before, -1).permute(2, 0, 1)[None]
    larger = torch.nn.functional.interpolate(square, (after, after), mode="bilinear", align_corners=False)
    return larger[0].permute(1, 2, 0).reshape(1, after * after, -1).to(table.dtype).contiguous()
