"""Defines the configuration of durable jobs, and of how much each tenant may ask for."""

import base64
import re
from typing import Annotated

from pydantic import AfterValidator, Field

from lego_serve.configuration.models import MIB, Bytes, Name, Strict
from lego_serve.core.durable_jobs.receivers import allowed_entry

EMBEDDED, NO_STORE = "sqlite", "none"
DAY_S = 86_400
SECRET_BYTES = range(24, 65)
Seconds = Annotated[float, Field(gt=0, le=30 * DAY_S)]
Count = Annotated[int, Field(ge=1, le=10**9)]


def _store(store: str) -> str:
    if store in (EMBEDDED, NO_STORE) or store.startswith(("redis://", "rediss://", "unix://")):
        return store
    raise ValueError(f"`{store}` is no store; give `{EMBEDDED}`, `{NO_STORE}` or `redis://HOST:PORT/DATABASE`")


def _objects(url: str) -> str:
    if re.fullmatch(r"(s3|gs|az)://[^/?#]+(/[^?#]*)?", url):
        return url
    raise ValueError(f"`{url}` is no object store; give `s3://BUCKET/PREFIX`, `gs://` or `az://`")


def _secret(text: str) -> str:
    """A secret as Standard Webhooks writes it; complaints must not repeat it."""
    try:
        is_one = text.startswith("whsec_") and len(base64.b64decode(text[6:], validate=True)) in SECRET_BYTES
    except ValueError:
        is_one = False
    if not is_one:
        raise ValueError("a secret is `whsec_` and 24 to 64 random bytes in base64")
    return text


Secret = Annotated[str, AfterValidator(_secret)]


class Webhooks(Strict):
    """Messages to the receivers that tenants name, about jobs that ended."""

    secrets: dict[Name, Annotated[tuple[Secret, ...], Field(min_length=1, max_length=4)]] = Field(
        default={},
        repr=False,
        description="Secrets that sign each tenant's messages, `default` being the tenant of a server without `keys`. "
        "Each is `whsec_` and 24 to 64 random bytes in base64, such as `echo whsec_$(openssl rand -base64 32)` makes. "
        "All of a tenant's sign, so that receivers can change from one to the next. A tenant without any gets 400 for "
        "`webhook`.",
    )
    allowed_hosts: tuple[Annotated[str, AfterValidator(allowed_entry)], ...] = Field(
        default=(),
        description="Hosts that messages go to though their addresses are private: `HOST`, at `ports`, or `HOST:PORT`. "
        "Every tenant can then send there. Others must have public addresses.",
    )
    ports: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = Field(
        default=(80, 443), description="Ports that messages go to."
    )
    timeout_s: Annotated[float, Field(gt=0, le=30)] = Field(
        default=15, description="Seconds that a receiver has to answer in; after that the message is tried again."
    )


class Jobs(Strict):
    """Jobs that outlive the gateway that accepted them, and repeated requests that are answered once."""

    store: Annotated[str, AfterValidator(_store)] = Field(
        default=EMBEDDED,
        description="Where their records are kept: `sqlite`, a database in `folder`; `redis://HOST:PORT/DATABASE` for "
        "gateways on several machines (Redis 6.2 or later, with an append-only file and without eviction); or `none`, "
        "and `/v1/jobs` answers 503.",
    )
    folder: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="Folder for the database, images and checkpoints of jobs, shared by all gateways; with `sqlite` on "
        "a disk of this machine. Without it, `data:jobs/PORT`.",
    )
    objects: Annotated[str, AfterValidator(_objects)] | None = Field(
        default=None,
        description="Where the images of jobs, of links and of ComfyUI's uploads are kept in place of `folder`, so "
        "that gateways on several machines need share none: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or "
        "`az://ACCOUNT/CONTAINER/PREFIX`. Needs `pip install "
        "'lego_serve[objects]'`. Keys, region and endpoint come from the environment, such as `AWS_ACCESS_KEY_ID`, "
        "`AWS_SECRET_ACCESS_KEY`, `AWS_REGION` and `AWS_ENDPOINT_URL`.",
    )
    max_running: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=16,
        description="Durable jobs that each gateway runs at once; the others wait in the store. Tenants take turns "
        "there; a tenant's own are claimed by priority, deadline and age.",
    )
    max_queued: Annotated[int, Field(ge=1)] = Field(
        default=1000,
        description="Durable jobs of one tenant that may wait or run, in all gateways together, above which more get "
        "429.",
    )
    max_stored_bytes: Bytes = Field(
        default=10240 * MIB,
        description="Bytes that the files of one tenant's durable jobs may take, above which it gets 429 for more: the "
        "images of requests until their jobs end, and the images made for `keep_s`.",
    )
    checkpoint_s: Seconds = Field(
        default=10,
        description="Seconds between two stored checkpoints of a running job: what is computed again at most when its "
        "gateway dies. A job that is about to end sooner writes none. They are files in `folder`, or with Redis there, "
        "up to 16 MiB each.",
    )
    lease_s: Annotated[float, Field(ge=1, le=3600)] = Field(
        default=15,
        description="Seconds after which the jobs of a gateway that does not answer go to others. The supervisor gives "
        "those of a gateway that died on at once.",
    )
    queued_s: Seconds = Field(default=DAY_S, description="Seconds that a job waits at most before it expires.")
    keep_s: Seconds = Field(
        default=DAY_S,
        description="Seconds that a job's record, images and idempotency key are kept after its end.",
    )
    linked_images_s: Seconds = Field(
        default=3600,
        description="Seconds that images are kept, where those of jobs are, to which the answer of a request that is "
        "no job holds links.",
    )
    linked_images_bytes: Bytes = Field(
        default=2048 * MIB, description="Bytes that such images may take together, above which the oldest go first."
    )
    webhooks: Webhooks = Field(default=Webhooks(), description="Messages about jobs that ended.")


class TenantLimits(Strict):
    """What a tenant may ask for, all its keys together; beyond it requests get 429 `rate_limit_exceeded`."""

    requests_per_minute: Count | None = Field(
        default=None, description="Requests for images a minute, and as many at once after a minute's rest."
    )
    work_per_minute: Annotated[int, Field(ge=1, le=10**15 - 1)] | None = Field(
        default=None,
        description="Pixel-steps a minute, and as many at once after a minute's rest: pixels of an image, times its "
        "steps, times two where the model is guided away from a negative prompt, for each image.",
    )
    max_in_flight: Count | None = Field(
        default=None,
        description="Requests that may wait for their images at once: with Redis as `jobs.store` in all gateways "
        "together, else in each.",
    )
    max_queued: Count | None = Field(
        default=None,
        description="Durable jobs that have not ended, in all gateways together; `jobs.max_queued` if none.",
    )
    max_stored_bytes: Bytes | None = Field(
        default=None,
        description="Bytes that the files of durable jobs may take, beyond which more jobs get 429 `storage_full`; "
        "`jobs.max_stored_bytes` if none.",
    )

    @property
    def given(self) -> dict[str, int | None]:
        """The keys that the file has."""
        return self.model_dump(include=self.model_fields_set)
