"""Messages between two replicas of a backbone that share the guidance branches of a lane: tensors with their names.

A message is a length, a header in JSON and the bytes of its tensors; nothing in it is executed.  A connection begins
with a token that only replicas of the same server know, since they hear of it over Ray.
"""

import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

MAX_BYTES = 256 * 2**20  # of one message
LENGTH = struct.Struct("<II")  # of the header and of the tensors


class BranchClosed(Exception):
    """The other side has gone, or has said what is no message."""


@dataclass(frozen=True, slots=True)
class BranchMessage:
    """A word, the step's number in its lane's exchange, and tensors by name."""

    word: str
    number: int = 0
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)


def send(connection: socket.socket, message: BranchMessage) -> None:
    """Send a message.  Raises BranchClosed."""
    bodies, shapes = [], {}
    for name, tensor in message.tensors.items():
        plain = tensor.detach().cpu().contiguous()
        shapes[name] = [str(plain.dtype).removeprefix("torch."), list(plain.shape)]
        bodies.append(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    head = json.dumps([message.word, message.number, shapes]).encode()
    body = b"".join(bodies)
    try:
        connection.sendall(LENGTH.pack(len(head), len(body)) + head + body)
    except OSError as error:
        raise BranchClosed(type(error).__name__) from error


def receive(connection: socket.socket, max_bytes: int = MAX_BYTES) -> BranchMessage:
    """Return the next message.  Raises BranchClosed, also where the connection's time-out passes first."""
    try:
        head_bytes, body_bytes = LENGTH.unpack(_exactly(connection, LENGTH.size))
        if head_bytes + body_bytes > max_bytes:
            raise BranchClosed(f"a message of {head_bytes + body_bytes} bytes")
        word, number, shapes = json.loads(_exactly(connection, head_bytes))
        return BranchMessage(word, number, _tensors(shapes, _exactly(connection, body_bytes)))
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
        raise BranchClosed(type(error).__name__) from error


def _tensors(shapes: Mapping[str, tuple[str, list[int]]], body: bytearray) -> dict[str, torch.Tensor]:
    tensors, offset = {}, 0
    for name, (kind, shape) in shapes.items():
        dtype = getattr(torch, kind)
        count = int(torch.Size(shape).numel())
        part = torch.frombuffer(body, dtype=dtype, count=count, offset=offset) if count else torch.empty(0, dtype=dtype)
        tensors[name] = part.view(shape).clone()
        offset += count * dtype.itemsize
    return tensors


def _exactly(connection: socket.socket, count: int) -> bytearray:
    data = bytearray(count)
    view, have = memoryview(data), 0
    while have < count:
        got = connection.recv_into(view[have:])
        if not got:
            raise BranchClosed("it was closed")
        have += got
    return data
