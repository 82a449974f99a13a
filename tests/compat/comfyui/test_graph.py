"""The checks of a prompt: each fault has ComfyUI's word, and names node, input and the nearest that is right."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sd_backend_client.api.comfyui.comfyui_types import QueueAdditionResponse

from lego_serve.compat.comfyui.faults import PromptRefused
from lego_serve.compat.comfyui.graph import MAX_FAULTS, MAX_NODES, read_graph
from lego_serve.compat.comfyui.nodes import CLASSES
from lego_serve.compat.comfyui.translate import translate
from tests.support.graphs import Graph, masked_edit, node, text_to_image

LISTS = {"checkpoints": ["lego-tiny"], "images": ["photo.png"], "loras": [], "controlnets": []}


def refusal(prompt: object) -> PromptRefused:
    """The refusal of a prompt, which is JSON, and in the shape that a strict client reads."""
    with pytest.raises(PromptRefused) as caught:
        read_graph(prompt, LISTS)
    body = json.loads(json.dumps(caught.value.body, allow_nan=False))
    QueueAdditionResponse.model_validate(body)
    return caught.value


def fault(graph: Graph, of: str = "3") -> tuple[str, str]:
    """The kind and the details of the only fault of a node."""
    entry = refusal(graph).node_errors[of]
    assert isinstance(entry, dict)
    assert entry["class_type"] == graph[of]["class_type"]
    assert entry["dependent_outputs"] == ["9"]
    (error,) = entry["errors"]
    return error["type"], f"{error['message']}: {error['details']}"


@pytest.mark.parametrize("prompt", [None, [], {}, "x", 3])
def test_no_graph_is_no_prompt(prompt: object) -> None:
    """What is no object of nodes is refused as ComfyUI refuses a missing prompt."""
    assert refusal(prompt).error["type"] == "no_prompt"


@pytest.mark.parametrize("entry", [None, [], "x", {}, {"class_type": 4}, {"inputs": {}}])
def test_a_node_without_a_class_is_refused(entry: object) -> None:
    """Its id is named."""
    assert refusal({"5": entry}).error["details"] == "Node ID '#5'"


def test_inputs_that_are_no_object_are_refused() -> None:
    """The node is named."""
    assert refusal({"5": {"class_type": "VAEDecode", "inputs": []}}).error["type"] == "invalid_prompt"


def test_more_nodes_than_anyone_writes_are_refused() -> None:
    """Nothing of them is looked at."""
    assert refusal({str(n): node("LoadImage") for n in range(MAX_NODES + 1)}).error["type"] == "invalid_prompt"


def test_an_unknown_class_is_named_with_the_nearest() -> None:
    """Each of them has an entry in `node_errors`, and the whole has ComfyUI's word for it."""
    graph = text_to_image()
    graph["3"]["class_type"] = "KSamplerAdvance"
    refused = refusal(graph)
    assert refused.error["type"] == "missing_node_type"
    assert "did you mean" in fault(graph)[1]
    graph["20"] = node("Zzz")
    assert set(refusal(graph).node_errors) == {"3", "20"}


def test_a_prompt_that_saves_nothing_is_refused() -> None:
    """ComfyUI's word for it is `prompt_no_outputs`."""
    graph = text_to_image()
    del graph["9"]
    assert refusal(graph).error == {
        "type": "prompt_no_outputs",
        "message": "Prompt has no outputs",
        "details": "",
        "extra_info": {},
    }


@pytest.mark.parametrize(
    ("inputs", "kind", "said"),
    [
        ({"model": None}, "bad_linked_input", "length-2 list"),
        ({"model": ["4"]}, "bad_linked_input", "model"),
        ({"model": ["4", True]}, "bad_linked_input", "model"),
        ({"model": [4, 0]}, "bad_linked_input", "model"),
        ({"model": ["99", 0]}, "bad_linked_input", "there is no node 99"),
        ({"model": ["4", 3]}, "bad_linked_input", "has 3 outputs and no output 3"),
        ({"model": ["4", -1]}, "bad_linked_input", "no output -1"),
        ({"model": ["4", 1]}, "return_type_mismatch", "received_type(CLIP) mismatch input_type(MODEL)"),
        ({"seed": ["4", 0]}, "return_type_mismatch", "mismatch input_type(INT)"),
        ({"steps": 0}, "value_smaller_than_min", "Value 0 smaller than min of 1"),
        ({"steps": 10**9}, "value_bigger_than_max", "bigger than max of 200"),
        ({"steps": "many"}, "invalid_input_type", "Failed to convert an input value to a INT value"),
        ({"steps": None}, "invalid_input_type", "NoneType is no INT"),
        ({"steps": {"a": 1}}, "invalid_input_type", "dict"),
        ({"cfg": float("nan")}, "invalid_input_type", "not a finite number"),
        ({"cfg": 10**400}, "invalid_input_type", "cfg"),
        ({"seed": float("inf")}, "invalid_input_type", "seed"),
        ({"seed": 2**64}, "value_bigger_than_max", "bigger than max"),
        ({"scheduler": "karas"}, "value_not_in_list", "did you mean karras?"),
        ({"scheduler": 3}, "value_not_in_list", "3 is no word"),
    ],
)
def test_a_wrong_input_has_comfyuis_word(inputs: dict[str, object], kind: str, said: str) -> None:
    """Links and values alike; the message says what was received."""
    found, text = fault(text_to_image(**inputs))
    assert found == kind
    assert said in text


def test_a_missing_input_is_named() -> None:
    """Also one with a default, as in ComfyUI; optional ones may be absent."""
    graph = text_to_image()
    del graph["3"]["inputs"]["steps"]
    assert fault(graph) == ("required_input_missing", "Required input is missing: steps")


def test_numbers_may_be_texts() -> None:
    """ComfyUI converts them, and so do the clients' forms rely on it."""
    graph = read_graph(text_to_image(steps="12", cfg="3.5", seed=4.0))
    assert [graph.nodes["3"].values[name] for name in ("steps", "cfg", "seed")] == [12, 3.5, 4]


def test_names_are_compared_without_folder_ending_and_case() -> None:
    """What the server shows is used; an unknown one is refused with the nearest, and none is the server's default."""
    for name in ("lego-tiny", "LEGO-Tiny.safetensors", "models\\lego-tiny.ckpt", ""):
        graph = text_to_image()
        graph["4"]["inputs"]["ckpt_name"] = name
        assert read_graph(graph, LISTS).nodes["4"].values["ckpt_name"] in ("lego-tiny", "")
    graph["4"]["inputs"]["ckpt_name"] = "lego-tinny.safetensors"
    kind, text = fault(graph, "4")
    assert kind == "value_not_in_list"
    assert "did you mean lego-tiny?" in text


def test_an_upload_must_be_there() -> None:
    """Its folder may be noted after the name, as ComfyUI does."""
    graph = masked_edit()
    graph["10"]["inputs"]["image"] = "photo.png [input]"
    assert read_graph(graph, LISTS).nodes["10"].values["image"] == "photo.png"
    graph["10"]["inputs"]["image"] = "foto.png"
    assert "Invalid image file: 'foto.png'; did you mean photo.png?" in fault(graph, "10")[1]


def test_nodes_that_wait_for_each_other_are_named() -> None:
    """A node downstream of a circle is in it too, for it never runs."""
    graph = masked_edit()
    graph["5"] = node("SetLatentNoiseMask", samples=["11", 0], mask=["10", 1])
    refused = refusal(graph)
    assert "nodes 11, 3, 5, 8, 9 wait for each other" in refused.lines[0]
    graph = text_to_image(latent_image=["3", 0])
    assert "3" in refusal(graph).node_errors


def test_what_no_output_needs_is_not_checked() -> None:
    """ComfyUI does not either: editors leave loose ends."""
    graph = text_to_image() | {"50": node("VAEDecode", samples=["51", 0])}
    assert "50" not in read_graph(graph, LISTS).nodes


def test_a_long_chain_is_no_deep_recursion() -> None:
    """Hundreds of adapters in a row are read, and each counts."""
    graph = text_to_image()
    last = "4"
    for number in range(100, 100 + MAX_NODES - len(graph)):
        graph[str(number)] = node("LoraLoaderModelOnly", model=[last, 0], lora_name="x", strength_model=0.01)
        last = str(number)
    graph["3"]["inputs"]["model"] = [last, 0]
    (lora,) = translate(graph).loras
    assert lora.scale == pytest.approx(2.93)


def test_a_prompt_full_of_faults_has_the_first_ones_told() -> None:
    """Each looks for the nearest name, so a hostile prompt would cost more with each."""
    strange = {str(number): node(f"Node{number}" * 1000) for number in range(MAX_NODES)}
    assert len(refusal(strange).node_errors) == MAX_FAULTS
    graph = text_to_image() | {str(n): node("SaveImage", images=["8", 0]) for n in range(100, 200)}
    assert len(refusal(graph).node_errors) == MAX_FAULTS


NAMES = [declared.name for known in CLASSES.values() for declared in known.inputs]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
LINKS = st.tuples(st.sampled_from("0123456"), st.integers(-1, 3)).map(list)
NODES = st.fixed_dictionaries(
    {
        "class_type": st.sampled_from([*CLASSES, "Other"]),
        "inputs": st.dictionaries(st.sampled_from(NAMES), JSON | LINKS, max_size=8),
    }
)


@given(st.dictionaries(st.sampled_from("0123456"), NODES | JSON, max_size=7))
def test_any_prompt_is_a_task_or_a_refusal(prompt: dict[str, object]) -> None:
    """Nothing else is raised, and each refusal is JSON."""
    try:
        translate(prompt, LISTS)
    except PromptRefused as refused:
        json.dumps(refused.body, allow_nan=False).encode()


@given(st.sampled_from("3456789"), st.sampled_from(NAMES), JSON | LINKS)
def test_any_change_of_a_right_prompt_is_a_task_or_a_refusal(of: str, name: str, value: object) -> None:
    """One input of one node, whatever it becomes."""
    graph = text_to_image()
    graph[of]["inputs"][name] = value
    try:
        translate(graph, LISTS)
    except PromptRefused as refused:
        json.dumps(refused.body, allow_nan=False).encode()
