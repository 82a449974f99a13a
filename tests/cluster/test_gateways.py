"""`lego-serve gateway`: what it refuses to start with, each in one line."""

from pathlib import Path

import pytest

MODELS = "models: {lego-tiny: {path: 'builtin:lego-tiny', max_sequence_length: 0}}\n"


@pytest.mark.parametrize(
    ("server", "message"),
    [
        ("{ray_address: 'a:1'}", "leave it out here"),
        ("{data: /proc/nothing}", "`server.data`: /proc/nothing/state cannot be made: No such file or directory"),
        ("{port: 8000, operations_port: 8000}", "operations_port is the same as port (8000)"),
        ("{peers: nobody}", "`server.peers`"),
        ("{operation_port: 1}", "did you mean `operations_port`?"),
    ],
)
def test_what_cannot_work_is_one_line_and_status_1(command, tmp_path: Path, server: str, message: str) -> None:
    """It says what and where."""
    path = tmp_path / "config.yaml"
    path.write_text(f"server: {server}\n{MODELS}")
    status, _, complaint = command("gateway", str(path))
    assert status == 1
    assert complaint.startswith("error: ")
    assert complaint.count("\n") == 1
    assert message in complaint
