"""What the check of a declaration refuses, and how it says so."""

import copy
from typing import Any

import pytest

from lego_serve.core.workflow.compile import compile_workflow
from lego_serve.core.workflow.graph import Input, Source
from lego_serve.errors import WorkflowError

GOOD: dict[str, Any] = {
    "apiVersion": "lego.dev/v1",
    "kind": "Workflow",
    "metadata": {"name": "w", "version": "1"},
    "inputs": {
        "prompt": {"type": "text", "required": True},
        "steps": {"type": "int", "default": 20, "min": 1, "max": 100},
        "guidance": {"type": "float", "default": 4, "min": 0, "max": 20},
    },
    "nodes": {
        "cond": {"use": "text_encode", "model": "m", "with": {"prompt": "$inputs.prompt"}},
        "latents": {
            "use": "denoise",
            "model": "m",
            "with": {
                "cond": "$cond",
                "negative": "$cond.cond",
                "width": 128,
                "height": 128,
                "steps": "$inputs.steps",
                "guidance": "$inputs.guidance",
                "seed": 0,
                "n": 1,
            },
        },
        "image": {"use": "decode", "model": "m", "with": {"latents": "$latents"}},
    },
    "outputs": {"image": "$image"},
}
GONE = object()


def where(path: tuple[str, ...]) -> str:
    return f"file:{'/'.join(path)}"


def changed(path: str, value: object) -> dict[str, Any]:
    """GOOD with one thing set, or removed."""
    declared = copy.deepcopy(GOOD)
    *way, last = path.split("/")
    place = declared
    for key in way:
        place = place[key]
    if value is GONE:
        del place[last]
    else:
        place[last] = value
    return declared


def complaint(path: str, value: object) -> str:
    with pytest.raises(WorkflowError) as caught:
        compile_workflow(changed(path, value), where)
    return caught.value.message


def test_a_good_declaration_becomes_a_workflow() -> None:
    """Names, types, references and literals arrive as values; an int is a float where one is wanted."""
    workflow = compile_workflow(GOOD, where)
    assert workflow.inputs["guidance"] == Input("float", False, 4.0, 0.0, 20.0)
    assert workflow.nodes["latents"].arguments["negative"] == Source("cond", "cond")
    assert workflow.nodes["latents"].arguments["width"] == 128
    assert workflow.outputs == {"image": Source("image", "image")}
    assert workflow.models == {"m"}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("nodes/latents/with/steps", "$input.steps", "node latents: unknown node `input`; did you mean `inputs`?"),
        ("nodes/latents/with/steps", "$inputs.step", "node latents: unknown input `step`; did you mean `steps`?"),
        ("nodes/latents/with/cond", "$conds", "node latents: unknown node `conds`; did you mean `cond`?"),
        ("nodes/latents/with/cond", "$cond.con", "node `cond` has no output `con`; did you mean `cond`?"),
        ("nodes/latents/with/step", 4, "node latents: `denoise` takes no `step`; did you mean `steps`?"),
        ("nodes/latents/use", "denoised", "unknown kind of node `denoised`; did you mean `denoise`?"),
        ("nodes/latents/uses", "denoise", "node latents: unknown key `uses`; did you mean `use`?"),
        ("inputs/steps/type", "integer", "input steps: unknown type `integer`; did you mean `int`?"),
        ("inputs/steps/maximum", 4, "input steps: unknown key `maximum`; did you mean `max`?"),
        ("output", {}, "unknown key `output`; did you mean `outputs`?"),
        ("metadata/nam", "w", "metadata nam: unknown key `nam`; did you mean `name`?"),
        ("metadata/reuse_floor", 0.9, "metadata reuse_floor: unknown key `reuse_floor`; it is now `min_ssim`"),
        ("outputs/images", "$image", "output images: unknown key `images`; did you mean `image`?"),
    ],
)
def test_an_unknown_word_is_answered_with_the_nearest(path: str, value: object, said: str) -> None:
    """Whatever is misspelt, the complaint names the place, the word and the nearest one known there."""
    message = complaint(path, value)
    assert message.startswith("file:")
    assert message.endswith(said)


def test_the_complaint_points_at_the_key_itself() -> None:
    """``where`` is asked for the very argument that is wrong."""
    assert complaint("nodes/latents/with/step", 4).startswith("file:nodes/latents/with/step: node latents: ")


def test_a_negative_prompt_may_be_left_out() -> None:
    """A model that is told its guidance has none."""
    workflow = compile_workflow(changed("nodes/latents/with/negative", GONE), where)
    assert "negative" not in workflow.nodes["latents"].arguments


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("nodes/latents/with/cond", "$latents", "`cond` takes conditioning, but `$latents.latents` is latents"),
        ("nodes/image/with/latents", "$cond", "`latents` takes latents, but `$cond.cond` is conditioning"),
        ("nodes/latents/with/steps", "$inputs.guidance", "`steps` takes an int, but `$inputs.guidance` is a float"),
        ("nodes/latents/with/steps", "20", "`steps` must be an int, not text"),
        ("nodes/latents/with/steps", True, "`steps` must be an int, not a bool"),
        ("nodes/latents/with/steps", None, "`steps` must be an int, not nothing"),
        ("nodes/latents/with/guidance", float("nan"), "`guidance` must be a finite number"),
        ("nodes/latents/with/guidance", 10**400, "`guidance` must be a finite number"),
        ("nodes/latents/with/cond", "cond", "`cond` must be conditioning, not text"),
        ("nodes/cond/with/prompt", "\ud800", "`prompt` must be valid Unicode"),
        ("nodes/cond/with/prompt", ["$inputs.prompt"], "`prompt` must be text, not a list"),
        ("outputs/image", "$latents", "`image` must be an image, but `$latents.latents` is latents"),
        ("outputs/image", "$inputs.prompt", "an output must come from a node"),
        ("outputs/image", "image", "a reference like `$node` or `$node.output` is expected here"),
    ],
)
def test_sockets_have_types(path: str, value: object, said: str) -> None:
    """An argument or output takes its own type only, from a literal as from a node or an input."""
    assert complaint(path, value).endswith(said)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("nodes/latents/with/seed", GONE, "node latents: `denoise` needs `seed`"),
        ("nodes/latents/model", GONE, "node latents: key `model` is missing"),
        ("nodes/latents/model", 5, "`model` must be the name of a model"),
        ("outputs", GONE, "key `outputs` is missing"),
        ("outputs", {}, "key `image` is missing"),
        ("nodes", {}, "output image: unknown node `image`; there is `inputs`"),
        ("nodes", ["cond"], "`nodes` must be a mapping"),
        ("nodes/latents", None, "node latents: `latents` must be a mapping"),
        ("nodes/latents/use", ["denoise"], "unknown kind of node `['denoise']`; did you mean `denoise`?"),
        ("apiVersion", "lego.dev/v2", "`apiVersion` must be `lego.dev/v1`"),
        ("kind", "Workflows", "`kind` must be `Workflow`"),
        ("metadata/name", "a b", "a workflow's name is text of letters, digits, `.`, `_` and `-`"),
        ("metadata/version", [1], "a version is text"),
        ("inputs/no-dash", {"type": "int"}, "starts with no digit, and is not `inputs`"),
        ("nodes/inputs", {"use": "decode", "model": "m"}, "starts with no digit, and is not `inputs`"),
        ("inputs/extra", {"type": "int"}, "input extra: nothing uses this input"),
        (
            "nodes/extra",
            {"use": "text_encode", "model": "m", "with": {"prompt": "x"}},
            "node extra: nothing uses this node",
        ),
    ],
)
def test_nothing_is_missing_and_nothing_too_much(path: str, value: object, said: str) -> None:
    """Missing keys, misplaced values and unused inputs or nodes are refused by name."""
    assert complaint(path, value).endswith(said)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"type": "int", "default": 2.5}, "`default` must be an int, not a float"),
        ({"type": "int", "default": 0, "min": 1, "max": 9}, "the default 0 lies outside 1 to 9"),
        ({"type": "int", "default": 5, "min": 9, "max": 1}, "`min` 9 is more than `max` 1"),
        ({"type": "int", "default": 5, "min": 1}, "`min` and `max` come together"),
        ({"type": "int", "default": 5, "min": 0.5, "max": 9}, "`min` must be an int, not a float"),
        ({"type": "int", "default": 5, "required": True}, "an input that is required needs no default"),
        ({"type": "int", "required": "yes"}, "`required` must be true or false"),
        ({"type": "text", "default": "x", "min": 1, "max": 2}, "`min` and `max` are for numbers, not for text"),
        ({"type": "int"}, "`denoise` needs `steps`, but `$inputs.steps` is neither required nor has a default"),
    ],
)
def test_an_input_makes_sense(value: object, said: str) -> None:
    """Defaults fit types and bounds, and a value that a node needs is never absent."""
    assert complaint("inputs/steps", value).endswith(said)


def test_a_circle_is_shown() -> None:
    """Nodes that wait for each other are named in the order in which they wait."""
    declared = changed("nodes/latents/with/init", "$encoded")
    declared["nodes"]["encoded"] = {
        "use": "encode_image",
        "model": "m",
        "with": {"image": "$image", "width": 1, "height": 1},
    }
    with pytest.raises(WorkflowError, match=r"nodes wait for each other: (\w+)( -> \w+){2} -> \1"):
        compile_workflow(declared, where)


def test_an_encoded_image_is_not_decoded() -> None:
    """What encode_image gives is for denoise to start from: decode does not take it."""
    declared = changed("nodes/image/with/latents", "$encoded")
    declared["inputs"]["image"] = {"type": "image", "required": True}
    declared["nodes"]["encoded"] = {
        "use": "encode_image",
        "model": "m",
        "with": {"image": "$inputs.image", "width": 128, "height": 128},
    }
    with pytest.raises(WorkflowError, match=r"takes latents, but `\$encoded\.latents` is image latents"):
        compile_workflow(declared, where)


def test_two_dollars_mean_one() -> None:
    """A text that begins with a dollar is written with two, and the canonical form writes it so again."""
    workflow = compile_workflow(changed("nodes/cond/with/prompt", "$$5 note") | {"inputs": _without_prompt()}, where)
    assert workflow.nodes["cond"].arguments["prompt"] == "$5 note"
    assert compile_workflow(workflow.canonical(), where) == workflow


def _without_prompt() -> dict[str, Any]:
    return {key: value for key, value in GOOD["inputs"].items() if key != "prompt"}
