"""What ComfyUI answers about prompts: accepted, queued, done, and what the server is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lego_serve.compat.comfyui.messages import Json, interrupted, started, stopped, succeeded

VERSION = "0.3.68"  # the ComfyUI whose routes and shapes these are
FOLDERS = ("checkpoints", "diffusion_models", "loras", "controlnet", "vae", "text_encoders", "configs")


@dataclass(frozen=True, slots=True)
class QueuedPrompt:
    """A prompt as it was sent, and its place in the order of all."""

    id: str
    number: int
    graph: Mapping[str, object]
    outputs: Sequence[str]
    extra_data: Mapping[str, object] = field(default_factory=dict)

    @property
    def entry(self) -> list[object]:
        """The prompt as queue and history list it."""
        return [self.number, self.id, dict(self.graph), dict(self.extra_data), list(self.outputs)]


@dataclass(frozen=True, slots=True)
class EndedPrompt:
    """How a prompt ended: the files of each node that saved, the wall clock (ms), and what went wrong."""

    prompt: QueuedPrompt
    status: Literal["success", "error", "interrupted"]
    began_ms: int
    ended_ms: int
    files: Mapping[str, Sequence[Mapping[str, object]]] = field(default_factory=dict)
    message: str = ""
    node: str = ""


def accepted(prompt_id: str, number: int) -> Json:
    """Return the answer to a prompt that will run."""
    return {"prompt_id": prompt_id, "number": number, "node_errors": {}}


def remaining(count: int) -> Json:
    """Return the answer of ``GET /prompt``: how many prompts wait or run."""
    return {"exec_info": {"queue_remaining": count}}


def queue(running: Sequence[QueuedPrompt], pending: Sequence[QueuedPrompt]) -> Json:
    """Return the answer of ``GET /queue``."""
    return {
        "queue_running": [prompt.entry for prompt in running],
        "queue_pending": [prompt.entry for prompt in pending],
    }


def history(ended: Sequence[EndedPrompt]) -> Json:
    """Return the answer of ``GET /history``: prompts that ended, by id; one that still runs is not in it."""
    return {end.prompt.id: _history_entry(end) for end in ended}


def _history_entry(end: EndedPrompt) -> Json:
    kind = str(_class_of(end.prompt, end.node))
    last = {
        "success": succeeded(end.prompt.id, end.ended_ms),
        "error": stopped(end.prompt.id, end.ended_ms, end.node, kind, end.message),
        "interrupted": interrupted(end.prompt.id, end.ended_ms, end.node, kind),
    }[end.status]
    return {
        "prompt": end.prompt.entry,
        "outputs": {node: {"images": [dict(file) for file in files]} for node, files in end.files.items()},
        "status": {
            "status_str": "success" if end.status == "success" else "error",
            "completed": end.status == "success",
            "messages": [
                [message["type"], message["data"]] for message in (*started(end.prompt.id, end.began_ms), last)
            ],
        },
        "meta": {
            node: {"node_id": node, "display_node": node, "parent_node": None, "real_node_id": node}
            for node in end.files
        },
    }


def _class_of(prompt: QueuedPrompt, node: str) -> object:
    entry = prompt.graph.get(node)
    return entry.get("class_type", "") if isinstance(entry, Mapping) else ""


def models(folder: str, names: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the answer of ``GET /models/FOLDER``; an unknown folder is empty."""
    return list(names.get(folder, ()))


def system_stats(python_version: str, torch_version: str, ram_total: int, ram_free: int, argv: Sequence[str]) -> Json:
    """Return the answer of ``GET /system_stats``; where models run is not told, so the device is a processor."""
    return {
        "system": {
            "os": "posix",
            "ram_total": ram_total,
            "ram_free": ram_free,
            "comfyui_version": VERSION,
            "python_version": python_version,
            "pytorch_version": torch_version,
            "embedded_python": False,
            "argv": list(argv),
        },
        "devices": [
            {
                "name": "cpu",
                "type": "cpu",
                "index": 0,
                "vram_total": ram_total,
                "vram_free": ram_free,
                "torch_vram_total": ram_total,
                "torch_vram_free": ram_free,
            }
        ],
    }
