"""Defines the configuration file: its top level, the HTTP side, templates and keys.

Every key has a type, bounds, a default and a description; ``docs/configuration.md`` is generated from them. A
description is plain Markdown and says the unit.
"""

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from lego_serve.configuration.jobs import Jobs, TenantLimits
from lego_serve.configuration.models import MIB, Bytes, Model, Name, Strict
from lego_serve.configuration.server import Server, is_loopback
from lego_serve.configuration.workers import Budget, Workers


class Key(Strict):
    """An API key, by its SHA-256."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(
        description="SHA-256 of the key: 64 hexadecimal digits in small letters. Quote it."
    )
    tenant: Name = Field(description="Whose key it is: 1 to 64 letters `a-z`, digits, `_` and `-`.")
    scope: Literal["user", "admin"] = Field(default="user", description="`admin` may use `/v1/admin` too.")
    weight: Annotated[float, Field(gt=0, le=1000)] = Field(
        default=1.0,
        description="The tenant's share of the work beside other tenants that have any, and of the places of a "
        "gateway: a tenant of weight 2 gets twice as much as one of weight 1. Between keys of one tenant, with "
        "`least_slack`, each doubling puts lanes 10 s of slack ahead.",
    )


class Templates(Strict):
    """Images registered for many edits: where they are kept, and how much of each tenant."""

    folder: str | None = Field(
        default=None,
        description="Where they are kept, relative to the configuration's folder. To outlive the server it must be on "
        "a disk that all gateways share. Without it, a folder in the server's temporary one, which outlives the "
        "gateways.",
    )
    per_tenant: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=256, description="Number of templates that a tenant may have."
    )
    tenant_bytes: Bytes = Field(
        default=256 * MIB, description="Bytes that the images of a tenant may take, as PNG files."
    )
    tenant_pinned_bytes: Bytes | Literal["fair"] = Field(
        default="fair",
        description="Bytes of activations that a tenant's pinned templates may take on each replica of a model, of "
        "the half of `template_bytes` that can be pinned. `fair` is an equal part for each tenant among `keys`, and "
        "all of it without keys. Give a number where many have keys and few pin.",
    )


def _some(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("names no workflow; leave the key out to serve every built-in one the models allow")
    return names


def _targets(targets: dict[str, float]) -> dict[str, float]:
    for name, seconds in targets.items():
        if not 0 < seconds < math.inf:
            raise ValueError(f"{name}: a target is more than 0 seconds")
    return targets


class Settings(Strict):
    """Everything a configuration file may say."""

    server: Server = Field(default=Server(), description="The HTTP side.")
    models: Annotated[dict[str, Model], Field(min_length=1)] = Field(description="Models by name.")
    workers: Workers = Field(default=Workers(), description="Workers that share all nodes of `placement: shared`.")
    budget: Budget = Field(default=Budget(), description="What all replicas may reserve together.")
    workflows: Annotated[tuple[str, ...], AfterValidator(_some)] | None = Field(
        default=None,
        description="What is served: names of built-in workflows, or files relative to the configuration's folder. "
        "Without it, every built-in workflow whose models are there.",
    )
    default_workflow: str | None = Field(
        default=None,
        description="What a request without `model` gets: a workflow that is served. Without it, the first by name, "
        "text to image before others.",
    )
    aliases: dict[Annotated[str, Field(min_length=1, max_length=256)], str] = Field(
        default={},
        description="Further names for workflows that are served, such as `gpt-image-1: lego-tiny`, for clients that "
        "choose among names of their own.",
    )
    slo_s: Annotated[dict[str, float], AfterValidator(_targets)] = Field(
        default={},
        description="Seconds, more than 0, within which requests should be answered, by workflow, such as "
        "`lego-tiny: 5`, in place of a workflow's own `slo_s`. The [dashboard](dashboard.md) judges by it what has no "
        "`deadline_ms`.",
    )
    jobs: Jobs = Field(default=Jobs(), description="Jobs that outlive the gateway that accepted them.")
    compat: tuple[Literal["a1111", "comfyui"], ...] = Field(
        default=(),
        description="Foreign protocols that are served besides OpenAI's: `a1111` is AUTOMATIC1111's, `comfyui` is "
        "ComfyUI's. See [compatibility](compatibility.md).",
    )
    templates: Templates = Field(default=Templates(), description="Images registered for many edits.")
    keys: tuple[Key, ...] = Field(
        default=(), description="Who may use the server. Without keys everybody may, as admin."
    )
    keys_file: str | None = Field(
        default=None,
        description="A YAML file with more `keys`, relative to the configuration's folder, such as a mounted Secret. "
        "Gateways read it again within seconds of a change; one that cannot be read or has no keys changes nothing.",
    )
    tenant_limits: TenantLimits = Field(
        default=TenantLimits(), description="What each tenant may ask for; nothing is limited by default."
    )
    tenants: dict[Name, TenantLimits] = Field(
        default={},
        description="Limits of single tenants by name: a key that is given replaces that of `tenant_limits`, and "
        "`null` lifts it. Without `keys` there is one tenant, `default`.",
    )

    @model_validator(mode="after")
    def _one_device_for_shared(self) -> "Settings":
        nodes = [(name, model.device, node) for name, model in self.models.items() for node in model.nodes.all]
        devices = {device: name for name, device, node in nodes if node.placement == "shared"}
        if len(devices) > 1:
            named = ", ".join(f"{name} on {device}" for device, name in sorted(devices.items()))
            raise ValueError(f"shared nodes run on the same workers and so on one device: {named}")
        return self

    @model_validator(mode="after")
    def _known_tenants(self) -> "Settings":
        known = {key.tenant for key in self.keys} or {"default"}
        for name in self.tenants:
            if name not in known and self.keys_file is None:
                raise ValueError(f"`tenants`: no key is of tenant `{name}`")
        return self

    @model_validator(mode="after")
    def _loopback_without_keys(self) -> "Settings":
        has_keys = bool(self.keys) or self.keys_file is not None
        if not has_keys and not is_loopback(self.server.host):
            raise ValueError(f"server.host {self.server.host} is open to others; give `keys`, or bind to 127.0.0.1")
        if not has_keys and "*" in self.server.cors_origins:
            raise ValueError("server.cors_origins `*` makes every web page an admin; give `keys`, or name the origins")
        return self


class KeyFile(Strict):
    """A file of keys."""

    keys: Annotated[tuple[Key, ...], Field(min_length=1)] = Field(description="Who may use the server.")
