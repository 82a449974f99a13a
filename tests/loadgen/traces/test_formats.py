import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from loadgen.traces.errors import TraceError
from loadgen.traces.formats import AUTO, detect, read_records
from loadgen.traces.payloads import Asking
from loadgen.traces.record import Record

GENTD26_HEADER = (
    "gmt_create,predict_type,predict_status,exec_time_seconds,groupId,prompt_length,negative_prompt_length,"
    "num_images_per_prompt,num_inference_steps,checkpoint_model_version_id,num_lora\n"
)
KATZ = [
    {
        "timestamp": 50_000.0,
        "ip": "host",
        "scene_id": "A",
        "base_model_id": "m1",
        "controlnets": ["c1", "c2"],
        "loras": None,
    },
    {"timestamp": 50_001.5, "ip": "host", "scene_id": "B", "base_model_id": None, "controlnets": None, "loras": ["l1"]},
]
FILES = {
    "diflow": "A 2.5\nB 0.0\nC 1.25\n",
    "gentd26": GENTD26_HEADER
    + "2024-11-15 16:57:50,TXT_2_IMG,SUCCEED,32.0,G0000,63.0,26.0,1.0,30.0,M0000,2\n"
    + "2024-11-15 16:57:52,INPAINTING,SUCCEED,43.0,G0001,93.0,,4.0,40.0,M0001,0\n"
    + "2024-11-15 16:57:58,IMG_2_IMG,FAILED,,G0001,,,,,,0\n",
    "katz": json.dumps(KATZ),
    "azure": "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    + "2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,3180,8\n",
    "mooncake": '{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}\n'
    + '{"timestamp": 3000, "input_length": 7322, "output_length": 490, "hash_ids": []}\n',
    "burstgpt": "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    + "5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,1087,0,1087,API log\n",
    "native": '{"timestamp":0,"payload":{"model":"m","prompt":"a"}}\n\n'
    + '{"timestamp":7.5,"payload":{"prompt":"b"},"extra":{"workflow":"w","own":1}}\n',
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def to_file(text: str) -> Path:
        path = tmp_path / "trace"
        path.write_text(text)
        return path

    return to_file


def read(path: Path, asking: Asking | None = None, seed: int = 0) -> list[Record]:
    return read_records(path, AUTO, asking or Asking(), seed)


@pytest.mark.parametrize("name", FILES)
def test_format_is_told_by_the_first_line(name: str, write: Callable[[str], Path]) -> None:
    """Every format is recognised, its first request is due at once, and the others keep their gaps."""
    path = write(FILES[name])
    assert detect(path) == name
    records = read(path)
    assert records[0].timestamp_ms == 0
    expected = {
        "diflow": [0, 1250],
        "gentd26": [2000, 8000],
        "katz": [1500],
        "azure": [52],
        "mooncake": [3000],
        "burstgpt": [40_000],
        "native": [7.5],
    }
    assert [record.timestamp_ms for record in records[1:]] == pytest.approx(expected[name], abs=0.01)


def test_packed_files_are_read(tmp_path: Path) -> None:
    """A file whose name ends in .gz is unpacked while it is read."""
    path = tmp_path / "trace.gz"
    path.write_bytes(gzip.compress(FILES["diflow"].encode()))
    assert [record.workflow for record in read(path)] == ["A", "B", "C"]


def test_diflow_has_solo_times(write: Callable[[str], Path]) -> None:
    """DiFlow's workflows carry their published seconds alone, and twice that as the objective."""
    first, second, _ = read(write(FILES["diflow"]))
    assert first.extra == {"workflow": "A", "solo_ms": 1987.0, "slo_ms": 3974.0}
    assert second.names("controlnets") == ("canny",)
    assert first.payload["num_inference_steps"] == 4


def test_gentd26_fields(write: Callable[[str], Path]) -> None:
    """Kinds, images, steps, users, LoRAs and seconds are kept; what failed has no seconds, and says so."""
    plain, inpaint, failed = read(write(FILES["gentd26"]), Asking(slo_scale=3.0))
    assert (plain.workflow, plain.extra["tenant"], len(plain.names("adapters"))) == ("M0000", "G0000", 2)
    assert (plain.payload["num_inference_steps"], plain.extra["slo_ms"]) == (30, 96_000.0)
    assert (inpaint.kind, inpaint.payload["n"]) == ("inpaint", 4)
    assert (failed.kind, failed.workflow, failed.milliseconds("solo_ms")) == ("edit", "unknown", None)
    assert failed.extra["source"] == {"status": "FAILED"}


def test_katz_fields_in_either_layout(write: Callable[[str], Path]) -> None:
    """Katz's requests keep service, base model and add-ons, from an array or from one object a line."""
    first, second = read(write(FILES["katz"]))
    assert (first.workflow, first.extra["tenant"], first.names("controlnets")) == ("m1", "A", ("c1", "c2"))
    assert (second.workflow, second.names("adapters")) == ("unknown", ("l1",))
    assert read(write("\n".join(map(json.dumps, KATZ)))) == [first, second]
    assert read(write(json.dumps(KATZ, indent=1))) == [first, second]


def test_lengths_stay_beside_the_request(write: Callable[[str], Path]) -> None:
    """What a trace of a language model says of lengths is kept in extra, not in the image request."""
    [first, *_] = read(write(FILES["azure"]))
    assert first.extra["source"] == {"input_length": 4808, "output_length": 10}
    assert set(first.payload) == {"model", "prompt", "n", "size", "seed"}


def test_models_stand_for_workflows_by_popularity(write: Callable[[str], Path]) -> None:
    """The most popular workflow is asked for by the first name, and so on in turn; extra keeps the trace's name."""
    records = read(write("B 0\nB 1\nA 1\nC 1\nB 1\nA 1\n"), Asking(models=("one", "two")))
    assert [(record.workflow, record.payload["model"]) for record in records] == [
        ("B", "one"),
        ("B", "one"),
        ("A", "two"),
        ("C", "one"),
        ("B", "one"),
        ("A", "two"),
    ]


def test_adapters_are_asked_for_where_the_server_has_some(write: Callable[[str], Path]) -> None:
    """With names of adapters the body has them; without, only extra tells which the trace had."""
    path = write(FILES["gentd26"])
    [with_names, *_] = read(path, Asking(adapters=("watercolor", "pixel")))
    assert with_names.payload["lora"] == [{"name": "watercolor", "scale": 1.0}, {"name": "pixel", "scale": 1.0}]
    assert "lora" not in read(path)[0].payload


def test_steps_can_be_forced(write: Callable[[str], Path]) -> None:
    """Steps fill in where the trace says nothing, or replace what it says."""
    path = write(FILES["gentd26"])
    assert [r.payload["num_inference_steps"] for r in read(path, Asking(steps=8))] == [30, 40, 8]
    assert [r.payload["num_inference_steps"] for r in read(path, Asking(steps=8, forces_steps=True))] == [8, 8, 8]


def test_prompts_and_seeds_differ(write: Callable[[str], Path]) -> None:
    """No two requests have a prompt or a seed in common, and the same seed makes the same trace."""
    path = write("A 0.5\n" * 50)
    records = read(path)
    assert len({str(r.payload["prompt"]) for r in records}) == len({r.payload["seed"] for r in records}) == 50
    assert read(path) == records != read(path, seed=1)


BAD = {
    "diflow interval": ("A 1.0\nB x\n", ":2: field `interval`: 'x' is no number"),
    "diflow negative": ("A 1.0\nB -1\n", ":2: field `interval`: '-1' is no number of at least 0"),
    "diflow words": ("A 1.0\nB\n", ":2: has 1 fields"),
    "gentd26 time": (
        FILES["gentd26"].replace("2024-11-15 16:57:52", "yesterday"),
        ":3: field `gmt_create`: 'yesterday' is no date",
    ),
    "gentd26 kind": (FILES["gentd26"].replace("INPAINTING", "VIDEO"), ":3: field `predict_type`: 'VIDEO' is none of"),
    "gentd26 row": (FILES["gentd26"].replace(",2\n", "\n"), ":2: has 10 fields, the header 11"),
    "katz time": (FILES["katz"].replace("50001.5", '"x"'), ":1: field `timestamp`: 'x' is no number"),
    "katz line": (json.dumps(KATZ, indent=0).replace("50001.5", "null"), ":13: field `timestamp`: is missing"),
    "katz names": (FILES["katz"].replace('["c1", "c2"]', "7"), ":1: field `controlnets`: 7 is no list of names"),
    "katz comma": (FILES["katz"].replace("}, {", "} {"), ":1: a comma or ] is missing"),
    "katz cut": (FILES["katz"][:-20], ":1: is no JSON"),
    "azure tokens": (
        FILES["azure"].replace("3180", "many"),
        ":3: field `ContextTokens`: 'many' is no number",
    ),
    "mooncake json": (FILES["mooncake"] + "{\n", ":3: is no JSON"),
    "mooncake length": (
        FILES["mooncake"].replace('"output_length": 490, ', ""),
        ":2: field `output_length`: is missing",
    ),
    "burstgpt half": (
        FILES["burstgpt"].replace("1087,0", "1087.5,0"),
        ":3: field `Request tokens`: '1087.5' is no whole number",
    ),
    "native order": (
        FILES["native"].replace('"timestamp":0', '"timestamp":9'),
        ":3: field `timestamp`: 7.5 is earlier",
    ),
    "native nan": (FILES["native"].replace("7.5", "NaN"), ":3: field `timestamp`: nan is no number"),
    "native payload": (FILES["native"].replace('{"prompt":"b"}', "{}"), ":3: field `payload`: {} is no request body"),
    "native field": (FILES["native"].replace('"extra"', '"more"'), ":3: field `more`: is unknown"),
    "native slo": (
        FILES["native"].replace('"own":1', '"slo_ms":"5 s"'),
        ":3: field `extra.slo_ms`: '5 s' is no number",
    ),
    "native kind": (FILES["native"].replace('"own":1', '"kind":"x"'), ":3: field `extra.kind`: 'x' is none of"),
    "unknown": ("hello world out there\n", ":1: is in no known format"),
    "empty": ("", ": is empty"),
    "nothing": ("\n\n", ":1: is in no known format"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_lines_are_named(case: str, write: Callable[[str], Path]) -> None:
    """A malformed line is one line of complaint with the file, the line and the field."""
    text, says = BAD[case]
    path = write(text)
    with pytest.raises(TraceError) as raised:
        read(path)
    message = str(raised.value)
    assert message.startswith(f"{path}{says}")
    assert "\n" not in message


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    """A file that is no text, or no gzip under that name, is an error about a line of it."""
    path = tmp_path / "trace"
    path.write_bytes(b"A 1.0\n\xff\xfe\n")
    with pytest.raises(TraceError, match=":2: is no text in UTF-8"):
        read(path)
    packed = tmp_path / "trace.gz"
    packed.write_bytes(b"A 1.0\n")
    with pytest.raises(TraceError, match="cannot be read"):
        read(packed)
    with pytest.raises(TraceError, match="No such file"):
        read(tmp_path / "none")
