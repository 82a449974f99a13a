"""Workflow files: what is read from them, and where their faults are reported."""

import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lego_serve import workflow_files
from lego_serve.core.workflow.bind import bind
from lego_serve.core.workflow.graph import Input, Source
from lego_serve.errors import UnsupportedParameter, WorkflowError
from lego_serve.workflow_files import built_in_workflows, load_workflow, read_workflow

TINY = Path(workflow_files.__file__).parent / "workflows" / "lego-tiny.yaml"
GOOD = TINY.read_text()
PYTHON = """
from lego_serve.core.workflow.dsl import Text, decode, denoise, text_encode, workflow

@workflow("in-python")
def declared(prompt: Text):
    cond = text_encode("m", prompt=prompt)
    return decode("m", latents=denoise(
        "m", cond=cond, negative=cond, width=128, height=128, steps=4, guidance=1.0, seed=0, n=1))
"""


def complaint(text: str) -> str:
    with pytest.raises(WorkflowError) as caught:
        load_workflow(text, "w.yaml")
    return caught.value.message


def test_the_built_in_workflows_compile() -> None:
    """What ships with the package is read by name; each has siblings for image to image, and for edits with a mask."""
    found = built_in_workflows()
    assert {"lego-tiny", "lego-tiny-img2img", "sd35-medium", "sd3-medium"} <= found.keys()
    for name, workflow in found.items():
        assert workflow.name == name
        plain = re.sub("(-(img2img|edit|controlnet))?(-lora)?$", "", name)
        assert workflow.models == {plain}
        assert {f"{plain}-img2img", f"{plain}-edit"} <= found.keys()


def test_adapters_change_all_that_an_edit_encodes_and_computes() -> None:
    """With the adapters the graph is the same; every prompt is encoded with them, also the one that primes."""
    found = built_in_workflows()
    for name in ("lego-tiny-edit", "lego-tiny-img2img"):
        plain, adapted = found[name], found[f"{name}-lora"]
        assert adapted.inputs.keys() - plain.inputs.keys() == {"lora"}
        assert adapted.nodes.keys() - plain.nodes.keys() == {"adapters"}
        assert adapted.min_ssim == plain.min_ssim == (0.95 if name.endswith("edit") else None)
        for node in plain.nodes.values():
            given = dict(adapted.nodes[node.name].arguments)
            assert (given.pop("adapters", None) is not None) == (node.kind in ("text_encode", "denoise")), node.name
            assert given == node.arguments


@pytest.mark.parametrize("model", ["lego-tiny", "sd3-medium", "sd35-medium", "flux-dev", "flux-schnell"])
def test_an_edit_is_a_generation_that_starts_from_its_template(model: str) -> None:
    """It differs in how it begins and ends, and in what primes; bounds and defaults are those of image to image."""
    found = built_in_workflows()
    edit, image = found[f"{model}-edit"], found[f"{model}-img2img"]
    more = {
        "edit": Input("edit", required=True),
        "caption": Input("text", default=""),
        "strength": replace(image.inputs["strength"], default=1.0),
    }
    assert edit.inputs == {name: value for name, value in image.inputs.items() if name != "image"} | more
    kinds = {name: node.kind for name, node in edit.nodes.items() if image.nodes.get(name) != node}
    assert kinds == {"prime": "text_encode", "template": "encode_edit", "latents": "denoise", "image": "decode_edit"}
    before, after = image.nodes["latents"].arguments, dict(edit.nodes["latents"].arguments)
    assert after.pop("edit") == Source("template", "edit")
    assert after.pop("prime") == Source("prime", "cond")
    assert edit.nodes["prime"].arguments == {"prompt": Source("inputs", "caption")}
    assert after == {name: value for name, value in before.items() if name != "init"}


def test_both_workflows_of_a_model_share_its_nodes() -> None:
    """Text to image and image to image differ in the encoding of the image only."""
    found = built_in_workflows()
    text, image = found["lego-tiny"].nodes, found["lego-tiny-img2img"].nodes
    assert {n: (text[n].kind, text[n].model) for n in text} == {n: (image[n].kind, image[n].model) for n in text}
    assert image.keys() - text.keys() == {"encoded"}


@pytest.mark.parametrize(
    ("name", "field"),
    [("flux-dev", "negative_prompt"), ("flux-dev", "guidance_start"), ("flux-schnell", "guidance")],
)
def test_flux_refuses_what_its_models_do_not_read(name: str, field: str) -> None:
    """A field without effect is no input of the workflow, so that a request with it is refused by name."""
    for workflow in (built_in_workflows()[name + end] for end in ("", "-img2img", "-edit")):
        image = {taken: b"" for taken in ("image", "edit") if taken in workflow.inputs}
        assert bind(workflow, {"prompt": "a"} | image)["steps"] == {"flux-dev": 28, "flux-schnell": 4}[name]
        with pytest.raises(UnsupportedParameter) as caught:
            bind(workflow, {"prompt": "a", field: 0.5} | image)
        assert caught.value.param == field


def test_formatting_does_not_matter() -> None:
    """Comments, flow and block style make no difference to the content hash."""
    flow = "cond:     {use: text_encode, model: lego-tiny, with: {prompt: $inputs.prompt}}"
    block = GOOD.replace(
        flow, "cond:\n    model: 'lego-tiny' # ours\n    with: {prompt: $inputs.prompt}\n    use: text_encode"
    )
    assert block != GOOD
    assert load_workflow(block, "a.yaml").content_hash == load_workflow(GOOD, "b.yaml").content_hash


def test_a_fault_has_file_line_node_and_nearest_name() -> None:
    """The message starts with file and line of the very argument, names the node and the word that was meant."""
    text = GOOD.replace("steps: $inputs.steps", "step: $inputs.steps")
    line = text[: text.index("step: $inputs")].count("\n") + 1
    assert complaint(text) == f"w.yaml:{line}: node latents: `denoise` takes no `step`; did you mean `steps`?"


def test_what_is_missing_is_said_of_what_lacks_it() -> None:
    """A missing argument is complained about at its node's line."""
    text = GOOD.replace("      seed: $inputs.seed\n", "")
    line = text[: text.index("\n  latents:")].count("\n") + 2
    assert complaint(text).startswith(f"w.yaml:{line}: node latents: `denoise` needs `seed`")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nodes: {a: [", "w.yaml:1: not YAML: "),
        ("a: 1\na: 2\n", "w.yaml:2: key `a` is given twice"),
        ("- a\n", "w.yaml:1: a workflow is a mapping"),
        ("", "w.yaml:1: a workflow is a mapping"),
        ("a: 1\n---\nb: 2\n", "w.yaml:2: not YAML: but found another document"),
        ("a: &x {}\nb: *x\n", "aliases are not taken in workflows"),
        ("a: &x {y: *x}\n", "aliases are not taken in workflows"),
        ("? [a]\n: 1\n", "w.yaml:1: a key is a word"),
        ("\nmetadata:\n  version: 2024-01-01\n", "w.yaml:3: `2024-01-01` is neither text, number nor truth"),
        ("a: !!python/object:os.system x\n", "w.yaml:1: `x` is neither text, number nor truth"),
        ("a: !!int word\n", "w.yaml:1: `word` is not what it claims to be"),
        ("a: \x00\n", "w.yaml:1: not YAML: "),
        ("[" * 5_000, "w.yaml:1: nested too deeply"),
        ("<<: {a: 1}\n", "w.yaml:1: unknown key `<<`"),
    ],
    ids=range(14),
)
def test_what_is_no_workflow_is_refused_in_a_line(text: str, expected: str) -> None:
    """Broken, hostile or odd YAML is one line of complaint with a line number, and nothing is executed."""
    message = complaint(text)
    assert expected in message
    assert "\n" not in message


@given(st.text(max_size=200))
def test_any_text_is_a_workflow_or_an_error(text: str) -> None:
    """No text whatever makes reading raise anything but a WorkflowError."""
    with pytest.raises(WorkflowError, match=r"w\.yaml:\d+: "):
        load_workflow(text, "w.yaml")


@given(st.integers(0, len(GOOD)), st.integers(0, 30), st.text(alphabet="${}[]:,&*!|>#\"'\n abs.0-", max_size=12))
def test_a_damaged_workflow_is_a_workflow_or_an_error(at: int, gone: int, put: str) -> None:
    """A good file with a piece replaced either compiles or is refused with a WorkflowError."""
    with suppress(WorkflowError):
        load_workflow(GOOD[:at] + put + GOOD[at + gone :], "w.yaml")


def test_a_python_file_is_run(tmp_path: Path) -> None:
    """A file ending in .py declares its workflow by running."""
    (tmp_path / "w.py").write_text(PYTHON)
    assert read_workflow(tmp_path / "w.py").name == "in-python"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\n", "w.py:1: a file declares one workflow, this one none"),
        (PYTHON + PYTHON.replace("declared", "other"), "this one in-python, in-python"),
        ("\n1 / 0\n", "w.py:2: ZeroDivisionError: division by zero"),
        ("\n\nx ===\n", "w.py:3: SyntaxError"),
        (PYTHON.replace("prompt=prompt", "promt=prompt"), "w.py:6: node text_encode: `text_encode` takes no `promt`"),
    ],
)
def test_a_python_file_that_is_wrong_is_refused_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    """Errors of a Python file name the file and the line, like those of YAML."""
    (tmp_path / "w.py").write_text(text)
    with pytest.raises(WorkflowError) as caught:
        read_workflow(tmp_path / "w.py")
    assert expected in caught.value.message


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """A missing, binary or huge file is one line that names it."""
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "huge.yaml").write_bytes(b"#" * (2 << 20))
    for name, message in (("no.yaml", "No such file"), ("binary.yaml", "not UTF-8"), ("huge.yaml", "more than")):
        with pytest.raises(WorkflowError, match=f"{name}: .*{message}"):
            read_workflow(tmp_path / name)
