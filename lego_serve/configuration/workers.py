"""Defines the keys of the workers that share all nodes of `placement: shared`, and of the budget of all replicas."""

from typing import Annotated

from pydantic import Field

from lego_serve.configuration.models import MIB, Amount, Bytes, Placed, Replicas, Strict

Budgeted = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Workers(Placed):
    """Workers that share their memory among all nodes of `placement: shared`: they load, keep and evict them."""

    replicas: Replicas = Field(default=Replicas(), description="How many workers run: on GPUs, one for each.")
    max_bytes: Bytes = Field(
        default=2 * 1024 * MIB,
        description="Bytes of weights that each worker keeps. Beyond it the models go whose expected benefit a byte is "
        "least; none that is in use, or that an admitted request needs next.",
    )
    host_bytes: Bytes | None = Field(
        default=None,
        description="Bytes of host memory, pinned and to be counted in `memory_bytes`, in which each worker keeps the "
        "weights of models that were evicted from its GPU: those used last, moved back without reading their files. "
        "Without it, as many as `max_bytes`; 0 keeps none. On the CPU nothing is kept: models are in that memory.",
    )
    preload: bool = Field(
        default=True,
        description="Whether a worker loads, at its start, the models of the first workflows as far as they fit. "
        "Others are loaded by the first request for them.",
    )
    cpus: Amount = Field(default=0.5, description="Processors that a worker reserves, in fractions.")
    gpus: Amount = Field(default=0, description="GPUs that a worker reserves, in fractions.")


class Budget(Strict):
    """What all replicas and workers may reserve together; where it is used up, one grows once another has shrunk."""

    gpus: Budgeted | None = Field(
        default=None,
        description="GPUs of all replicas that have any, in fractions; where machines are added when they are needed, "
        "those that there may be. Without it only each `max` bounds them.",
    )
    cpus: Budgeted | None = Field(
        default=None, description="Processors of all replicas without a GPU, in fractions. Without it, likewise."
    )
