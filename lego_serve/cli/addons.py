"""Adapters and ControlNets as words of the command line: ``NAME[:SCALE]`` and ``NAME:FILE[:WEIGHT]``."""

import base64
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lego_serve.cli.client import text
from lego_serve.errors import LegoError


def lora_entries(words: Sequence[str]) -> list[dict[str, Any]]:
    """The entries of a request's `lora`.  Raises LegoError."""
    return [_lora(word) for word in words]


def controlnet_entries(words: Sequence[str]) -> list[dict[str, Any]]:
    """The entries of a request's `controlnet`, their files read.  Raises LegoError."""
    return [_controlnet(word) for word in words]


def unused_addons(answer: dict[str, Any]) -> list[str]:
    """The names of what was asked for and took part in no step, by a server's answer."""
    used = [*answer.get("adapters", ()), *answer.get("controlnets", ())]
    return [one["name"] for one in used if one.get("steps_active") == 0]


def _lora(word: str) -> dict[str, Any]:
    name, colon, said = text(word).partition(":")
    if not colon:
        return {"name": name}
    if (scale := _number(said)) is None:
        raise LegoError(f"--lora {word}: after the colon comes a scale, which is a number")
    return {"name": name, "scale": scale}


def _controlnet(word: str) -> dict[str, Any]:
    name, _, rest = text(word).partition(":")
    if not rest:
        raise LegoError(f"--controlnet {word}: give NAME:FILE or NAME:FILE:WEIGHT")
    file, weight = Path(rest), None
    before, colon, tail = rest.rpartition(":")
    if colon and not file.exists():  # a file may have a colon in its name
        file, weight = Path(before), _number(tail)
        if weight is None:
            raise LegoError(f"--controlnet {word}: there is no file {rest}, and {tail} is no weight, which is a number")
    try:
        image = base64.b64encode(file.read_bytes()).decode()
    except OSError as error:
        raise LegoError(f"--controlnet {word}: {file} cannot be read: {error.strerror}") from None
    return {"name": name, "image": image} | ({} if weight is None else {"weight": weight})


def _number(said: str) -> float | None:
    """A finite number, or None."""
    try:
        found = float(said)
    except ValueError:
        return None
    return found if math.isfinite(found) else None
