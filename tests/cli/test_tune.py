"""``lego-serve tune``: the grids of a model and what they cost, written beside its weights or elsewhere."""

import json
import re
import shutil
from pathlib import Path

import pytest

from lego_serve.models.lora.loading import base_layers
from lego_serve.models.registry import ModelSpec
from lego_serve.models.tier_files import read_book
from tests.support.lora.adapters import diffusers_names, products, saved

CONFIG = 'models: {{m: {{path: "{model}", max_sequence_length: 0, dtype: float32, tiers: "{tiers}"}}}}\n'


@pytest.fixture
def tiers(tmp_path: Path) -> Path:
    """Where the tiers are kept."""
    return tmp_path / "tiers.json"


@pytest.fixture
def words(tmp_path: Path, tiers: Path, tiny_folder: Path) -> list[str]:
    """The options of a small model, two small images and four steps."""
    config, prompts = tmp_path / "config.yaml", tmp_path / "prompts.txt"
    config.write_text(CONFIG.format(model=tiny_folder, tiers=tiers))
    prompts.write_text("a red circle\n\na blue square\n")
    return ["--config", str(config), "--prompts", str(prompts), "--steps", "4", "--side", "96"]


def test_a_model_is_tuned_and_measured(command, words, tiers, tiny_folder, tmp_path) -> None:
    """Grids first, then what they do to images; a second tuning of other steps leaves the first."""
    code, out, _ = command("tune", "grid", *words)
    assert code == 0, out
    assert "3 tiers of 4 steps of euler" in out
    book = read_book(str(tiny_folder), tiers)
    assert [(run.tier, run.grid.evaluations, run.pixels) for run in book.runs] == [
        ("high", 2, (9216, 9216)),
        ("balanced", 1, (9216, 9216)),
        ("fast", 1, (9216, 9216)),
    ]
    samples = tmp_path / "samples"
    code, out, _ = command("tune", "quality", *words, "--samples", str(samples))
    assert code == 0, out
    measured = read_book(str(tiny_folder), tiers)
    assert [run.grid for run in measured.runs] == [run.grid for run in book.runs]
    for run in measured.runs:
        found = run.quality["96x96, guidance 4"]
        assert isinstance(found, dict)
        assert found["images"] == 2
        assert found["psnr_least"] <= found["psnr_mean"] < 99
    written = samples.read_text()
    assert command("tune", "quality", *words, "--samples", str(samples))[0] == 0
    assert samples.read_text() == written, "what is measured is not measured again"


def test_samples_of_other_grids_or_settings_are_not_taken_for_these(command, words, tiers, tmp_path) -> None:
    """They would be written down as what the new grids do; more of the same images are."""
    samples = str(tmp_path / "samples")
    assert command("tune", "grid", *words)[0] == 0
    assert command("tune", "quality", *words, "--samples", samples, "--count", "1")[0] == 0
    code, _, error = command("tune", "quality", *words, "--samples", samples, "--guidance", "7")
    assert (code, error.count("\n")) == (1, 1)
    assert "holds samples of other weights, grids, prompts or settings" in " ".join(error.split())
    assert "guidance 7" not in tiers.read_text()
    assert command("tune", "quality", *words, "--samples", samples)[0] == 0


def test_tiers_are_measured_with_an_adapter_as_a_row_of_its_own(command, words, tiers, tiny_folder, tmp_path) -> None:
    """One of the denoiser alone, by its id; of strength 0 it changes no image."""
    roots, config = tmp_path / "adapters", tmp_path / "config.yaml"
    roots.mkdir()
    base = base_layers(ModelSpec("m", str(tiny_folder), dtype="float32"))
    layers = products(base, only="transformer.")
    saved(diffusers_names(layers), roots, "style")
    with_roots = CONFIG.replace("{{path", f'{{{{adapters: {{{{roots: ["{roots}"]}}}}, path', 1)
    config.write_text(with_roots.format(model=tiny_folder, tiers=tiers))
    assert command("tune", "grid", *words)[0] == 0
    style, off = ("--lora", "style"), ("--scale", "0")
    asked = {"": (), ", adapter style at 0": (*style, *off), ", adapter style at 1": style}
    for number, options in enumerate(asked.values()):
        code, out, _ = command("tune", "quality", *words, "--samples", str(tmp_path / f"s{number}"), *options)
        assert code == 0, out
    quality = read_book(str(tiny_folder), tiers).runs[0].quality
    plain, none, styled = (quality[f"96x96, guidance 4{name}"] for name in asked)
    assert plain == none != styled
    code, _, error = command("tune", "quality", *words, "--samples", str(tmp_path / "s"), "--lora", "stile")
    assert (code, error.count("\n")) == (1, 1)
    assert "style" in error


def test_what_cannot_be_tuned_is_one_line(command, words, tmp_path) -> None:
    """A hub id, an unknown model, grids that are not there yet, and samples that are none."""
    config = tmp_path / "hub.yaml"
    config.write_text("models: {m: {path: someone/model}}\n")
    assert "nothing can be tuned" in command("tune", "grid", "--config", str(config))[2]
    assert "name one `--model` of m" in command("tune", "grid", *words, "--model", "other")[2]
    code, _, error = command("tune", "quality", *words, "--samples", str(tmp_path / "samples"))
    assert (code, error.count("\n")) == (1, 1)
    assert "tiers" in error
    code, _, error = command("tune", "grid", *words, "--own-rows", "0.5", "--block-rows", "0.6")
    assert (code, error.count("\n")) == (1, 1)
    assert "either own rows or rows per block" in error
    assert "larger than the largest, `--side` 96" in command("tune", "grid", *words, "--smallest", "112")[2]
    (tmp_path / "no-samples").write_text(json.dumps([{"row": "exact"}]))
    (tmp_path / "tiers.json").write_text("{}")
    assert command("tune", "quality", *words, "--samples", str(tmp_path / "no-samples"))[0] == 1


def test_a_router_is_trained_and_tiers_have_rows_per_block(command, words, tiers, tiny_folder, tmp_path) -> None:
    """Without a router beside the weights no tier has them; a training of no time is an untrained router."""
    code, _, error = command("tune", "grid", *words, "--block-rows", "0.6")
    assert (code, error.count("\n")) == (1, 1)
    assert "rows per block need a router, which `lego-serve tune prune` makes" in error
    model = tmp_path / "model"
    shutil.copytree(tiny_folder, model)
    (tmp_path / "config.yaml").write_text(CONFIG.format(model=model, tiers=tiers))
    code, out, _ = command("tune", "prune", *words, "--state", str(tmp_path / "state"), "--minutes", "0")
    assert code == 0, out
    assert re.search(r"0 updates; 75% of rows, held-out loss: trained .*, untrained .*, random", " ".join(out.split()))
    code, out, _ = command("tune", "grid", *words, "--block-rows", "0.6")
    assert code == 0, out
    [high, *_] = read_book(str(model), tiers).runs
    assert high.block_rows is not None
    assert high.block_rows.shares == ((1.0,) * 6, (1.0, *[pytest.approx(0.4)] * 5))
    code, out, _ = command("tune", "quality", *words, "--samples", str(tmp_path / "samples"))
    assert code == 0, out
