"""The errors of lanes that fail, in words for whoever waits for the image."""

import torch

from lego_serve.errors import LegoError, NodeError
from lego_serve.models.ragged.controlnet_source import ControlNetFailed

MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, here or in a ControlNet."""
    error = error.__cause__ if isinstance(error, ControlNetFailed) and error.__cause__ else error
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in MEMORY_WORDS)


def failure_of(error: Exception) -> LegoError:
    """Return the error of a lane that failed alone: the one raised where that is meant to be read."""
    if is_out_of_memory(error):
        failure = NodeError("The image needs more memory than this replica has.", code="out_of_memory")
    elif isinstance(error, LegoError):
        return error
    else:
        failure = NodeError(f"The denoising step failed: {type(error).__name__}.")
    failure.__cause__ = error
    return failure


def not_finite() -> NodeError:
    """Return the error of a lane whose latents hold infinities or NaNs."""
    return NodeError("The image's latents are not finite numbers.", code="not_finite")
