"""Makes what is posted of a trace's records, for the server at hand: models, adapters, control images, edits, masks.

Everything is made before the first request is due, so that making it cannot delay one.
"""

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from loadgen.addons.images import IMAGES, outlines
from loadgen.edits.masks import INPAINT as INPAINT_MASKS
from loadgen.edits.masks import TRY_ON, MaskRatios, draw_mask, mask_file
from loadgen.edits.templates import template_file
from loadgen.traces.arrival import EDIT, GENERATION, INPAINT
from loadgen.traces.record import Record

GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
OPENAI_FIELDS = ("model", "prompt", "n", "size", "quality", "user")
DEFAULT_SIZE = (1024, 1024)
Files = Mapping[str, tuple[str, bytes, str]]

# The third published sample, 1,870 masks of faces found by ADetailer.
FACES = MaskRatios(((0.0, 0.001), (0.05, 0.003), (0.25, 0.015), (0.5, 0.023), (0.75, 0.038), (0.9, 0.053),
                    (0.95, 0.065), (0.99, 0.103), (1.0, 0.2)), empty_share=0.0)  # fmt: skip
MASKS: Mapping[str, MaskRatios] = {"tryon": TRY_ON, "inpaint": INPAINT_MASKS, "faces": FACES}


@dataclass(frozen=True, slots=True)
class Mix:
    """How a trace is put to a server.

    ``models``, ``adapters`` and ``controlnets`` are names that the server knows: the trace's most popular name becomes
    the first, and so on in turn; the trace's own are sent where there are no models, and none of the others.
    ``edit_share`` and ``inpaint_share`` turn so many of the generations into edits.
    """

    models: Sequence[str] = ()
    adapters: Sequence[str] = ()
    controlnets: Sequence[str] = ()
    masks: str = "tryon"
    templates: int = 20
    edit_share: float = 0.0
    inpaint_share: float = 0.0
    generations_only: bool = False  # edits are sent without their image
    openai_only: bool = False  # fields that OpenAI does not have are left out


@dataclass(frozen=True, slots=True)
class Posted:
    """One request as it goes out, and the record it was made of."""

    record: Record
    path: str
    fields: Mapping[str, object]
    files: Files = field(default_factory=dict, repr=False)

    @property
    def size(self) -> str:
        """The image's size as the body gives it."""
        return str(self.record.payload.get("size", ""))

    @property
    def cost_key(self) -> tuple[object, ...]:
        """Requests of one key take about as long as each other."""
        payload = self.record.payload
        addons = len(self.record.names("controlnets")), len(self.record.names("adapters"))
        steps, images = payload.get("num_inference_steps"), payload.get("n", 1)
        return (self.record.workflow, payload.get("model"), self.path, self.size, steps, images, *addons)


def posted(records: Sequence[Record], mix: Mix, seed: int) -> list[Posted]:
    """Return the requests in order; the same seed makes the same."""
    rng = random.Random(f"{seed}/mix")
    masks = np.random.default_rng(random.Random(f"{seed}/masks").getrandbits(64))
    models = _named((str(record.payload.get("model", "")) for record in records), mix.models)
    adapters = _named((name for record in records for name in record.names("adapters")), mix.adapters)
    nets = _named((name for record in records for name in record.names("controlnets")), mix.controlnets)
    made = []
    for record in records:
        record = _as_edit(record, mix, rng)
        body = dict(record.payload)
        if models:
            body["model"] = models[str(body.get("model", ""))]
        if adapters and (used := dict.fromkeys(adapters[name] for name in record.names("adapters"))):
            body["lora"] = [{"name": name, "scale": 1.0} for name in used]
        if mix.openai_only:
            body = {name: value for name, value in body.items() if name in OPENAI_FIELDS}
        if record.kind == GENERATION:
            body |= _controls(record, nets, rng)
            made.append(Posted(record, GENERATIONS, body))
        else:
            files = _edit_files(record, mix, rng, masks)
            form = {name: value if isinstance(value, str) else json.dumps(value) for name, value in body.items()}
            made.append(Posted(record, EDITS, form, files))
    return made


def _named(known: Iterator[str], names: Sequence[str]) -> dict[str, str]:
    """Give the most popular the first name, and so on in turn; none where there are no names."""
    if not names:
        return {}
    return {name: names[rank % len(names)] for rank, (name, _) in enumerate(Counter(known).most_common())}


def _as_edit(record: Record, mix: Mix, rng: random.Random) -> Record:
    """Return the record as the mix wants it: a share of the generations as edits, or edits as generations."""
    kind, chance = record.kind, rng.random()
    if mix.generations_only:
        kind = GENERATION
    elif kind == GENERATION and chance < mix.edit_share + mix.inpaint_share:
        kind = EDIT if chance < mix.edit_share else INPAINT
    return record if kind == record.kind else replace(record, extra={**record.extra, "kind": kind})


def _controls(record: Record, nets: Mapping[str, str], rng: random.Random) -> dict[str, object]:
    """Return the field of ControlNets, each with an image to follow."""
    used = dict.fromkeys(nets[name] for name in record.names("controlnets")) if nets else {}
    if not used:
        return {}
    width, height = image_size(record)
    return {"controlnet": [{"name": name, "image": outlines(width, height, rng.randrange(IMAGES))} for name in used]}


def _edit_files(record: Record, mix: Mix, rng: random.Random, masks: np.random.Generator) -> Files:
    """Return the image of an edit, by popularity, and a mask as large as in production where the edit has one."""
    width, height = image_size(record)
    weights = [1 / (rank + 1) for rank in range(mix.templates)]
    [template] = rng.choices(range(mix.templates), weights)
    files = {"image": ("image.png", template_file(width, height, template), "image/png")}
    if record.kind == INPAINT:
        mask = draw_mask(MASKS[mix.masks].draw(masks), width, height, masks)
        files["mask"] = ("mask.png", mask_file(mask), "image/png")
    return files


def image_size(record: Record) -> tuple[int, int]:
    """Return width and height of the record's image, OpenAI's default where it says none."""
    width, _, height = str(record.payload.get("size", "")).partition("x")
    return (int(width), int(height)) if width.isdigit() and height.isdigit() else DEFAULT_SIZE
