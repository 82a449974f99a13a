"""Workflows declared as Python functions."""

import inspect

import pytest

from lego_serve.core.workflow.dsl import (
    Float,
    Image,
    Int,
    Sampler,
    Text,
    Tier,
    Value,
    decode,
    denoise,
    encode_image,
    text_encode,
    workflow,
)
from lego_serve.core.workflow.graph import Source
from lego_serve.errors import WorkflowError
from lego_serve.workflow_files import built_in_workflows

M = "lego-tiny"
Size, Seed = Int(96, 256), Int(0, 2**32 - 1)


def rest(cond: Value, name: str = "latents", **more: Value | float) -> Value:
    """Everything that a plain denoising needs, and the decoding of it."""
    values = {"negative": cond, "width": 128, "height": 128, "steps": 4, "guidance": 4.0, "seed": 0, "n": 1} | more
    return decode(M, name="image", latents=denoise(M, name=name, cond=cond, **values))


def test_python_and_yaml_are_one() -> None:
    """The built-in image-to-image workflow, written in Python, has the same content hash as its YAML file."""

    @workflow("lego-tiny-img2img")
    def declared(
        prompt: Text,
        image: Image,
        strength: Float(0.01, 1) = 0.6,
        negative_prompt: Text = "",
        width: Size = 128,
        height: Size = 128,
        steps: Int(1, 100) = 20,
        guidance: Float(0, 20) = 4,
        seed: Seed = 0,
        n: Int(1, 10) = 1,
        sampler: Sampler = "euler",
        tier: Tier = None,
        guidance_start: Float(0, 1) = 0.0,
        guidance_end: Float(0, 1) = 1.0,
    ):
        return rest(
            text_encode(M, name="cond", prompt=prompt),
            negative=text_encode(M, name="negative", prompt=negative_prompt),
            width=width,
            height=height,
            steps=steps,
            guidance=guidance,
            seed=seed,
            n=n,
            sampler=sampler,
            tier=tier,
            guidance_start=guidance_start,
            guidance_end=guidance_end,
            init=encode_image(M, name="encoded", image=image, width=width, height=height),
            strength=strength,
        )

    built_in = built_in_workflows()["lego-tiny-img2img"]
    assert declared == built_in
    assert declared.content_hash == built_in.content_hash


def test_the_function_runs_once_when_declared() -> None:
    """Tracing calls the function a single time, with stand-ins for its inputs."""
    calls: list[object] = []

    @workflow("w")
    def declared(prompt: Text):
        calls.append(prompt)
        return rest(text_encode(M, prompt=prompt))

    assert calls == [Value("$inputs.prompt")]
    assert declared.inputs["prompt"].required


def test_nodes_are_numbered_unless_named() -> None:
    """A node is called by its kind, from the second on with a number, or by what ``name`` says."""

    @workflow("w")
    def declared(prompt: Text):
        return rest(text_encode(M, prompt=prompt), negative=text_encode(M, prompt=""))

    assert list(declared.nodes) == ["text_encode", "text_encode_2", "latents", "image"]


def test_a_text_is_a_text() -> None:
    """A literal that begins with a dollar is no reference in Python."""

    @workflow("w")
    def declared():
        return rest(text_encode(M, prompt="$inputs.prompt"))

    assert declared.nodes["text_encode"].arguments["prompt"] == "$inputs.prompt"
    assert declared.nodes["latents"].arguments["cond"] == Source("text_encode", "cond")


def test_annotations_may_be_strings() -> None:
    """Postponed annotations are looked up where the function was written."""

    @workflow("w")
    def declared(prompt: "Text"):
        return rest(text_encode(M, prompt=prompt))

    assert declared.inputs["prompt"].type == "text"


def line_of(error: WorkflowError) -> str:
    """The source line that an error points at."""
    name, line, _ = error.message.split(":", 2)
    with open(name, encoding="utf-8") as file:
        return file.readlines()[int(line) - 1].strip()


def test_an_error_points_at_the_call() -> None:
    """A wrong argument is complained about at the line that gives it, with the nearest name."""

    def declared(prompt: Text):
        return rest(
            text_encode(M, promt=prompt),
        )

    with pytest.raises(WorkflowError, match="takes no `promt`; did you mean `prompt`") as caught:
        workflow("w")(declared)
    assert line_of(caught.value) == "text_encode(M, promt=prompt),"


def test_an_error_of_an_input_points_at_the_function() -> None:
    """What is wrong with the inputs is complained about at the function."""

    def declared(prompt: Text, spare: Int = 0):
        return rest(text_encode(M, prompt=prompt))

    with pytest.raises(WorkflowError, match="input spare: nothing uses this input") as caught:
        workflow("w")(declared)
    assert line_of(caught.value) == inspect.getsource(declared).splitlines()[0].strip()


def no_annotation(prompt):
    return rest(text_encode(M, prompt=prompt))


def wrong_annotation(prompt: str):
    return rest(text_encode(M, prompt=prompt))


def unknown_annotation(prompt: "Txt"):  # type: ignore[name-defined]  # noqa: F821
    return rest(text_encode(M, prompt=prompt))


def no_result(prompt: Text):
    rest(text_encode(M, prompt=prompt))


def same_name(prompt: Text):
    return rest(text_encode(M, name="latents", prompt=prompt))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (no_annotation, "input prompt: annotate it with Text, Int, Float, Bool, Image, Sampler, Tier, Adapters or"),
        (wrong_annotation, "input prompt: annotate it with Text, Int, Float, Bool, Image, Sampler, Tier, Adapters or"),
        (unknown_annotation, "unknown annotation: name 'Txt' is not defined"),
        (no_result, "workflow w must return what a node gave it"),
        (same_name, "node latents: another node has this name"),
    ],
)
def test_a_function_that_is_no_workflow_is_refused(function, said: str) -> None:  # type: ignore[no-untyped-def]
    """Missing or wrong annotations, results and names are errors with file and line."""
    with pytest.raises(WorkflowError, match=said) as caught:
        workflow("w")(function)
    assert caught.value.message.startswith(__file__)


def test_nodes_belong_in_workflows() -> None:
    """A node called outside a workflow function is an error."""
    with pytest.raises(WorkflowError, match="text_encode\\(\\) is called outside a @workflow function"):
        text_encode(M, prompt="x")
