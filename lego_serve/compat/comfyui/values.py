"""Checks the plain values of a node's inputs: numbers, words and names, as leniently as ComfyUI reads them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from lego_serve.compat.comfyui.faults import Fault
from lego_serve.compat.comfyui.nodes import ANY_WORD, CHECKPOINTS, IMAGES, OWN_LISTS, Input
from lego_serve.compat.comfyui.object_info import choices_of
from lego_serve.compat.names import find, near, stem

Value = float | int | str | bool
LISTED = 20  # choices that a message lists at most
FOLDERS = (" [input]", " [output]", " [temp]")


def value_fault(node: str, declared: Input, value: object, lists: Mapping[str, Sequence[str]] | None) -> Value | Fault:
    """Return an input's value in its type, or what is wrong with it."""
    if declared.type == "COMBO":
        return _choice(node, declared, value, lists)
    try:
        converted = _converted(declared.type, value)
    except (TypeError, ValueError, OverflowError) as error:
        message = f"Failed to convert an input value to a {declared.type} value"
        details = f"{declared.name}, {shown(value)}, {error}"
        return Fault(node, "invalid_input_type", details, declared.name, message, {"received_value": shown(value)})
    if isinstance(converted, str):
        return converted
    extra = {"received_value": converted}
    if declared.low is not None and converted < declared.low:
        message = f"Value {converted} smaller than min of {declared.low}"
        return Fault(node, "value_smaller_than_min", declared.name, declared.name, message, extra)
    if declared.high is not None and converted > declared.high:
        message = f"Value {converted} bigger than max of {declared.high}"
        return Fault(node, "value_bigger_than_max", declared.name, declared.name, message, extra)
    return converted


def _converted(kind: str, value: object) -> Value:
    if not isinstance(value, str | int | float):
        raise TypeError(f"{type(value).__name__} is no {kind}")
    if isinstance(value, str) and kind != "STRING" and len(value) > 64:
        raise ValueError("too long for a number")
    if kind == "INT":
        return int(value)
    if kind == "FLOAT":
        number = float(value)
        if not math.isfinite(number):
            raise ValueError("not a finite number")
        return number
    if kind == "BOOLEAN":
        return bool(value)
    text = str(value)
    text.encode()  # an unpaired surrogate is no text: ValueError
    return text


def _choice(node: str, declared: Input, value: object, lists: Mapping[str, Sequence[str]] | None) -> str | Fault:
    received = {"received_value": shown(value)}
    if not isinstance(value, str) or not _is_text(value):
        return Fault(
            node, "value_not_in_list", f"{declared.name}: {shown(value)} is no word", declared.name, "", received
        )
    own = declared.choices if declared.choices in OWN_LISTS else None
    if own in ANY_WORD or (own is not None and lists is None):
        return value
    if own == CHECKPOINTS and not value:
        return value  # clients that were told no model send none: the server's default
    if own == IMAGES:
        return _image(node, declared, value, lists or {})
    choices = choices_of(declared, lists or {})
    found = find(value, choices) if own else value if value in choices else None
    if found is not None:
        return found
    nearest = near(stem(value) if own else value, choices)
    listed = choices[:LISTED]
    details = f"{declared.name}: {shown(value)} not in {listed}" + (f"; did you mean {nearest}?" if nearest else "")
    return Fault(node, "value_not_in_list", details, declared.name, "", received)


def _image(node: str, declared: Input, value: str, lists: Mapping[str, Sequence[str]]) -> str | Fault:
    """Return the name of an upload, without the note of the folder it is in."""
    name = next((value.removesuffix(folder) for folder in FOLDERS if value.endswith(folder)), value)
    if IMAGES not in lists or name in lists[IMAGES]:
        return name
    nearest = near(PurePosixPath(name).name, lists[IMAGES])
    details = f"{declared.name} - Invalid image file: {shown(name)}" + (f"; did you mean {nearest}?" if nearest else "")
    return Fault(node, "custom_validation_failed", details, declared.name)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(value: object) -> str:
    """Return a value as a message shows it: short, and whatever it is."""
    text = ascii(value) if isinstance(value, str | int | float | bool | None) else type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."
