"""The configuration file: read once, at the root; a wrong key is one line that names the nearest right one."""

import os
import re
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from lego_serve.core.suggest import closest
from lego_serve.errors import ConfigError
from lego_serve.models.registry import families
from lego_serve.yaml_reader import YamlReader

ALTERNATIVE = re.compile(r"^constrained-|^literal\[|^function-|^(int|float)$")  # pydantic's names of them
RENAMED = {  # keys of earlier versions, and what says the same now
    "order": "lane_policy",
    "fidelity": "batch_invariant: true (strict) or false (fast)",
    "edit_check_share": "quality_check_fraction",
    "bytes_s": "bytes_per_s",
}
AddonName = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]


class Strict(BaseModel):
    """Frozen, and closed to keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Replicas(Strict):
    """Autoscaling bounds of a node."""

    min: Annotated[int, Field(ge=1, le=1000)] = 1
    max: Annotated[int, Field(ge=1, le=1000)] = 1

    @model_validator(mode="after")
    def _ordered(self) -> "Replicas":
        if self.max < self.min:
            raise ValueError(f"max ({self.max}) is less than min ({self.min})")
        return self


class Node(Strict):
    """How one component of a model is deployed."""

    replicas: Replicas = Replicas()
    cpus: Annotated[float, Field(ge=0)] = 0.5
    gpus: Annotated[float, Field(ge=0)] = 0
    max_batch: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = "auto"


class TextEncoderNode(Node):
    """The text encoder also keeps what it encoded."""

    cache_bytes: Annotated[int, Field(ge=0)] = 64 * 2**20


class BackboneNode(Node):
    """The backbone orders its lanes and bounds a step by its predicted seconds, and by rows where memory does."""

    lane_policy: Literal["fifo", "least_slack", "shortest_remaining"] = "least_slack"
    max_step_s: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    max_rows: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    checkpoint_every_steps: Annotated[int, Field(ge=1, le=1000)] = 5
    batch_invariant: bool = True
    bucket_rows: Annotated[int, Field(ge=1, le=4096)] = 1
    template_bytes: Annotated[int, Field(ge=0)] = 256 * 2**20
    template_coding: Literal["float32", "bfloat16", "int8"] = "int8"


class SideNode(Strict):
    """How the LoRA node, or a remote ControlNet, is deployed."""

    replicas: Replicas = Replicas()
    cpus: Annotated[float, Field(ge=0)] = 0.05
    gpus: Annotated[float, Field(ge=0)] = 0


class Nodes(Strict):
    """The nodes of a model."""

    text_encoder: TextEncoderNode = TextEncoderNode()
    backbone: BackboneNode = BackboneNode()
    vae: Node = Node()


class Adapters(Strict):
    """The adapters (LoRA) of a model: where they lie, what is kept of them, and how they are applied."""

    roots: Annotated[tuple[str, ...], Field(min_length=1)]
    cache_bytes: Annotated[int, Field(ge=0)] = 256 * 2**20
    replica_cache_bytes: Annotated[int, Field(ge=0)] = 128 * 2**20
    mode: Literal["auto", "grouped", "patched"] = "auto"
    early_start: bool = False
    profiles: str | None = None
    storage_s: Annotated[float, Field(ge=0, le=60)] = 0
    registry: str | None = None
    registry_limit: Annotated[int, Field(ge=0, le=100_000)] = 256
    cpus: Annotated[float, Field(ge=0)] = 0.05


class Link(Strict):
    """The way between replicas, for the choice of a ControlNet's placement."""

    bytes_per_s: Annotated[float, Field(gt=0)]
    latency_s: Annotated[float, Field(ge=0)]


class ControlNet(Strict):
    """A ControlNet of a model: where it lies and where it runs."""

    path: str
    placement: Literal["auto", "colocated", "remote"] = "auto"
    link: Link | None = None
    stream_blocks: bool | Literal["auto"] = "auto"
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 120
    storage_s: Annotated[float, Field(ge=0, le=60)] = 0
    node: SideNode = SideNode()


def _family(name: str) -> str:
    if name not in families():
        raise ValueError(f"no such family; there is {', '.join(families())}")
    return name


class Model(Strict):
    """A checkpoint in diffusers' format: a folder, a hub id, or ``builtin:NAME``."""

    path: str
    family: Annotated[str, AfterValidator(_family)] = "sd3"
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")] = "cpu"
    max_sequence_length: Annotated[int, Field(ge=0, le=512)] = 256
    fetch: bool = False
    nodes: Nodes = Nodes()
    adapters: Adapters | None = None
    controlnets: dict[AddonName, ControlNet] = {}
    controlnet_cache_bytes: Annotated[int, Field(ge=0)] | None = None


class Key(Strict):
    """An API key, by its SHA-256."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    tenant: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]
    scope: Literal["user", "admin"] = "user"
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0


def _host(host: str) -> str:
    """A name, or an address that is one; nothing that only looks like an address."""
    if not host or ":" in host or re.fullmatch(r"[\d.]+", host):
        try:
            ip_address(host)
        except ValueError:
            raise ValueError(f"`{host}` is no address") from None
    return host


class Server(Strict):
    """The HTTP side."""

    host: Annotated[str, AfterValidator(_host)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    gateways: Annotated[int, Field(ge=1, le=64)] = 1
    max_pending_jobs: Annotated[int, Field(ge=1)] = 256
    quality_check_fraction: Annotated[float, Field(ge=0, le=1)] = 0.02
    max_body_bytes: Annotated[int, Field(ge=1024)] = 50 * 2**20
    data: Annotated[str, Field(min_length=1)] = "~/.local/share/lego_serve"
    ray_address: str | None = None


class Templates(Strict):
    """Images registered for many edits: where they are kept, and how much of each tenant."""

    folder: str | None = None
    per_tenant: Annotated[int, Field(ge=0, le=100_000)] = 256
    tenant_bytes: Annotated[int, Field(ge=0)] = 256 * 2**20
    tenant_pinned_bytes: Annotated[int, Field(ge=0)] | Literal["fair"] = "fair"


def _some(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("names no workflow; leave the key out to serve every built-in one the models allow")
    return names


class Settings(Strict):
    """Everything a configuration file may say."""

    server: Server = Server()
    models: Annotated[dict[str, Model], Field(min_length=1)]
    workflows: Annotated[tuple[str, ...], AfterValidator(_some)] | None = None
    default_workflow: str | None = None
    templates: Templates = Templates()
    keys: tuple[Key, ...] = ()

    @model_validator(mode="after")
    def _loopback_without_keys(self) -> "Settings":
        if not self.keys and not _is_loopback(self.server.host):
            raise ValueError(f"server.host {self.server.host} is open to others; give `keys`, or bind to 127.0.0.1")
        return self


def load(path: Path) -> Settings:
    """Read a configuration file.  Raises ConfigError, one line."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    reader = YamlReader(str(path), "configuration", ConfigError)
    try:
        return Settings.model_validate(reader.read(text))
    except ValidationError as error:
        raise ConfigError(_one_line(error, reader.where)) from None


def default_config() -> Path:
    """configs/tiny.yaml beside the package, or the copy inside it."""
    beside = Path(__file__).parent.parent / "configs" / "tiny.yaml"
    return beside if beside.exists() else Path(__file__).parent / "tiny.yaml"


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0))


def _one_line(error: ValidationError, where: Callable[[tuple[str, ...]], str]) -> str:
    """The complaint that helps most: a key that is nearly a known one, for it is often why another is missing."""
    complaints = error.errors()
    first = next((c for c in complaints if c["type"] == "extra_forbidden" and _hint(_place(c))), complaints[0])
    place = _place(first)
    name = ".".join(place)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        hint = _hint(place) or f"known keys: {', '.join(_keys_at(place[:-1]))}"
        message = f"unknown key `{name}`; {hint}"
    elif first["type"] == "missing":
        message = f"key `{name}` is missing"
    elif place:
        message = f"`{name}`: {message}"
    return f"{where(tuple(place))}: {message}"


def _place(complaint: Any) -> list[str]:
    """Where in the file; the alternative of a union that was tried last is no part of it."""
    place = [str(part) for part in complaint["loc"]]
    if complaint["type"] != "extra_forbidden" and place and ALTERNATIVE.search(place[-1]):
        place.pop()
    return place


def _hint(place: list[str]) -> str | None:
    """What an unknown key was to be: its new name where it was renamed, or else the nearest known one."""
    known = _keys_at(place[:-1])
    new = RENAMED.get(place[-1])
    if new is not None and new.partition(":")[0] in known:
        return f"it is now `{new}`"
    near = closest(place[-1], known)
    return f"did you mean `{near}`?" if near else None


def _keys_at(place: list[str]) -> list[str]:
    """The keys the schema knows at a place in the file; below a mapping or a list, those of its items."""
    schema: Any = Settings
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


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
