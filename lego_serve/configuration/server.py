"""Defines the configuration of the HTTP side: where it listens, what a connection may send, and whom it answers."""

import re
from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from lego_serve.configuration.models import MIB, Name, Strict


def _host(host: str) -> str:
    """A name, or an address that is one; nothing that only looks like an address."""
    if not host or ":" in host or re.fullmatch(r"[\d.]+", host):
        try:
            ip_address(host)
        except ValueError:
            raise ValueError(f"`{host}` is no address") from None
    return host


Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Limits(Strict):
    """What a connection may send before it is known whose it is, and how long it may take."""

    head_bytes: Annotated[int, Field(ge=1024, le=2**18)] = Field(
        default=32 * 1024, description="Bytes of a request's line and headers, above which it gets 431."
    )
    headers: Annotated[int, Field(ge=8, le=10_000)] = Field(
        default=100, description="Number of a request's headers, above which it gets 431."
    )
    target_bytes: Annotated[int, Field(ge=256, le=2**18)] = Field(
        default=8 * 1024, description="Bytes of a request's target (path and query), above which it gets 414."
    )
    head_timeout_s: Seconds = Field(
        default=30, description="Seconds in which a request's head must be there, above which it gets 408."
    )
    body_timeout_s: Seconds = Field(
        default=30,
        description="Seconds that a request's body may fall behind `body_bytes_per_s`, above which it gets 408; what "
        "comes faster makes up for lost seconds and earns no more.",
    )
    body_bytes_per_s: Annotated[int, Field(ge=1)] = Field(
        default=16 * 1024, description="Bytes per second that a long body must come at."
    )
    keep_alive_s: Seconds = Field(
        default=120,
        description="Seconds that a connection is kept between two requests. Longer than in whatever proxy is before "
        "the server, or the proxy sends requests into closed connections and answers 502.",
    )
    write_timeout_s: Seconds = Field(
        default=60,
        description="Seconds that the reading of an answer may fall behind `write_bytes_per_s`, above which the client "
        "is closed; what is read faster makes up for lost seconds and earns no more.",
    )
    write_bytes_per_s: Annotated[int, Field(ge=1)] = Field(
        default=16 * 1024,
        description="Bytes per second that a long answer must be read at. A stream that waits for its next event owes "
        "nothing.",
    )
    connections_per_address: Annotated[int, Field(ge=1)] = Field(
        default=1024,
        description="Connections that each gateway keeps with one client address; one more gets 429. A proxy before "
        "the server is one address.",
    )


def _origin(origin: str) -> str:
    if origin != "*" and not re.fullmatch(r"https?://[a-z0-9.-]+(:\d+)?|https?://\[[0-9a-f:]+\](:\d+)?", origin):
        raise ValueError(f"`{origin}` is no origin, such as `https://app.example` or `http://localhost:3000`")
    return origin


def _host_name(name: str) -> str:
    try:
        is_name = bool(re.fullmatch(r"[A-Za-z0-9._-]+", name)) or bool(ip_address(name))
    except ValueError:
        is_name = False
    if not is_name:
        raise ValueError(f"`{name}` is no name of a host; give it without scheme and port")
    return name.lower()


def _public_url(url: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", url):
        raise ValueError(f"`{url}` is no address, such as `https://images.example`")
    return url.rstrip("/")


class Server(Strict):
    """The HTTP side."""

    host: Annotated[str, AfterValidator(_host)] = Field(
        default="127.0.0.1", description="Address or name to listen on. Anything but loopback needs `keys`."
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(default=8000, description="Port; 0 picks a free one.")
    gateways: Annotated[int, Field(ge=1, le=64)] = Field(default=1, description="Number of gateway processes.")
    max_pending_jobs: Annotated[int, Field(ge=1)] = Field(
        default=256,
        description="Jobs in flight in each gateway, above which requests get 429. Where `keys` are several tenants', "
        "each may hold at most eight jobs for each place that is free, so that none can hold all.",
    )
    max_pending_images: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto",
        description="Images of the jobs in flight in each gateway, above which requests get 429; a job of `n: 8` is "
        "eight. `auto` is twice `max_pending_jobs`. A larger job runs where nothing else is in flight.",
    )
    default_deadline_ms: Annotated[int, Field(ge=1)] = Field(
        default=600_000,
        description="Milliseconds after which a job without `deadline_ms` ends with 504. It changes no order; paused "
        "jobs and those that warm a template have it too.",
    )
    max_deadline_ms: Annotated[int, Field(ge=1)] = Field(
        default=3_600_000,
        description="Milliseconds after which any job ends with 504, also one with a longer `deadline_ms`. Not less "
        "than `default_deadline_ms`.",
    )
    quality_check_fraction: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.02,
        description="Fraction of the time that may go into computing answered edits again in full and comparing them; "
        "0 is none.",
    )
    max_body_bytes: Annotated[int, Field(ge=1024)] = Field(
        default=50 * MIB, description="Bytes of a request's body, above which it gets 413."
    )
    drain_timeout_s: Annotated[float, Field(ge=0, le=3600)] = Field(
        default=20, description="Seconds that requests have to end in after SIGTERM; those left get 503."
    )
    allowed_hosts: tuple[Annotated[str, AfterValidator(_host_name)], ...] = Field(
        default=(),
        description="Names by which the server is called, without ports; a request for another one gets 421. Without "
        "them, names of loopback where there are no `keys`, and any name where there are.",
    )
    cors_origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = Field(
        default=(),
        description="Origins of web pages that may use the server, such as `https://app.example`. `*` is all of them, "
        "and needs `keys`.",
    )
    public_url: Annotated[str, AfterValidator(_public_url)] | None = Field(
        default=None,
        description="Address by which clients reach the server, such as `https://images.example`, for links in "
        "answers. Without it links begin with the address that was asked on loopback, and are paths elsewhere.",
    )
    default_response_format: Literal["b64_json", "url"] = Field(
        default="b64_json",
        description="What answers without `response_format` hold: images, or links to them. Links need `public_url`, "
        "unless the server listens on loopback.",
    )
    access_log: bool = Field(
        default=True, description="Whether the log has a line for each request. Actions of operators always have one."
    )
    log_prompts: bool = Field(
        default=False, description="Whether the lines of requests for images have their prompts, which may be private."
    )
    traces: bool = Field(
        default=False, description="Whether traces go out by OTLP, as the environment's `OTEL_*` variables say."
    )
    limits: Limits = Field(default=Limits(), description="What a connection may send, and how long it may take.")
    max_image_pixels: Annotated[int, Field(ge=4096, le=89_000_000)] = Field(
        default=52_000_000,
        description="Pixels of an uploaded image, above which it is refused. One of more than 16,000,000 is "
        "scaled down; decoding takes up to 13 bytes a pixel in each gateway.",
    )
    data: Annotated[str, Field(min_length=1)] = Field(
        default="~/.local/share/lego_serve",
        description="Folder for what outlives the server; a path that begins with `data:` leads into it. Give each "
        "server its own.",
    )
    ray_address: str | None = Field(
        default=None, description="An existing Ray to join (`HOST:6379`). Without it the server starts a private one."
    )
    name: Name | None = Field(
        default=None,
        description="What the names of this server's applications begin with on a Ray that several servers share. "
        "Without it they have no such part, but for `lego-serve serve` with `ray_address`: there it is made of the "
        "machine's name and the file's path.",
    )
    operations_port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        default=None,
        description="A second port for health, metrics and `/v1/admin`, on the same `host`. With it `port` answers "
        "neither metrics nor `/v1/admin`, and a gateway that waits for Ray opens it at once, `port` when it is ready.",
    )
    peers: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+:[0-9]{1,5}$")] | None = Field(
        default=None,
        description="`NAME:PORT` at which gateways on all machines are found, such as a headless Service: every "
        "address of the name is one machine's, and the port is their `operations_port`. Routes about jobs ask them.",
        examples=["lego-gateway-peers:8001"],
    )

    @model_validator(mode="after")
    def _links_lead_somewhere(self) -> "Server":
        if self.default_response_format == "url" and self.public_url is None and not is_loopback(self.host):
            raise ValueError("default_response_format `url` needs public_url, which links begin with")
        return self

    @model_validator(mode="after")
    def _two_ports(self) -> "Server":
        if self.operations_port == self.port:
            raise ValueError(f"operations_port is the same as port ({self.port})")
        return self

    @model_validator(mode="after")
    def _ordered_deadlines(self) -> "Server":
        if self.max_deadline_ms < self.default_deadline_ms:
            raise ValueError(
                f"max_deadline_ms ({self.max_deadline_ms}) is less than default_deadline_ms "
                f"({self.default_deadline_ms})"
            )
        return self


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
