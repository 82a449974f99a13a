"""Counts what a request used in tokens, in the words of OpenAI's ``usage``.

A token of an image is one of the backbone's, 16 x 16 pixels; those of text are as the text encoder counts them.
"""

from typing import Any

from lego_serve.core.jobs.job import Job, JobResult

TOKEN_PIXELS = 16  # per side


def token_usage(job: Job, result: JobResult) -> dict[str, Any]:
    """Return what all images of a job used together.

    Text is the prompt and what is encoded besides, such as a negative prompt; an image given to change or to follow
    counts at the size it is brought to.
    """
    each = [image_tokens(image.width, image.height) for image in result.images]
    given = sum(name in job.inputs for name in ("image", "edit")) + _controls(job)
    text = sum(stats.text_tokens for stats in result.stats.values())
    images_in, images_out = given * each[0], sum(each)
    return {
        "input_tokens": text + images_in,
        "input_tokens_details": {"image_tokens": images_in, "text_tokens": text},
        "output_tokens": images_out,
        "output_tokens_details": {"image_tokens": images_out, "text_tokens": 0},
        "total_tokens": text + images_in + images_out,
    }


def image_tokens(width: int, height: int) -> int:
    """Return the backbone's tokens of an image; sizes that it cannot make are rounded up."""
    return -(-width // TOKEN_PIXELS) * -(-height // TOKEN_PIXELS)


def _controls(job: Job) -> int:
    controls = job.inputs.get("controlnet", ())
    return len(controls) if isinstance(controls, tuple) else 0
