import json
from pathlib import Path

import pytest

from loadgen.runs.folder import CONFIG, SUMMARY, describe, digest, without_secrets, write_result
from loadgen.runs.report import read_result
from loadgen.traces.errors import TraceError
from loadgen.traces.record import Record


def test_keys_are_not_written_down() -> None:
    """Neither a key nor the password of a URL is part of a result, which is passed on."""
    words = ["run", "--api-key", "secret", "--api-key=secret", "--url", "https://me:secret@host/x", "--seed", "1"]
    assert "secret" not in " ".join(without_secrets(words))
    assert without_secrets(["--seed", "1", "a@b"]) == ["--seed", "1", "a@b"]
    assert "secret" not in json.dumps(describe("run", {"url": "http://me:secret@host"}, "")["options"])


def test_equal_workloads_have_equal_digests() -> None:
    """A workload is its requests and its times; either changes the digest."""
    records = [Record(0, {"prompt": "a"}), Record(5, {"prompt": "b"})]
    assert digest(records, [0.0, 1.0]) == digest(list(records), [0.0, 1.0])
    assert len({digest(records, [0, 1]), digest(records, [0, 2]), digest(records[:1], [0, 1])}) == 3


@pytest.mark.parametrize(
    "summary",
    [
        "{}",
        "[]",
        "nonsense",
        '{"kind": "sweep", "target": 0.9, "trials": [{}], "limit": {}}',
        '{"kind": "run", "latency": 7}',
    ],
)
def test_what_is_no_result_is_one_line(summary: str, tmp_path: Path) -> None:
    """A folder whose summary is none of this tool's is an error that names the file."""
    (tmp_path / CONFIG).write_text("{}")
    (tmp_path / SUMMARY).write_text(summary)
    with pytest.raises(TraceError) as raised:
        read_result(tmp_path)
    assert str(raised.value).startswith(str(tmp_path / SUMMARY))
    assert "\n" not in str(raised.value)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A result that cannot be written is an error that names the folder."""
    (tmp_path / "file").write_text("")
    with pytest.raises(TraceError, match="file"):
        write_result(tmp_path / "file", {}, {})
