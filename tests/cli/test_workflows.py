"""``lego-serve workflows``: what it prints and how it exits."""

from pathlib import Path

from typer.testing import CliRunner

from lego_serve import workflow_files
from lego_serve.cli.workflows import app
from lego_serve.workflow_files import built_in_workflows, read_workflow

SHIPPED = Path(workflow_files.__file__).parent / "workflows"
run = CliRunner().invoke


def test_a_right_file_is_told_with_its_hash() -> None:
    """validate exits 0 and prints name, hash, inputs and models."""
    result = run(app, ["validate", str(SHIPPED / "lego-tiny.yaml")])
    assert result.exit_code == 0
    assert built_in_workflows()["lego-tiny"].content_hash in result.stdout
    assert "inputs: prompt, negative_prompt" in result.stdout
    assert "models: lego-tiny" in result.stdout


def test_a_wrong_file_is_one_line_and_exit_status_one(tmp_path: Path) -> None:
    """Both commands write `file:line: node ...: ... did you mean ...` to stderr, whole, and exit 1."""
    wrong = tmp_path / f"{'long' * 30}.yaml"
    wrong.write_text((SHIPPED / "lego-tiny.yaml").read_text().replace("steps: $inputs", "step: $inputs"))
    for command in ("validate", "graph"):
        result = run(app, [command, str(wrong)])
        assert result.exit_code == 1
        assert result.stdout == ""
        assert result.stderr == f"{wrong}:29: node latents: `denoise` takes no `step`; did you mean `steps`?\n"


def test_a_missing_file_is_one_line_too(tmp_path: Path) -> None:
    """A file that is not there is named, without a traceback."""
    result = run(app, ["validate", str(tmp_path / "no.yaml")])
    assert result.exit_code == 1
    assert result.stderr.endswith("no.yaml: cannot be read: No such file or directory\n")


def test_a_python_file_that_exits_is_one_line_too(tmp_path: Path) -> None:
    """Its own exit is a fault of it, not the end of ours."""
    (tmp_path / "leaves.py").write_text("x = 1\nraise SystemExit(3)\n")
    result = run(app, ["validate", str(tmp_path / "leaves.py")])
    assert result.exit_code == 1
    assert result.stderr.endswith("leaves.py:2: SystemExit: 3\n")


def test_the_tree_holds_every_node_and_input() -> None:
    """graph draws all nodes with their kinds, from the output back to the inputs."""
    file = SHIPPED / "lego-tiny-img2img.yaml"
    result = run(app, ["graph", str(file)])
    assert result.exit_code == 0
    for node in read_workflow(file).nodes.values():
        assert f"{node.kind} of {node.model}" in result.stdout
    assert "strength = $inputs.strength" in result.stdout


def test_a_shared_node_is_drawn_once_in_full(tmp_path: Path) -> None:
    """Where a node's value goes two ways, the second says that it is drawn above."""
    text = (SHIPPED / "lego-tiny.yaml").read_text()
    text = text.replace("negative: $negative", "negative: $cond")
    lines = [line for line in text.splitlines() if "negative_prompt" not in line]
    (tmp_path / "shared.yaml").write_text("\n".join(lines))
    result = run(app, ["graph", str(tmp_path / "shared.yaml")])
    assert result.stdout.count("prompt = $inputs.prompt") == 1
    assert result.stdout.count("(drawn above)") == 1


def test_the_flowchart_has_an_arrow_for_every_reference() -> None:
    """graph --mermaid writes one arrow for each argument that is a reference and one for each output."""
    file = SHIPPED / "lego-tiny-img2img.yaml"
    result = run(app, ["graph", "--mermaid", str(file)])
    assert result.stdout.startswith("flowchart LR\n")
    assert "  node_cond -->|cond| node_latents\n" in result.stdout
    references = sum(str(a).startswith("$") for n in read_workflow(file).nodes.values() for a in n.arguments.values())
    assert result.stdout.count("-->") == references + 1
