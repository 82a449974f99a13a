"""Why a forward pass failed, in words for whoever waits for its lane."""

import torch

from lego_serve.errors import LegoError, NodeError
from lego_serve.models.ragged.controlnet_source import ControlNetFailed

MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory")


def is_memory(error: BaseException) -> bool:
    """Whether memory ran out, here or in a ControlNet."""
    error = error.__cause__ if isinstance(error, ControlNetFailed) and error.__cause__ else error
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(w in str(error) for w in MEMORY_WORDS)


def failure_of(error: Exception) -> LegoError:
    """What a lane that failed alone is told: the error itself where it was meant to be read."""
    if is_memory(error):
        failure = NodeError("The image needs more memory than this replica has.", code="out_of_memory")
    elif isinstance(error, LegoError):
        return error
    else:
        failure = NodeError(f"The denoising step failed: {type(error).__name__}.")
    failure.__cause__ = error
    return failure


def not_finite() -> NodeError:
    """What a lane is told whose latents can come to nothing."""
    return NodeError("The image's latents are not finite numbers.", code="not_finite")
