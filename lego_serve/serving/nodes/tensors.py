"""Arrays of messages as torch tensors."""

import numpy as np
import torch

from lego_serve.core.values import Ref


def tensor_of(value: object) -> torch.Tensor:
    """Copy an array of a message into a tensor of its own; arrays from the object store cannot be written to."""
    assert not isinstance(value, Ref), "a reference must be resolved before a node reads it"
    return torch.from_numpy(np.array(value))
