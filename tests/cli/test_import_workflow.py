"""``lego-serve workflows import``: what it writes, and how it fails."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lego_serve.cli.workflows import app
from lego_serve.workflow_files import MAX_BYTES, load_workflow
from tests.support.graphs import guided_by_input, masked_edit, text_to_image

run = CliRunner().invoke


def saved(folder: Path, content: object, name: str = "my flow.json") -> Path:
    file = folder / name
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


@pytest.mark.parametrize("graph", [text_to_image(), masked_edit(), guided_by_input()])
def test_what_is_written_is_valid(tmp_path: Path, graph: object) -> None:
    """`workflows validate` takes it, named after the file."""
    written = tmp_path / "out.yaml"
    result = run(app, ["import", str(saved(tmp_path, graph)), "-o", str(written)])
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    checked = run(app, ["validate", str(written)])
    assert checked.exit_code == 0
    assert "workflow my-flow 1 is right" in checked.stdout


def test_without_a_file_it_goes_to_stdout(tmp_path: Path) -> None:
    """A body as it was sent will do as well, and the model may be named."""
    file = saved(tmp_path, {"prompt": text_to_image(), "client_id": "me"})
    result = run(app, ["import", str(file), "--model", "mine"])
    assert result.exit_code == 0
    assert result.stdout.startswith("# Made of ComfyUI's my flow.json.\n")
    assert load_workflow(result.stdout, "x.yaml").models == {"mine"}


def test_unknown_nodes_are_named_with_the_nearest(tmp_path: Path) -> None:
    """One line for each node that is wrong, and exit status 1."""
    graph = text_to_image()
    graph["3"]["class_type"] = "KSampler2"
    graph["8"]["class_type"] = "VAEDecoder"
    file = saved(tmp_path, graph)
    result = run(app, ["import", str(file)])
    assert (result.exit_code, result.stdout) == (1, "")
    first, second = result.stderr.splitlines()
    assert first.startswith(f"{file}: node 3: ")
    assert "did you mean KSampler?" in first
    assert "did you mean VAEDecode?" in second


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is nested too deeply"),
        ("[]", "No prompt provided"),
        ('{"nodes": [], "links": []}', "use `Export (API)`"),
        (" " * (MAX_BYTES + 1), "bytes are no workflow"),
    ],
)
def test_what_is_no_workflow_is_one_line(tmp_path: Path, content: str, said: str) -> None:
    """It names the file."""
    file = saved(tmp_path, content, "x.json")
    result = run(app, ["import", str(file)])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"{file}: ")
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_files_that_cannot_be_read_or_written_are_named(tmp_path: Path) -> None:
    """Without a traceback."""
    result = run(app, ["import", str(tmp_path / "no.json")])
    assert result.stderr.endswith("no.json: cannot be read: No such file or directory\n")
    result = run(app, ["import", str(saved(tmp_path, text_to_image())), "-o", str(tmp_path / "no" / "out.yaml")])
    assert result.stderr.endswith("out.yaml: cannot be written: No such file or directory\n")
