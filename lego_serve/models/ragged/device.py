"""What the host does with a device: copies that it does not wait for, and waits that are stated.

Nothing in a step goes from one to the other but by these functions.
"""

from collections.abc import Sequence

import torch


def uploaded(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of the CPU on a device; what is there already is returned as it is.

    A copy out of pageable memory may wait for all work that the device has been given before, so a CUDA device copies
    out of pinned memory, which torch keeps until the copy is done.
    """
    source = tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor
    return source.to(device, non_blocking=True)


def fetched(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return tensors of a device on the CPU, waiting once for all of them; what is there already as it is.

    torch copies to pinned memory where it need not wait, so that the copies follow each other on the device.
    """
    copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
    for device in {tensor.device for tensor in tensors}:
        wait_for(device)
    return copies


def wait_for(device: torch.device) -> None:
    """Wait until a device has done all that it was given: without, a step would seem to take what launching it takes.

    The rates that steps are planned by, deadlines and progress count from here.
    """
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
