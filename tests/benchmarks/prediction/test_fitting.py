"""The fit of costs: what is known is found again, also among disturbed steps."""

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.prediction.costs import AddonShares, Amount, read_profile, write_profile
from benchmarks.prediction.fitting import fit_profile, fit_server, fit_steps
from benchmarks.prediction.recording import Group, Shape, passes_of, read_recording, write_recording
from lego_serve.core.costs import Rates
from lego_serve.errors import ConfigError
from tests.support.prediction.profiles import (
    TEXT,
    calibration,
    lego_group,
    monolith_costs,
    monolith_group,
    profile,
    server_costs,
    shapes,
)

seconds = st.floats(1e-3, 2e-2)
per_row = st.floats(1e-5, 1e-4)
per_pair = st.floats(1e-8, 2e-7)


@settings(max_examples=15, deadline=None)
@given(
    constant=seconds,
    row=per_row,
    pair=per_pair,
    crowding=st.floats(0.0, 0.8),
    decode=st.floats(1e-7, 1e-5),
    image=seconds,
)
def test_known_costs_are_found_again(
    constant: float, row: float, pair: float, crowding: float, decode: float, image: float
) -> None:
    """Of steps alone and in company, nodes, hand-overs and whole images: to one percent."""
    server = server_costs(step=Rates(row, pair, constant), crowding=crowding, decode=Amount(0.004, decode))
    monolith = monolith_costs(step=Rates(row, pair, constant), crowding=crowding, image=Amount(image, 2e-6))
    found = fit_profile(calibration(server, monolith), 2, "now", TEXT)
    assert found.server.step.row_s == pytest.approx(row, rel=0.01)
    assert found.server.step.pair_s == pytest.approx(pair, rel=0.01)
    assert found.server.step.constant_s == pytest.approx(constant, rel=0.01)
    assert found.server.crowding == pytest.approx(crowding, abs=0.01)
    assert found.server.decode.unit_s == pytest.approx(decode, rel=0.01)
    assert found.server.encode.seconds(1) == pytest.approx(server.encode.seconds(1), rel=0.01)
    assert found.server.handover_s == pytest.approx(server.handover_s)
    assert found.server.outside_s == pytest.approx(server.outside_s, abs=1e-6)
    assert found.server.between_steps_s == pytest.approx(server.between_steps_s, abs=1e-6)
    one = found.monolith_with(1)
    assert one.step.row_s == pytest.approx(row, rel=0.02)
    assert one.crowding == pytest.approx(crowding, abs=0.01)
    assert one.image.seconds(128 * 128) == pytest.approx(monolith.image.seconds(128 * 128), rel=0.02)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_disturbed_steps_do_not_count(seed: int) -> None:
    """A step in ten takes thrice as long, the rest 2 % more or less: predicted seconds stay within 3 %."""
    costs, rng = server_costs(crowding=0.0), random.Random(seed)
    groups = [
        lego_group(costs, shape, slowed=3.0 if rng.random() < 0.1 else rng.uniform(0.98, 1.02))
        for shape in shapes()
        for _ in range(4)
    ]
    rates, _ = fit_steps([each for group in groups for each in passes_of(group)], TEXT)
    for rows, pairs in ((200, 20_000), (400, 80_000), (660, 220_000)):
        assert rates.seconds(rows, pairs) == pytest.approx(costs.step.seconds(rows, pairs), rel=0.03)


def test_a_step_grows_by_its_add_ons() -> None:
    """By a share of its work for each ControlNet and each adapter, on both systems."""
    shares = AddonShares(0.5, 0.2)
    server, monolith = server_costs(addons=shares), monolith_costs(addons=shares)
    groups = calibration(replace(server, addons=AddonShares()), replace(monolith, addons=AddonShares()))
    for nets, adapters in ((1, 0), (0, 1), (2, 2)):
        shape = Shape(128, 128, 8, 4.0, nets, adapters)
        groups += [lego_group(server, shape), monolith_group(monolith, shape)]
    found = fit_profile(groups, 2, "now", TEXT)
    for each in (found.server.addons, found.monolith_with(1).addons):
        assert each.controlnet == pytest.approx(0.5, abs=0.03)
        assert each.adapter == pytest.approx(0.2, abs=0.03)


def test_no_rate_is_negative() -> None:
    """However steps contradict the model."""
    passes = [each for shape in shapes() for each in passes_of(lego_group(server_costs(), shape))]
    upside_down = [replace(each, seconds=1e-3 * (1e6 / each.shape.pixels)) for each in passes]
    rates, crowding = fit_steps(upside_down, TEXT)
    assert min(rates.row_s, rates.pair_s, rates.constant_s, crowding) >= 0.0


def test_company_is_the_share_of_a_step_in_which_another_replica_steps() -> None:
    """A step of the other replica that covers half of it counts half."""
    found = passes_of(lego_group(server_costs(), Shape(128, 128, 4, 4.0), company=0.5))
    assert {round(each.company, 3) for each in found} == {0.5, 1.0}


def test_a_calibration_without_spans_is_refused() -> None:
    """Whose fault it is is said, and what to do."""
    silent = [replace(lego_group(server_costs(), Shape(128, 128, 4, 4.0)), jobs=())]
    with pytest.raises(ConfigError, match="no steps of lego_serve alone"):
        fit_server(silent, TEXT)


def test_files_keep_what_is_written(tmp_path: Path) -> None:
    """A recording and a profile come back as they were."""
    groups = calibration(server_costs(), monolith_costs())
    write_recording(tmp_path / "recording.jsonl", groups)
    assert _plain(read_recording(tmp_path / "recording.jsonl")) == _plain(groups)
    write_profile(tmp_path / "profile.json", profile())
    assert read_profile(tmp_path / "profile.json") == profile()


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    """In one line with the file's name."""
    file = tmp_path / "wrong.json"
    file.write_text("{}")
    with pytest.raises(ConfigError, match=r"wrong\.json: no profile"):
        read_profile(file)
    with pytest.raises(ConfigError, match=r"wrong\.json: no recording"):
        read_recording(file)


def _plain(groups: list[Group]) -> list[tuple[object, ...]]:
    assert all(math.isfinite(each) for group in groups for each in group.latency_s)
    return [(g.system, g.shape, g.outstanding, g.latency_s, g.jobs, g.threads) for g in groups]
