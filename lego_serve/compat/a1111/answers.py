"""What txt2img and img2img answer: images, the request again, and `info` with A1111's line of parameters."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lego_serve.compat.samplers import AUTOMATIC, SCHEDULERS

Json = dict[str, object]
MAX_TEXT = 1 << 16  # characters that are read of a text
IMAGES = ("init_images", "mask")  # A1111 does not send them back


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was made: the prompt as it was written, sizes and values as they were used, and by which model.

    ``seeds`` has one entry for each image.  ``made_at`` is A1111's job timestamp, such as ``20261128233000``.
    """

    prompt: str
    negative_prompt: str
    seeds: tuple[int, ...]
    width: int
    height: int
    steps: int
    guidance: float
    sampler: str
    model: str
    model_hash: str = ""
    scheduler: str | None = None
    strength: float | None = None
    batch_size: int = 1
    made_at: str = "0"
    version: str = ""
    replaced: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the caller's images are; without ``is_running`` nothing of the caller runs."""

    is_running: bool = False
    job: str = ""
    job_timestamp: str = "0"
    step: int = 0
    steps: int = 0
    eta_s: float = 0.0
    is_interrupted: bool = False
    is_skipped: bool = False
    image: str | None = None
    text: str | None = None


def result(images: Sequence[str], parameters: Mapping[str, object], outcome: Outcome, *, are_sent: bool = True) -> Json:
    """Return the answer to a request; ``images`` are PNG files in base64, without a prefix."""
    shown = {name: value for name, value in parameters.items() if name not in IMAGES}
    cleared = {name: None for name in IMAGES if name in parameters}
    info = json.dumps(info_of(outcome), ensure_ascii=False, allow_nan=False)
    return {"images": list(images) if are_sent else [], "parameters": shown | cleared, "info": info}


def info_of(outcome: Outcome) -> Json:
    """Return the object that `info` is the text of, with every key that clients look for."""
    count = len(outcome.seeds)
    first = outcome.seeds[0] if outcome.seeds else 0
    return {
        "prompt": outcome.prompt,
        "all_prompts": [outcome.prompt] * count,
        "negative_prompt": outcome.negative_prompt,
        "all_negative_prompts": [outcome.negative_prompt] * count,
        "seed": first,
        "all_seeds": list(outcome.seeds),
        "subseed": first,  # a variation's, of which there is none
        "all_subseeds": list(outcome.seeds),
        "subseed_strength": 0,
        "width": outcome.width,
        "height": outcome.height,
        "sampler_name": outcome.sampler,
        "cfg_scale": outcome.guidance,
        "steps": outcome.steps,
        "batch_size": outcome.batch_size,
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": outcome.model,
        "sd_model_hash": outcome.model_hash,
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": outcome.strength,
        "extra_generation_params": dict(outcome.replaced),
        "index_of_first_image": 0,
        "infotexts": [infotext(outcome, index) for index in range(count)],
        "styles": [],
        "job_timestamp": outcome.made_at,
        "clip_skip": 1,
        "is_using_inpainting_conditioning": False,
        "version": outcome.version,
    }


def infotext(outcome: Outcome, index: int = 0) -> str:
    """Return the text that says how an image was made: prompts, then a line of names and values."""
    schedule = outcome.scheduler if outcome.scheduler != AUTOMATIC else None
    values: dict[str, object] = {
        "Steps": outcome.steps,
        "Sampler": outcome.sampler,
        "Schedule type": schedule and SCHEDULERS.get(schedule, ("", schedule))[1],
        "CFG scale": outcome.guidance,
        "Seed": outcome.seeds[index],
        "Size": f"{outcome.width}x{outcome.height}",
        "Model hash": outcome.model_hash or None,
        "Model": outcome.model,
        "Denoising strength": outcome.strength,
        **dict(outcome.replaced),
        "Version": outcome.version or None,
    }
    line = ", ".join(f"{_quoted(name)}: {_quoted(value)}" for name, value in values.items() if value is not None)
    negative = f"\nNegative prompt: {outcome.negative_prompt}" if outcome.negative_prompt else ""
    return f"{outcome.prompt}{negative}\n{line}".strip()


def _quoted(value: object) -> str:
    """Return a value as the line has it: as JSON where its own characters would end it."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ",:\n") else text


def progress(now: Progress) -> Json:
    """Return the answer of ``GET progress``; idle is 0 and no job."""
    fraction = min(now.step / now.steps, 1.0) if now.is_running and now.steps else 0.0
    return {
        "progress": fraction,
        "eta_relative": now.eta_s if now.is_running else 0.0,
        "state": {
            "skipped": now.is_skipped,
            "interrupted": now.is_interrupted,
            "stopping_generation": False,
            "job": now.job,
            "job_count": int(now.is_running),
            "job_timestamp": now.job_timestamp,
            "job_no": 0,
            "sampling_step": now.step,
            "sampling_steps": now.steps,
        },
        "current_image": now.image,
        "textinfo": now.text,
    }


def png_info(text: str) -> Json:
    """Return the answer of ``POST png-info`` for the text that a PNG file holds."""
    return {"info": text, "items": {"parameters": text} if text else {}, "parameters": parse_infotext(text)}


def parse_infotext(text: str) -> Json:
    """Return the prompts and values of a text that `infotext` or A1111 wrote, as texts by name."""
    body, _, line = text[:MAX_TEXT].rpartition("\n")
    if not line.startswith("Steps: "):
        return {"Prompt": text, "Negative prompt": ""} if text else {}
    prompt, _, negative = body.partition("\nNegative prompt: ")
    if not _ and body.startswith("Negative prompt: "):
        prompt, negative = "", body.removeprefix("Negative prompt: ")
    return {"Prompt": prompt, "Negative prompt": negative, **_values(line)}


def _values(line: str) -> dict[str, str]:
    found: dict[str, str] = {}
    decoder, at = json.JSONDecoder(), 0
    while at < len(line):
        name, at = _word(line, at, ":", decoder)
        value, at = _word(line, at, ",", decoder)
        if name:
            found[name] = value
    return found


def _word(line: str, at: int, end: str, decoder: json.JSONDecoder) -> tuple[str, int]:
    """Return a word from a place on, quoted or up to the mark that ends it, and the place behind mark and space."""
    stop = line.find(end, at)
    stop = len(line) if stop < 0 else stop
    word = line[at:stop]
    if line.startswith('"', at):
        try:
            quoted, stop = decoder.raw_decode(line, at)
            word = str(quoted)
        except ValueError:
            pass
    return word.strip(), stop + 2
