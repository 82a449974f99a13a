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


@pytest.mark.parametrize("words", [("gateway",), ("node", "--gateways", "1", "--config")])
def test_a_missing_token_is_one_line_and_status_1(
    command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Before anything listens or is started: Ray itself would wait for ever."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "config.yaml"
    path.write_text(f"server: {{port: 0, data: {tmp_path / 'data'}}}\njobs: {{store: none}}\n{MODELS}")
    status, _, complaint = command(*words, str(path), *(("--", "true") if words[0] == "node" else ()))
    assert status == 1
    assert complaint.startswith("error: RAY_AUTH_MODE is token, and there is none")
    assert complaint.count("\n") == 1
