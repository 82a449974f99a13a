"""Defines the keys of a model: its checkpoint, its nodes, its adapters and its ControlNets."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from lego_serve.models.registry import families

MIB = 2**20
Name = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]
Bytes = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
ReplicaCount = Annotated[int, Field(ge=1, le=1000)]


class Strict(BaseModel):
    """A section: frozen, and closed to keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Replicas(Strict):
    """How many copies of a node run."""

    min: ReplicaCount = Field(default=1, description="Number of replicas at the start, and at least.")
    max: ReplicaCount = Field(
        default=1,
        description="Number of replicas at most, not less than `min`. One for each eight calls in flight.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> "Replicas":
        if self.max < self.min:
            raise ValueError(f"max ({self.max}) is less than min ({self.min})")
        return self


LABEL = r"[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
LabelKey = Annotated[str, Field(pattern=rf"^([a-z0-9.-]{{1,253}}/)?{LABEL}$")]
LabelRule = Annotated[str, Field(pattern=rf"^!?(in\({LABEL}(, ?{LABEL})*\)|{LABEL})$")]


class Placed(Strict):
    """Where replicas may run, beyond processors and GPUs."""

    labels: dict[LabelKey, LabelRule] = Field(
        default={},
        description="Labels of the Ray nodes that a replica may run on, all of which must hold: `VALUE`, `!VALUE`, "
        "`in(VALUE, VALUE)` or `!in(...)`.",
        examples=["lego-class: h100"],
    )
    memory_bytes: Bytes = Field(
        default=0, description="Bytes of main memory that a replica reserves on its Ray node; 0 reserves none."
    )
    max_per_node: Annotated[int, Field(ge=1, le=100)] | None = Field(
        default=None,
        description="Replicas that may share a Ray node. With 1, the loss of a machine costs one replica of them.",
    )


class Node(Placed):
    """How one component of a model is deployed."""

    placement: Literal["dedicated", "shared"] = Field(
        default="dedicated",
        description="`dedicated`: in a deployment of its own. `shared`: on the [workers](#workers), which load it when "
        "it is asked for; `replicas`, `cpus`, `gpus` and where it may run are then those of the workers.",
    )
    replicas: Replicas = Field(default=Replicas(), description="How many replicas run.")
    cpus: Amount = Field(
        default=0.5,
        description="Processors that a replica reserves, in fractions. All reservations must fit the machine.",
    )
    gpus: Amount = Field(default=0, description="GPUs that a replica reserves, in fractions.")
    max_batch: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = Field(
        default="auto",
        description="Prompts, or images of one request, computed at once. `auto` measures at start-up and keeps to "
        "what gives equal bits. The backbone ignores it.",
    )


class TextEncoderNode(Node):
    """The text encoder: prompts to conditionings."""

    cache_bytes: Bytes = Field(default=64 * MIB, description="Bytes of conditionings that each replica keeps.")


class BackboneNode(Node):
    """The backbone: denoising, a step at a time."""

    lane_policy: Literal["fifo", "least_slack", "shortest_remaining"] = Field(
        default="least_slack", description="Which lanes run first."
    )
    max_step_s: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        default="auto",
        description="Predicted seconds of one step, above which lanes wait for the next. `auto`: as long as more rows "
        "still make the step pay, as measured at start-up, and half as long while a tenant with little work shares it.",
    )
    max_rows: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto",
        description="Token rows of one step, for where memory is short. `auto` sets no bound until memory has run "
        "out, then half of what was too much, and a quarter more every 200 steps.",
    )
    checkpoint_every_steps: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=5,
        description="Steps between the checkpoints of a lane that are kept outside its replica. At most so many steps "
        "are lost when the replica dies.",
    )
    batch_invariant: bool = Field(
        default=True,
        description="Whether the bits of an image never depend on what else is served. With `false` that is dropped "
        "where it costs more than 5 %, and the log says where.",
    )
    split_guidance: bool = Field(
        default=False,
        description="Whether an image that is alone may have its guidance branches computed by two replicas at the "
        "same time, as long as the second has nothing else to do and it is faster. The bits are the same. Needs a "
        "second replica and `batch_invariant`; images with adapters, ControlNets or a template stay on one.",
    )
    bucket_rows: Annotated[int, Field(ge=1, le=4096)] = Field(
        default=1,
        description="Rows of a step are padded to a multiple of this, for hardware that compiles for each shape.",
    )
    template_bytes: Bytes = Field(
        default=256 * MIB,
        description="Bytes of activations of edited images that each replica keeps, by expected benefit.",
    )
    template_coding: Literal["float32", "bfloat16", "int8"] = Field(
        default="int8", description="How activations are kept; `int8` has a scale for each row and head."
    )


class SideNode(Placed):
    """How a remote ControlNet is deployed."""

    replicas: Replicas = Field(default=Replicas(), description="How many replicas run.")
    cpus: Amount = Field(default=0.05, description="Processors that a replica reserves, in fractions.")
    gpus: Amount = Field(default=0, description="GPUs that a replica reserves, in fractions.")


class Nodes(Strict):
    """How the components of a model are deployed."""

    text_encoder: TextEncoderNode = Field(default=TextEncoderNode(), description="Prompts to conditionings.")
    backbone: BackboneNode = Field(default=BackboneNode(), description="Denoising.")
    vae: Node = Field(default=Node(), description="Images to latents and back.")

    @property
    def all(self) -> tuple[Node, ...]:
        """The nodes of a model."""
        return self.text_encoder, self.backbone, self.vae


class Adapters(Placed):
    """The adapters (LoRA) of a model: where they lie, what is kept of them, and how they are applied."""

    roots: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="Folders with adapters: `ID.safetensors`, or diffusers' folder `ID`. `builtin:adapters` are those "
        "of the package, passed over where there are none; `data:NAME` is a folder in `server.data`, made if missing."
    )
    cache_bytes: Bytes = Field(
        default=256 * MIB, description="Bytes of adapters that the LoRA node keeps, so that they are not read again."
    )
    replica_cache_bytes: Bytes = Field(
        default=128 * MIB,
        description="Bytes of adapters that each backbone and text encoder replica keeps ready. Others come from the "
        "LoRA node in milliseconds, so a few suffice.",
    )
    mode: Literal["auto", "grouped", "patched"] = Field(
        default="auto",
        description="How adapters are applied. `grouped` adds the low-rank products of each lane in one batch. "
        "`patched` changes the weights for the lanes of one set at a time; where memory is too short to patch, lanes "
        "are grouped for 200 steps, which may change last bits. `auto` takes what is predicted to be faster, and "
        "with `batch_invariant: true` always `grouped`.",
    )
    early_start: bool = Field(
        default=False,
        description="Whether images begin without an adapter that is still loading, for as many steps as its profile "
        "allows. Images then depend on how fast the adapter loads.",
    )
    profiles: str | None = Field(
        default=None,
        description="Folder of profiles (`ID.profile.json`). Without it they lie beside each adapter, and those of "
        "adapters of the package in `profiles` of `server.data`.",
    )
    registry: str | None = Field(
        default=None,
        description="File that keeps what is registered at run time, such as `data:adapters.json`. To outlive the "
        "server it must be on a disk that all machines of the Ray share. Without it, a file in the server's "
        "temporary folder, which outlives the LoRA node only.",
    )
    registry_limit: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=256, description="Number of adapters that may be registered at run time."
    )
    cpus: Amount = Field(default=0.05, description="Processors that the LoRA node reserves, in fractions.")


class Link(Strict):
    """The network between replicas, for the choice of a ControlNet's placement."""

    bytes_per_s: Annotated[float, Field(gt=0)] = Field(description="Bandwidth in bytes per second.")
    latency_s: Amount = Field(description="Seconds that any message takes.")


class ControlNet(Strict):
    """A ControlNet of a model: where it lies and where it runs."""

    path: str = Field(
        description="A folder in diffusers' format, a hub id, or `builtin:NAME`, which is passed over where the "
        "package has none."
    )
    placement: Literal["auto", "colocated", "remote"] = Field(
        default="auto",
        description="`colocated`: in each backbone replica. `remote`: in a deployment of its own, `ID.controlnet`, "
        "that all backbone replicas share. `auto` chooses by `link`, and is `colocated` without one.",
    )
    link: Link | None = Field(default=None, description="The network between replicas.")
    stream_blocks: bool | Literal["auto"] = Field(
        default="auto",
        description="Whether a remote ControlNet sends each residual by itself instead of a step's together. `auto` "
        "chooses by `link`.",
    )
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        default=120,
        description="Seconds that a lane waits for a remote ControlNet to answer, also while a dead replica is "
        "replaced.",
    )
    node: SideNode = Field(default=SideNode(), description="How a remote ControlNet is deployed.")


def _family(name: str) -> str:
    if name not in families():
        raise ValueError(f"no such family; there is {', '.join(families())}")
    return name


class Model(Strict):
    """A checkpoint in diffusers' format, and what is served with it."""

    path: str = Field(
        description="A folder, in diffusers' format or [derived](guide.md#derived-models), a hub id, or "
        "`builtin:lego-tiny`. Give folders in full: replicas read them too."
    )
    family: Annotated[str, AfterValidator(_family)] = Field(
        default="sd3", description="The architecture.", examples=list(families())
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit of a hub id.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="What to compute in. `auto` is bfloat16 where the hardware multiplies it, else float32.",
    )
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")] = Field(
        default="cpu", description="Where to compute.", examples=["cpu", "cuda", "cuda:N"]
    )
    linear: Literal["dense", "int8", "fp8", "sparse24"] = Field(
        default="dense",
        description="How the blocks of the backbone multiply. `int8`: weights and rows of 8 bits, a scale a row; on a "
        "CPU rows have 7, `dtype` is `float32`, and it pays from a width of about 500 on. `fp8`: 8-bit floats, for a "
        "GPU of compute capability 8.9; on a CPU it is emulated and saves nothing. `sparse24`: half of each row is "
        "left out in layers that [`tune sparse24`](tiers.md#half-of-each-row) found; it saves no time on any device.",
    )
    max_sequence_length: Annotated[int, Field(ge=0, le=512)] = Field(
        default=256, description="Text tokens of T5, or the rows of zeros in their place."
    )
    fetch: bool = Field(default=False, description="Whether a hub id may be downloaded.")
    nodes: Nodes = Field(default=Nodes(), description="How its components are deployed.")
    tier: Literal["exact", "high", "balanced", "fast", "turbo"] = Field(
        default="exact",
        description="How much of the work that is asked for is done, where neither the request nor its workflow names "
        "a tier. Another than `exact` must have been tuned for the model; docs/tiers.md says how.",
    )
    tiers: str | None = Field(
        default=None,
        description="File of the tiers that were tuned for this model. Without it `tiers.json` in the model's folder, "
        "where there is one; a hub id has none.",
    )
    checkpoint_tiers: bool = Field(
        default=False,
        description="Whether those of its tiers that run other weights are served. Each takes a backbone of its own, "
        "`NAME.backbone-TIER`, with the settings of `nodes.backbone` but from one replica on.",
    )
    adapters: Adapters | None = Field(default=None, description="Its adapters (LoRA).")
    controlnets: dict[Name, ControlNet] = Field(
        default={}, description="Its ControlNets by id, of 1 to 64 letters `a-z`, digits, `_` and `-`."
    )
    controlnet_cache_bytes: Bytes | None = Field(
        default=None,
        description="Bytes of `colocated` ControlNets that each backbone replica keeps beyond those in use, by "
        "expected benefit; they are loaded when a request first names them. Without it all are loaded at the start "
        "and kept.",
    )

    @model_validator(mode="after")
    def _has_weights_to_patch(self) -> "Model":
        if self.linear != "dense" and self.adapters is not None and self.adapters.mode == "patched":
            raise ValueError(f"`adapters.mode: patched` changes weights that `linear: {self.linear}` does not read")
        return self
