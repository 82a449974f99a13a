"""Samplers and schedulers of both protocols."""

import pytest
from sd_backend_client.api.shared_data.sampler_names import SAMPLER_WEBUI_NAMES, SCHEDULER_WEBUI_NAMES

from lego_serve.compat.samplers import AUTOMATIC, SAMPLERS, SCHEDULERS, exact_sampler, sampler_of, scheduler_of
from lego_serve.models.sampling import SAMPLERS as OURS


def test_our_samplers_are_those_that_stand_in() -> None:
    """Each of ours has a name there that means just it, but for `scm`, which neither of them knows."""
    known = set(OURS) - {"scm"}
    assert {ours for _, ours in SAMPLERS.values()} == known
    assert all(exact_sampler(ours) == ours for ours in known)
    assert exact_sampler("scm") is None


@pytest.mark.parametrize(
    ("name", "ours", "exact"),
    [
        ("Euler a", "euler", None),
        ("Euler", "euler", "euler"),
        ("euler_ancestral", "euler", None),
        ("DPM++ 2M", "dpmpp_2m", "dpmpp_2m"),
        ("DPM++ 2M Karras", "dpmpp_2m", None),
        ("dpmpp_2m_sde", "dpmpp_2m", None),
        ("DDIM", "euler", None),
        ("Heun", None, None),
        ("", None, None),
    ],
)
def test_names_and_labels_are_known(name: str, ours: str | None, exact: str | None) -> None:
    """Labels of old have the schedule in them; what nothing stands in for is not known."""
    assert (sampler_of(name), exact_sampler(name)) == (ours, exact)


def test_names_agree_with_a_clients_tables() -> None:
    """sd-backend-client has both protocols' names for the same thing."""
    assert all(label == SAMPLER_WEBUI_NAMES[name] for name, (label, _) in SAMPLERS.items())
    assert {name: a1111 for name, (a1111, _) in SCHEDULERS.items()} == SCHEDULER_WEBUI_NAMES


def test_schedulers_are_known_by_all_their_names() -> None:
    """A1111's own word leaves the schedule to the sampler."""
    assert [scheduler_of(word) for word in ("Automatic", "automatic", "Karras", "ddim")] == [
        AUTOMATIC,
        AUTOMATIC,
        "karras",
        "ddim_uniform",
    ]
    assert scheduler_of("karas") is None
