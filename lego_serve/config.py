"""Reads the configuration file, once and at the root; a wrong key is one line that names the nearest right one."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from lego_serve.configuration import schema as top_level
from lego_serve.configuration.jobs import Jobs, TenantLimits, Webhooks
from lego_serve.configuration.models import (
    Adapters,
    BackboneNode,
    ControlNet,
    Link,
    Model,
    Node,
    Nodes,
    Replicas,
    SideNode,
    Strict,
    TextEncoderNode,
)
from lego_serve.configuration.schema import Key, Settings, Templates
from lego_serve.configuration.server import Server
from lego_serve.core.suggest import closest
from lego_serve.errors import ConfigError
from lego_serve.yaml_reader import YamlReader

__all__ = [
    "Adapters",
    "BackboneNode",
    "ControlNet",
    "Jobs",
    "Key",
    "Link",
    "Model",
    "Node",
    "Nodes",
    "Replicas",
    "Server",
    "Settings",
    "SideNode",
    "Strict",
    "Templates",
    "TenantLimits",
    "TextEncoderNode",
    "Webhooks",
    "cores",
    "default_config",
    "keys_file",
    "load",
]

ALTERNATIVE = re.compile(r"^constrained-|^literal\[|^function-|^(int|float)$")  # pydantic's names for parts of a union
RENAMED = {  # keys of earlier versions, and what says the same now
    "order": "lane_policy",
    "fidelity": "batch_invariant: true (strict) or false (fast)",
    "edit_check_share": "quality_check_fraction",
    "bytes_s": "bytes_per_s",
}
REMOVED = {"storage_s"}  # keys of earlier versions that nothing replaces
Section = TypeVar("Section", bound=BaseModel)


def load(path: Path, *, has_keys_file: bool = True) -> Settings:
    """Read a configuration file, and the file of keys that it names.  Raises ConfigError, one line.

    ``has_keys_file``: whether this machine is to have that file; only gateways need it.
    """
    settings = _read(path, Settings)
    if settings.keys_file is None or not has_keys_file:
        return settings
    more = _read(keys_file(settings, path), top_level.KeyFile).keys
    return settings.model_copy(update={"keys": (*settings.keys, *more)})


def keys_file(settings: Settings, path: Path) -> Path:
    """Where the file of keys lies that the configuration at ``path`` names."""
    assert settings.keys_file is not None
    return path.parent / Path(settings.keys_file).expanduser()


def _read(path: Path, schema: type[Section]) -> Section:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    reader = YamlReader(str(path), "configuration", ConfigError)
    try:
        return schema.model_validate(reader.read(text))
    except ValidationError as error:
        raise ConfigError(_one_line(error, reader.where, schema)) from None


def default_config() -> Path:
    """The file inside the package; ``configs/tiny.yaml`` of a checkout is a copy of it."""
    return Path(__file__).parent / "tiny.yaml"


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0))


def _one_line(error: ValidationError, where: Callable[[tuple[str, ...]], str], schema: type[BaseModel]) -> str:
    """The most useful complaint as one line: a misspelt key first, for it is often why another is missing."""
    complaints = error.errors()
    first = next((c for c in complaints if c["type"] == "extra_forbidden" and _hint(_place(c), schema)), complaints[0])
    place = _place(first)
    name = ".".join(place)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        hint = _hint(place, schema) or f"known keys: {', '.join(_keys_at(place[:-1], schema))}"
        message = f"unknown key `{name}`; {hint}"
    elif first["type"] == "missing":
        message = f"key `{name}` is missing"
    elif place:
        message = f"`{name}`: {message}"
    return f"{where(tuple(place))}: {message}"


def _place(complaint: Any) -> list[str]:
    """The place in the file, without the alternative of a union that pydantic tried last."""
    place = [str(part) for part in complaint["loc"]]
    if complaint["type"] != "extra_forbidden" and place and ALTERNATIVE.search(place[-1]):
        place.pop()
    return place


def _hint(place: list[str], schema: type[BaseModel]) -> str | None:
    """What to write instead of an unknown key: its new name if it was renamed, or else the nearest known one."""
    if place[-1] in REMOVED:
        return "it is no longer a setting"
    known = _keys_at(place[:-1], schema)
    new = RENAMED.get(place[-1])
    if new is not None and new.partition(":")[0] in known:
        return f"it is now `{new}`"
    near = closest(place[-1], known)
    return f"did you mean `{near}`?" if near else None


def _keys_at(place: list[str], schema: Any) -> list[str]:
    """The keys that the schema knows at a place in the file; below a mapping or a list, those of its items."""
    for part in place:
        if get_origin(schema) in (dict, tuple):
            schema = next(a for a in reversed(get_args(schema)) if a is not Ellipsis)
        else:
            schema = schema.model_fields[part].annotation
        if not _is_model(schema) and get_origin(schema) not in (dict, tuple):  # a section that may be left out
            schema = next((a for a in get_args(schema) if _is_model(a)), schema)
    return list(schema.model_fields) if _is_model(schema) else []


def _is_model(schema: Any) -> bool:
    return isinstance(schema, type) and issubclass(schema, BaseModel)
