"""``lego-serve workflows import FILE.json``: one of our workflow files of ComfyUI's API format."""

import json
from pathlib import Path

import yaml

from lego_serve.compat.comfyui.faults import PromptRefused
from lego_serve.compat.comfyui.translate import translate
from lego_serve.compat.comfyui.workflow_file import notes, workflow_mapping, workflow_name
from lego_serve.compat.task import ImageTask
from lego_serve.errors import WorkflowError
from lego_serve.workflow_files import MAX_BYTES, load_workflow


def imported(file: Path, model: str | None = None) -> str:
    """Return the text of a workflow file.  Raises WorkflowError, which names the file, and each node that is wrong."""
    task = _translated(file)
    mapping = workflow_mapping(task, workflow_name(file.stem), model)
    text = yaml.safe_dump(mapping, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
    comments = [f"# Made of ComfyUI's {ascii(file.name)[1:-1]}.", *(f"# {line}" for line in notes(task))]
    whole = "\n".join(comments) + "\n" + text
    load_workflow(whole, str(file))
    return whole


def _translated(file: Path) -> ImageTask:
    graph = _read(file)
    try:
        return translate(graph)
    except PromptRefused as refused:
        lines = (line if line.isprintable() else ascii(line) for line in refused.lines)  # a terminal shows them
        raise WorkflowError("\n".join(f"{file}: {line}" for line in lines)) from None


def _read(file: Path) -> object:
    """Return the graph of a file: the whole, or the `prompt` of a body that was sent."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise WorkflowError(f"{file}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise WorkflowError(f"{file}: more than {MAX_BYTES} bytes are no workflow")
    try:
        graph = json.loads(data)
    except RecursionError:
        raise WorkflowError(f"{file}: is nested too deeply") from None
    except ValueError as error:
        raise WorkflowError(f"{file}: is no JSON: {error}") from None
    if isinstance(graph, dict) and isinstance(graph.get("nodes"), list):
        raise WorkflowError(f"{file}: is the format of ComfyUI's editor; use `Export (API)` of its menu")
    return graph["prompt"] if isinstance(graph, dict) and isinstance(graph.get("prompt"), dict) else graph
