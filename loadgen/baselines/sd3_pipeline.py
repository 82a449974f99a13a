"""Runs diffusers' own StableDiffusion3Pipeline on bursts that come as JSON lines on stdin.

It makes one image after the other, as a script does.  Each line in is
``{"threads": n, "requests": [{prompt, width, height, steps, guidance, seed}]}``; the line out is
``{"done_s": [seconds since the burst began], "images": [base64 PNG]}``.  Encoding PNGs is not timed.
"""

import argparse
import base64
import gc
import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

from PIL import Image

from loadgen.images import png_bytes


def main() -> None:
    """Load the pipeline, write ``{"ready": true, "dtype": ...}``, then answer each line until stdin closes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--max-sequence-length", type=int, required=True)
    arguments = parser.parse_args()
    if not (arguments.weights / "model_index.json").is_file():  # before the seconds that the imports below take
        parser.error(f"--weights {arguments.weights} is no model folder: it has no model_index.json")
    gc.disable()  # nothing that is imported is garbage
    import torch

    from loadgen.baselines.sd3_loading import dtype_name, load_pipeline

    gc.enable()
    answers = sys.stdout
    sys.stdout = sys.stderr  # nothing a library prints may come between the answers
    pipeline = load_pipeline(arguments.weights)
    print(json.dumps({"ready": True, "dtype": dtype_name(pipeline)}), file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        torch.set_num_threads(job["threads"])
        answer = _make_burst(pipeline, job["requests"], arguments.max_sequence_length)
        print(json.dumps(answer), file=answers, flush=True)


def _make_burst(pipeline: Any, requests: list[dict[str, Any]], max_sequence_length: int) -> dict[str, Any]:
    from loadgen.baselines.sd3_loading import make_image

    start = perf_counter()
    done_s: list[float] = []
    images: list[Image.Image] = []
    for request in requests:
        images.append(make_image(pipeline, **request, max_sequence_length=max_sequence_length))
        done_s.append(perf_counter() - start)
    return {"done_s": done_s, "images": [base64.b64encode(png_bytes(image)).decode() for image in images]}


if __name__ == "__main__":
    main()
