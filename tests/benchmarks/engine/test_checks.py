"""What the benchmark of the engine checks before it times: kernels, velocities, and the compiled side."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

import lego_kernels
from benchmarks.engine import diffusers_side
from benchmarks.engine.checks import Disagreement, check_kernels, check_velocities
from benchmarks.engine.commands import app
from benchmarks.engine.models import Subject, build
from lego_kernels import reference
from lego_serve.models.dtypes import multiplies_bf16

CPU = torch.device("cpu")
MODELS = ("tiny", "tiny-flux")
OPS = [name for name in lego_kernels.__all__ if name.islower()]  # the classes there are what some of them take


@pytest.fixture(scope="module", params=MODELS)
def subject(request: pytest.FixtureRequest) -> Subject:
    """A model of each family, in the dtype in which a small error shows."""
    return build(request.param, CPU, "float32")


@pytest.fixture(scope="module", params=MODELS)
def coarse(request: pytest.FixtureRequest) -> Subject:
    """The same in bfloat16, as they are served where the CPU multiplies it."""
    return build(request.param, CPU, "bfloat16")


def longer(result: reference.Result, factor: float) -> reference.Result:
    """What an op returned, its last part multiplied; whole numbers are one too large."""
    *right, last = reference.parts_of(result)
    wrong = last * factor if last.is_floating_point() else last + 1
    return (*right, wrong) if right else wrong


@pytest.mark.parametrize("name", OPS)
def test_a_wrong_kernel_is_found(subject: Subject, name: str) -> None:
    """An op that is off by a thousandth does not pass; the right ones do."""
    check_kernels(subject)
    right = {op: getattr(lego_kernels, op) for op in OPS}
    wrong = SimpleNamespace(**right | {name: lambda **arguments: longer(right[name](**arguments), 1.001)})
    with pytest.raises(Disagreement, match=name):
        check_kernels(subject, wrong)


@pytest.mark.parametrize("name", OPS)
def test_a_wrong_kernel_is_found_in_half_precision(coarse: Subject, name: str) -> None:
    """An op that is off by a fifth does not pass; the right ones do."""
    check_kernels(coarse)
    right = {op: getattr(lego_kernels, op) for op in OPS}
    wrong = SimpleNamespace(**right | {name: lambda **arguments: longer(right[name](**arguments), 1.2)})
    with pytest.raises(Disagreement, match=name):
        check_kernels(coarse, wrong)


def test_a_kernel_that_answers_nan_is_found(subject: Subject) -> None:
    """No comparison with NaN holds, so it must not slip through one."""
    right = {op: getattr(lego_kernels, op) for op in OPS}
    wrong = SimpleNamespace(
        **right | {"gated_residual": lambda **arguments: right["gated_residual"](**arguments) * torch.nan}
    )
    with pytest.raises(Disagreement, match="nan"):
        check_kernels(subject, wrong)


def test_nothing_is_timed_with_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command ends with an error and writes no file."""
    right = lego_kernels.norm_modulate
    off = 1.0 if multiplies_bf16() else 0.01  # the command runs in the dtype that is served
    monkeypatch.setattr(lego_kernels, "norm_modulate", lambda **arguments: right(**arguments) + off)
    file = tmp_path / "rows.json"
    done = CliRunner().invoke(app, ["ragged", "--model", "tiny", "--quick", "--json", str(file)])
    assert done.exit_code == 1
    assert "Nothing was timed" in done.output
    assert not file.exists()


def test_velocities_are_held_against_diffusers(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides say the same; were ours a hundredth longer, it would be refused."""
    assert check_velocities(subject, 4) < 1e-4
    velocity = type(subject.backbone).velocity
    monkeypatch.setattr(
        type(subject.backbone), "velocity", lambda self, lanes: [v * 1.01 for v in velocity(self, lanes)]
    )
    with pytest.raises(Disagreement, match="velocity"):
        check_velocities(subject, 4)


def test_velocities_are_held_against_diffusers_in_half_precision(
    coarse: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both sides round differently after every layer; were ours a fifth longer, it would be refused."""
    assert check_velocities(coarse, 4) < 0.02
    velocity = type(coarse.backbone).velocity
    monkeypatch.setattr(type(coarse.backbone), "velocity", lambda self, lanes: [v * 1.2 for v in velocity(self, lanes)])
    with pytest.raises(Disagreement, match="velocity"):
        check_velocities(coarse, 4)


def test_the_compiled_side_leaves_the_eager_one_alone(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin's blocks are what the compiler answers, over the same weights; the original keeps its own."""
    made: list[torch.nn.Module] = []

    def fake_compile(block: torch.nn.Module, **_: object) -> torch.nn.Module:
        made.append(torch.nn.Sequential(block))
        return made[-1]

    monkeypatch.setattr(torch, "compile", fake_compile)
    before = list(subject.transformer.transformer_blocks)
    twin = diffusers_side.compiled(subject.transformer)
    assert list(twin.transformer_blocks) == made[: len(before)]
    assert list(subject.transformer.transformer_blocks) == before
    assert {id(p) for p in twin.parameters()} == {id(p) for p in subject.transformer.parameters()}
