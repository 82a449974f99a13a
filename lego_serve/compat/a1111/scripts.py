"""What ``alwayson_scripts`` asks for: ControlNet's units, and that no other extension is at work."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lego_serve.compat.a1111.fields import UNIT_HARMLESS, is_harmless
from lego_serve.compat.task import MAX_SCALE, ControlNet, InputImage, Refused

CONTROLNET = "controlnet"
SWITCHES = ("enabled", "enable", "is_enabled", "ad_tab_enable")
NONE = ("", "none")


class Unit(BaseModel):
    """A unit of the ControlNet extension; what its other fields may be is said in `fields`."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    enabled: bool | None = None
    image: str | dict[str, Any] | None = None
    input_image: str | None = None
    model: str | None = None
    weight: Annotated[float, Field(ge=-MAX_SCALE, le=MAX_SCALE)] | None = None
    guidance_start: Annotated[float, Field(ge=0, le=1)] | None = None
    guidance_end: Annotated[float, Field(ge=0, le=1)] | None = None


def read_controlnets(scripts: Mapping[str, object] | None) -> tuple[ControlNet, ...]:
    """Return the ControlNets of `alwayson_scripts`.  Raises Refused, also for another extension that is switched on."""
    nets: list[ControlNet] = []
    for name, script in (scripts or {}).items():
        field = f"alwayson_scripts.{name[:64]}"
        arguments = script.get("args", []) if isinstance(script, Mapping) else script
        if isinstance(arguments, Mapping):
            arguments = list(arguments.values())
        if not isinstance(arguments, list):
            raise Refused(f"`{field}` must be an object with a list `args`", field)
        if name.casefold() == CONTROLNET:
            units = ((f"{field}.args[{index}]", unit) for index, unit in enumerate(arguments))
            nets += [net for place, unit in units if (net := _net(place, unit)) is not None]
        elif not is_off(arguments):
            raise Refused(f"this server has no extension {name[:64]!r}; leave `{field}` out, or switch it off", field)
    return tuple(nets)


def is_off(arguments: list[object]) -> bool:
    """Whether the arguments of an extension switch it off: its first switch is off, or all its parts are."""
    parts = [part for part in arguments if isinstance(part, Mapping)]
    if parts and not [part for part in arguments if part is True]:
        return all(any(part.get(switch) is False for switch in SWITCHES) for part in parts)
    switch = next((argument for argument in arguments if isinstance(argument, bool)), None)
    return switch is False or all(argument is None for argument in arguments)


def _net(place: str, raw: object) -> ControlNet | None:
    """Return the ControlNet of a unit; None for one that is off."""
    if raw is None or raw is False:
        return None
    if not isinstance(raw, Mapping):
        raise Refused(f"`{place}` must be an object, the fields of a unit by name", place)
    try:
        unit = Unit.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        field = ".".join((place, *(str(part) for part in first["loc"])))
        raise Refused(f"`{field}`: {first['msg']}", field) from None
    if unit.enabled is False:
        return None
    wrong = [name for name in UNIT_HARMLESS if name in raw and not is_harmless(name, raw[name], UNIT_HARMLESS)]
    if wrong:
        fine = UNIT_HARMLESS[wrong[0]][0]
        reads = f"`{place}.{wrong[0]}` is not supported by this server; send {fine!r}, and the image ready for use"
        raise Refused(reads, f"{place}.{wrong[0]}")
    if unit.model is None or unit.model.strip().casefold() in NONE:
        raise Refused(f"`{place}` names no `model`", f"{place}.model")
    start, end = unit.guidance_start or 0.0, 1.0 if unit.guidance_end is None else unit.guidance_end
    if start >= end:
        raise Refused(f"`{place}`: guidance_start {start} must be below guidance_end {end}", f"{place}.guidance_start")
    weight = 1.0 if unit.weight is None else unit.weight
    return ControlNet(unit.model, _image(place, unit), weight, start, end)


def _image(place: str, unit: Unit) -> InputImage:
    image = unit.image or unit.input_image
    if isinstance(image, dict):
        if image.get("mask"):
            raise Refused(f"`{place}.image.mask` is not supported by this server", f"{place}.image")
        image = image.get("image")
    if not isinstance(image, str) or not image:
        raise Refused(f"`{place}` needs an `image`", f"{place}.image")
    return base64_image(image)


def base64_image(text: str) -> InputImage:
    """Return the image of a text in base64, with or without ``data:image/...;base64,`` before it."""
    return InputImage("base64", text.split(",", 1)[1] if text.startswith("data:") and "," in text[:64] else text)
