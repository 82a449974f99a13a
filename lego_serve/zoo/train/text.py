"""Pretrains the text encoders: each learns to classify the attributes that a caption names, without images.

The heads are thrown away; the encoders go on training together with the backbone.
"""

import math
import random
from pathlib import Path

import torch
from torch import nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from lego_serve.zoo.architecture import PROMPT_TOKENS, TEXT_WIDTH, build_text_encoder
from lego_serve.zoo.train.progress import is_save_due, iterations, load_state, pick_device, save_state
from lego_serve.zoo.world.captions import caption, says
from lego_serve.zoo.world.scenes import COLOUR_NAMES, PLACES, SHAPES, SIZES, Scene, sample_scene

ATTRIBUTES = (COLOUR_NAMES, SHAPES, PLACES, SIZES)
CLASSES = [len(names) + 1 for names in ATTRIBUTES] * 2 + [len(COLOUR_NAMES) + 1]


def labels(scene: Scene, text: str) -> list[int]:
    """Return the classes of both things' attributes and the ground; the last class of each is "not said"."""
    stated = says(text)
    row: list[int] = []
    for index in range(2):
        if index >= len(scene.things):
            row += [len(names) for names in ATTRIBUTES]
            continue
        thing = scene.things[index]
        place = PLACES.index(thing.place) if "place" in stated else len(PLACES)
        size = SIZES.index(thing.size) if "size" in stated else len(SIZES)
        row += [COLOUR_NAMES.index(thing.colour), SHAPES.index(thing.shape), place, size]
    return [*row, COLOUR_NAMES.index(scene.ground) if "ground" in stated else len(COLOUR_NAMES)]


class AttributeClassifier(nn.Module):
    """An encoder with a linear head per attribute on its pooled output and on its last token."""

    def __init__(self, encoder: CLIPTextModelWithProjection) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooled = nn.Linear(TEXT_WIDTH, sum(CLASSES))
        self.last = nn.Linear(TEXT_WIDTH, sum(CLASSES))

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits of both heads, each (batch, sum of CLASSES)."""
        out = self.encoder(tokens, output_hidden_states=True)
        return self.pooled(out.text_embeds), self.last(out.hidden_states[-2][:, -1])


def train_text(
    folder: Path, tokenizer: CLIPTokenizer, index: int, steps: int, seed: int = 0
) -> CLIPTextModelWithProjection:
    """Train (or resume training) one of the two encoders."""
    device = pick_device()
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert isinstance(end, int)
    classifier = AttributeClassifier(build_text_encoder(len(tokenizer), end, index)).to(device)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0.01)
    path = folder / f"text{index}.pt"
    start, note = 0, ""
    if (state := load_state(path)) is not None:
        classifier.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    for step in iterations(f"text encoder {index + 1}", start, steps, lambda: note):
        rng = random.Random(f"{seed} text {index} {step}")
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        scenes = [sample_scene(rng, 1 + (i % 3 > 0)) for i in range(128)]
        texts = [caption(scene, rng) for scene in scenes]
        tokens = tokenizer(texts, padding="max_length", max_length=PROMPT_TOKENS, truncation=True, return_tensors="pt")
        wanted = torch.tensor([labels(s, t) for s, t in zip(scenes, texts, strict=True)], device=device)
        loss = torch.zeros((), device=device)
        right = []
        for logits in classifier(tokens.input_ids.to(device)):
            for column, part in enumerate(logits.split(CLASSES, dim=1)):
                loss = loss + nn.functional.cross_entropy(part, wanted[:, column])
                right.append((part.argmax(1) == wanted[:, column]).float().mean())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
        optimizer.step()
        note = f"right {torch.stack(right).mean().item():.4f}"
        if is_save_due(step, steps):
            save_state(path, {"model": classifier.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1})
    return classifier.encoder
