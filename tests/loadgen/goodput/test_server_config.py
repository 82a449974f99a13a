"""The configuration that a suite of several workflows has the server started with."""

from pathlib import Path

from lego_serve.served_workflows import configured
from loadgen.goodput.plan import MULTI
from loadgen.server_config import with_workflows


def test_a_suite_of_several_workflows_has_each_served(tmp_path: Path) -> None:
    """They are the model's own by other names, and share its base."""
    config = Path(__file__).parents[3] / "configs" / "tiny.yaml"
    assert with_workflows(config, MULTI.model, (), tmp_path) == config
    derived = with_workflows(config, MULTI.model, MULTI.workflows, tmp_path)
    settings, served = configured(derived)
    own = served[MULTI.model]
    assert set(served) == {MULTI.model, *MULTI.workflows}
    assert all(served[name].nodes == own.nodes for name in MULTI.workflows)
    assert list(settings.models) == [MULTI.model]
