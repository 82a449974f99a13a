import json
from pathlib import Path

from typer.testing import CliRunner

from loadgen.__main__ import app

run = CliRunner().invoke


def test_a_trace_is_made_changed_and_described(tmp_path: Path) -> None:
    """A synthetic trace can be scaled and described without any file of the published ones."""
    made, changed = str(tmp_path / "made.jsonl"), str(tmp_path / "changed.jsonl")
    assert run(app, ["trace", "synth", "diflow", made, "--requests", "50", "--model", "lego-tiny"]).exit_code == 0
    done = run(app, ["trace", "scale", made, changed, "--rate", "20", "--window", "1:"])
    assert done.exit_code == 0, done.output
    told = json.loads(run(app, ["trace", "stats", changed, "--json"]).stdout)
    assert told["rate_rps"] == 20
    assert told["models"] == {"distinct": 1, "top1": 1.0, "top5": 1.0, "top10": 1.0}
    assert "workflows top1" in run(app, ["trace", "stats", changed]).stdout


def test_converted_lines_hold_a_body_and_what_it_has_no_field_for(tmp_path: Path) -> None:
    """A converted line has the fields of the native format, and `--limit` ends the file early."""
    source, out = tmp_path / "trace.txt", tmp_path / "out.jsonl"
    source.write_text("A 1.0\nB 0.5\nC 1.0\n")
    assert run(app, ["trace", "convert", str(source), str(out), "--limit", "2", "--size", "64x64"]).exit_code == 0
    first, second = map(json.loads, out.read_text().splitlines())
    assert set(first) == {"timestamp", "payload", "extra"}
    assert (second["timestamp"], second["payload"]["size"], second["extra"]["workflow"]) == (500, "64x64", "B")


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    """A malformed trace ends every command with exit code 2 and one line that names file, line and field."""
    source = tmp_path / "trace.txt"
    source.write_text("A 1.0\nB soon\n")
    for words in (["stats"], ["convert", str(tmp_path / "out")], ["scale", str(tmp_path / "out")]):
        done = run(app, ["trace", words[0], str(source), *words[1:]])
        assert done.exit_code == 2
        assert done.stderr == f"{source}:2: field `interval`: 'soon' is no number\n"


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    """Unknown traces and formats, and windows that are none, are refused with what there is instead."""
    out = str(tmp_path / "out")
    for words, says in (
        (["synth", "alibaba", out], "gentd26"),
        (["stats", out, "--format", "csv"], "burstgpt"),
        (["scale", out, out, "--window", "9:3"], "600:1200"),
        (["convert", out, out, "--force-steps"], "--steps"),
    ):
        done = run(app, ["trace", *words])
        assert done.exit_code == 2
        assert says in done.output
