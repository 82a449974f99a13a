"""The benchmark of tenants: what it makes of what its clients saw."""

import math
from hashlib import sha256

import yaml

from benchmarks.tenants import CONFIG, Tally, quantile
from lego_serve.configuration.schema import Settings


def test_a_tally_counts_answers_and_refusals() -> None:
    """Of a hundred answers the slowest is the 99th percentile."""
    tally = Tally([float(number) for number in reversed(range(100))], refused=3)
    assert tally.summary() == {"requests": 100, "refused": 3, "p50_s": 50.0, "p99_s": 99.0}


def test_a_quantile_of_nothing_is_no_number() -> None:
    """And that of one value is that value."""
    assert math.isnan(quantile([], 0.5))
    assert quantile([2.0], 0.99) == 2.0


def test_its_server_has_two_tenants() -> None:
    """The configuration is a valid one."""
    digest = sha256(b"key").hexdigest()
    settings = Settings.model_validate(yaml.safe_load(CONFIG.format(data="/tmp/x", alpha=digest, beta=digest)))
    assert [key.tenant for key in settings.keys] == ["alpha", "beta"]
