"""Defines the configuration of durable jobs, and of how much each tenant may ask for."""

from typing import Annotated

from pydantic import AfterValidator, Field

from lego_serve.config_models import Strict

EMBEDDED, NO_STORE = "sqlite", "none"
DAY_S = 86_400
Seconds = Annotated[float, Field(gt=0, le=30 * DAY_S)]
Count = Annotated[int, Field(ge=1, le=10**9)]


def _store(store: str) -> str:
    if store in (EMBEDDED, NO_STORE) or store.startswith(("redis://", "rediss://", "unix://")):
        return store
    raise ValueError(f"`{store}` is no store; give `{EMBEDDED}`, `{NO_STORE}` or `redis://HOST:PORT/DATABASE`")


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
    max_running: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=16,
        description="Durable jobs that each gateway runs at once; the others wait in the store, where the order is "
        "priority, deadline, age.",
    )
    max_queued: Annotated[int, Field(ge=1)] = Field(
        default=1000,
        description="Durable jobs of one tenant that may wait or run, in all gateways together, above which more get "
        "429.",
    )
    checkpoint_s: Seconds = Field(
        default=10,
        description="Seconds between two checkpoints of a running job on the disk: what is computed again at most when "
        "its gateway dies. A job that is about to end sooner writes none.",
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


class TenantLimits(Strict):
    """What a tenant may ask for, all its keys together; beyond it requests get 429 `rate_limit_exceeded`."""

    requests_per_minute: Count | None = Field(
        default=None, description="Requests for images a minute, and as many at once after a minute's rest."
    )
    work_per_minute: Annotated[int, Field(ge=1, le=10**15)] | None = Field(
        default=None,
        description="Pixel-steps a minute, and as many at once after a minute's rest: pixels of an image, times its "
        "steps, times two where the model is guided away from a negative prompt, for each image.",
    )
    max_in_flight: Count | None = Field(
        default=None, description="Requests that may wait for their images at once, in each gateway."
    )
    max_queued: Count | None = Field(
        default=None,
        description="Durable jobs that have not ended, in all gateways together; `jobs.max_queued` if none.",
    )

    @property
    def given(self) -> dict[str, int | None]:
        """The keys that the file has."""
        return self.model_dump(include=self.model_fields_set)
