"""The same weights for larger images than they were trained for: the table of positions is stretched.

For speed alone.  A forward pass costs what it costs whatever the positions say; the images mean little.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

WEIGHTS, CONFIG = "diffusion_pytorch_model.safetensors", "config.json"
TABLE = "pos_embed.pos_embed"


def with_larger_sides(weights: Path, side: int, folder: Path) -> Path:
    """Copy a model in diffusers' format into ``folder``, able to make images of so many pixels a side."""
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(weights, folder)
    transformer = folder / "transformer"
    config = json.loads((transformer / CONFIG).read_text())
    blocks = json.loads((folder / "vae" / CONFIG).read_text())["block_out_channels"]
    tokens = side // (config["patch_size"] * 2 ** (len(blocks) - 1))
    state = load_file(transformer / WEIGHTS)
    state[TABLE] = _stretched(state[TABLE], config["pos_embed_max_size"], tokens)
    save_file(state, transformer / WEIGHTS, metadata={"format": "pt"})
    config["pos_embed_max_size"] = tokens
    (transformer / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    return folder


def _stretched(table: torch.Tensor, before: int, after: int) -> torch.Tensor:
    """A table (1, side x side, width) with another side, linear in between."""
    square = table.float().view(before, before, -1).permute(2, 0, 1)[None]
    larger = torch.nn.functional.interpolate(square, (after, after), mode="bilinear", align_corners=False)
    return larger[0].permute(1, 2, 0).reshape(1, after * after, -1).to(table.dtype).contiguous()
