"""Trains lego-tiny from scratch, stage by stage; every stage resumes from the folder it writes to."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import CLIPTokenizer

from lego_serve.zoo.architecture import build_tokenizer
from lego_serve.zoo.train.backbone import Family, train_backbone
from lego_serve.zoo.train.latents import precompute
from lego_serve.zoo.train.text import train_text
from lego_serve.zoo.train.vae import train_decoder, train_vae


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How long each stage runs: optimiser steps, and precomputed chunks of latents."""

    vae_steps: int = 900
    decoder_steps: int = 4000
    text_steps: int = 600
    chunks: int = 160
    backbone_steps: int = 4600
    compiled: bool = False
    threads: int = 1


def train(folder: Path, plan: TrainingPlan) -> Family:
    """Run all stages (or what is left of them) and return the trained backbone and encoders."""
    torch.set_num_threads(plan.threads)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(folder / "tokenizer")
    encoders = [train_text(folder, tokenizer, index, plan.text_steps) for index in (0, 1)]
    vae = train_vae(folder, plan.vae_steps)
    train_decoder(folder, vae, plan.decoder_steps)
    chunks = precompute(vae, folder / "latents", plan.chunks)
    return train_backbone(folder, tokenizer, encoders, chunks, plan.backbone_steps, compiled=plan.compiled)


def _tokenizer(folder: Path) -> CLIPTokenizer:
    if not folder.exists():
        build_tokenizer().save_pretrained(folder)
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
    return tokenizer
