"""Queue, history and the others, as strict clients read them."""

import json

from pydantic import TypeAdapter
from sd_backend_client.api.comfyui.comfyui_types import (
    QueueAdditionResponse,
    QueueHistoryResponse,
    QueueInfoResponse,
    SystemStatResponse,
)

from lego_serve.compat.comfyui.answers import (
    EndedPrompt,
    QueuedPrompt,
    accepted,
    history,
    models,
    queue,
    remaining,
    system_stats,
)
from lego_serve.compat.comfyui.paths import saved_files
from lego_serve.compat.task import SavedAs
from tests.support.graphs import text_to_image

PROMPT = QueuedPrompt("p-1", 4, text_to_image(), ["9"], {"client_id": "me"})


def test_an_accepted_prompt_has_its_id_and_number() -> None:
    """`node_errors` is empty, and there."""
    read = QueueAdditionResponse.model_validate(accepted("p-1", 4))
    assert (read.prompt_id, read.number, read.node_errors, read.error) == ("p-1", 4, {}, None)
    assert remaining(3) == {"exec_info": {"queue_remaining": 3}}


def test_the_queue_lists_prompts_by_id() -> None:
    """Clients look for their own at the second place of each entry."""
    read = QueueInfoResponse.model_validate(json.loads(json.dumps(queue([PROMPT], []))))
    assert read.queue_running == [(4, "p-1", text_to_image(), {"client_id": "me"}, ["9"])]
    assert read.queue_pending == []


def test_history_has_the_files_of_each_output() -> None:
    """A prompt that ended well is complete; one that still runs is not in it."""
    files = {"9": saved_files(SavedAs("9", "shop/ComfyUI"), "p-1", 2)}
    answer = json.loads(json.dumps(history([EndedPrompt(PROMPT, "success", 1, 2, files)])))
    entry = TypeAdapter(QueueHistoryResponse).validate_python(answer)["p-1"]
    assert (entry.status.status_str, entry.status.completed) == ("success", True)
    assert [kind for kind, _ in entry.status.messages] == ["execution_start", "execution_cached", "execution_success"]
    first = entry.outputs["9"].images[0]
    assert (first.filename, first.subfolder, first.type) == ("ComfyUI_00001_.p-1.png", "shop", "output")
    assert history([]) == {}


def test_history_says_why_a_prompt_failed() -> None:
    """An interrupted one is an error too, as in ComfyUI."""
    for status, kind in (("error", "execution_error"), ("interrupted", "execution_interrupted")):
        ended = EndedPrompt(PROMPT, status, 1, 2, message="no room", node="3")
        entry = TypeAdapter(QueueHistoryResponse).validate_python(history([ended]))["p-1"]
        assert (entry.status.status_str, entry.status.completed) == ("error", False)
        last, data = entry.status.messages[-1]
        assert (last, data.node_id, data.node_type) == (kind, "3", "KSampler")
        assert data.exception_message == ("no room" if status == "error" else None)


def test_system_stats_are_complete() -> None:
    """Clients ask for them to see that a server is there."""
    read = SystemStatResponse.model_validate(system_stats("3.11", "2.13", 16, 8, ["lego-serve"]))
    assert (read.system.ram_total, read.devices[0].type) == (16, "cpu")


def test_an_unknown_folder_of_models_is_empty() -> None:
    """As `configs` is, which clients ask for."""
    assert models("checkpoints", {"checkpoints": ["lego-tiny"]}) == ["lego-tiny"]
    assert models("configs", {}) == []
