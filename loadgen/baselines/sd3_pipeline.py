"""diffusers' own StableDiffusion3Pipeline in this process, fed by JSON lines on stdin.

Eager, warmed up, VAE in channels_last, the dtype the server would choose, one request after the other: what
a script does that a competent user writes in an afternoon.  Each line in is
``{"threads": n, "requests": [{prompt, width, height, steps, guidance, seed}]}``; the line out is
``{"done_s": [seconds since the burst began], "pictures": [base64 PNG]}``.  Encoding PNGs is not timed.
"""

import argparse
import base64
import io
import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline
from PIL import Image


def main() -> None:
    """Load, say ``{"ready": true, "dtype": ...}``, then answer each line until stdin closes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--max-sequence-length", type=int, required=True)
    arguments = parser.parse_args()
    answers = sys.stdout
    sys.stdout = sys.stderr  # nothing a library prints may come between the answers
    dtype = torch.bfloat16 if _multiplies_bf16() else torch.float32
    pipeline_class: Any = StableDiffusion3Pipeline  # diffusers' own annotations are partial
    pipeline = pipeline_class.from_pretrained(
        arguments.weights,
        torch_dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        **_absent(arguments.weights),
    )
    pipeline.vae.to(memory_format=torch.channels_last)
    pipeline.set_progress_bar_config(disable=True)
    print(json.dumps({"ready": True, "dtype": str(dtype).removeprefix("torch.")}), file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        torch.set_num_threads(order["threads"])
        answer = _burst(pipeline, order["requests"], arguments.max_sequence_length)
        print(json.dumps(answer), file=answers, flush=True)


def _absent(weights: Path) -> dict[str, None]:
    """The components a folder says it does without, such as T5; diffusers wants to be told so."""
    index = json.loads((weights / "model_index.json").read_text())
    return {name: None for name, entry in index.items() if isinstance(entry, list) and entry[0] is None}


def _multiplies_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware, the rule by which the server chooses its dtype too."""
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def _burst(pipeline: Any, requests: list[dict[str, Any]], max_sequence_length: int) -> dict[str, Any]:
    start = perf_counter()
    done_s: list[float] = []
    images: list[Image.Image] = []
    for request in requests:
        made = pipeline(
            request["prompt"],
            negative_prompt="",
            width=request["width"],
            height=request["height"],
            num_inference_steps=request["steps"],
            guidance_scale=request["guidance"],
            max_sequence_length=max_sequence_length,
            generator=torch.Generator().manual_seed(request["seed"]),
        )
        images.append(made.images[0])
        done_s.append(perf_counter() - start)
    return {"done_s": done_s, "pictures": [_png(image) for image in images]}


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


if __name__ == "__main__":
    main()
