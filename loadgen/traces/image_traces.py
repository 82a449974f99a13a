"""Readers of the published traces of image services: DiFlow's, GenTD26 and Katz's."""

import random
from collections.abc import Iterator
from pathlib import Path

from loadgen.popularity import shares, stream
from loadgen.traces.arrival import EDIT, GENERATION, INPAINT, Arrival
from loadgen.traces.errors import TraceError
from loadgen.traces.rows import Row, csv_rows, json_array_rows, json_rows, lines

# Seconds of each workflow alone in Diffusers: FLUX.1-schnell from text, and with a canny and a depth ControlNet.
DIFLOW_SOLO_S = {"A": 1.987, "B": 2.069, "C": 2.4}
DIFLOW_CONTROLNETS = {"A": (), "B": ("canny",), "C": ("depth",)}
GENTD26_KINDS = {"TXT_2_IMG": GENERATION, "IMG_2_IMG": EDIT, "INPAINTING": INPAINT}
GENTD26_COLUMNS = (
    "gmt_create",
    "predict_type",
    "predict_status",
    "exec_time_seconds",
    "groupId",
    "num_images_per_prompt",
    "num_inference_steps",
    "checkpoint_model_version_id",
    "num_lora",
)
# The file has only how many LoRAs a request has; how popular each is comes from its sister file of 68,195 requests.
GENTD26_LORAS = 874
GENTD26_LORA_CURVE = ((1, 7.9), (10, 28.0), (50, 56.0), (100, 69.0), (500, 95.0))
UNKNOWN = "unknown"


def read_diflow(path: Path, rng: random.Random) -> Iterator[Arrival]:
    """Yield the requests of a file of DiFlow's artifact: a workflow's letter and the seconds since the one before."""
    at_s = 0.0
    for number, text in lines(path):
        words = text.split()
        if not words:
            continue
        if len(words) != 2:
            raise TraceError(path, f"has {len(words)} fields, not a label and an interval", line=number)
        at_s += Row(path, number, {"interval": words[1]}).number("interval")
        yield diflow_arrival(at_s, words[0])


def diflow_arrival(at_s: float, label: str) -> Arrival:
    """Return a request of one of DiFlow's workflows; of an unknown one only the label is known."""
    controlnets = DIFLOW_CONTROLNETS.get(label, ())
    steps = 4 if label in DIFLOW_SOLO_S else None
    return Arrival(at_s, label, controlnets=controlnets, steps=steps, solo_s=DIFLOW_SOLO_S.get(label))


def read_gentd26(path: Path, rng: random.Random) -> Iterator[Arrival]:
    """Yield the requests of GenTD26's ``lora_request_trace.csv``; which LoRAs they have is drawn by popularity."""
    adapters = gentd26_adapters(rng)
    for row in csv_rows(path, GENTD26_COLUMNS):
        kind = row.text("predict_type")
        if kind not in GENTD26_KINDS:
            raise row.error("predict_type", f"{kind!r} is none of {', '.join(GENTD26_KINDS)}")
        status = row.text("predict_status")
        exec_s = None if row.is_empty("exec_time_seconds") else row.number("exec_time_seconds")
        yield Arrival(
            at_s=row.time_s("gmt_create"),
            workflow=UNKNOWN
            if row.is_empty("checkpoint_model_version_id")
            else row.text("checkpoint_model_version_id"),
            tenant="" if row.is_empty("groupId") else row.text("groupId"),
            kind=GENTD26_KINDS[kind],
            adapters=tuple(next(adapters) for _ in range(row.integer("num_lora"))),
            images=1 if row.is_empty("num_images_per_prompt") else row.integer("num_images_per_prompt", 1),
            steps=None if row.is_empty("num_inference_steps") else row.integer("num_inference_steps", 1),
            solo_s=exec_s if status == "SUCCEED" and exec_s else None,
            source={} if status == "SUCCEED" else {"status": status},
        )


def gentd26_adapters(rng: random.Random) -> Iterator[str]:
    """Yield names of GenTD26's LoRAs, each as often as it is popular."""
    for index in stream(shares(GENTD26_LORA_CURVE, GENTD26_LORAS), rng):
        yield f"L{index:04d}"


def read_katz(path: Path, rng: random.Random) -> Iterator[Arrival]:
    """Yield the requests of Katz's trace: a JSON array of objects, or one object a line."""
    first = next((text.lstrip()[:1] for _, text in lines(path) if text.strip()), "")
    for row in json_array_rows(path) if first == "[" else json_rows(path):
        yield Arrival(
            at_s=row.number("timestamp"),
            workflow=UNKNOWN if row.is_empty("base_model_id") else row.text("base_model_id"),
            tenant=row.text("scene_id"),
            controlnets=row.names("controlnets"),
            adapters=row.names("loras"),
        )
