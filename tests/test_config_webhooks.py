"""The keys of webhooks."""

import pytest
from pydantic import ValidationError

from lego_serve.configuration.jobs import Webhooks
from lego_serve.core.durable_jobs.outbox import rows_of
from lego_serve.core.durable_jobs.transitions import cancel
from lego_serve.webhooks.message import message_headers
from tests.support.jobstore.jobs import HOOK, new_job

GOOD = "whsec_" + "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"


def test_nobody_has_webhooks_at_first() -> None:
    """Without secrets nothing is signed, and nothing private is allowed."""
    assert Webhooks() == Webhooks(secrets={}, allowed_hosts=(), ports=(80, 443), timeout_s=15)


@pytest.mark.parametrize("secret", [GOOD, "whsec_" + "A" * 32, "whsec_" + "A" * 86 + "=="])
def test_every_secret_that_is_taken_signs(secret: str) -> None:
    """The library that signs reads it."""
    (row,) = rows_of(cancel(new_job(1, webhook=HOOK), 1000.0).record)
    [(taken,)] = Webhooks(secrets={"team": (secret,)}).secrets.values()
    assert message_headers(row, "{}", [taken], 1000.0)["webhook-signature"].startswith("v1,")


@pytest.mark.parametrize("secret", ["whsec_", "whsec_AAAA", GOOD[6:], GOOD + "!", GOOD + "\u00e9", "whsec_" + "A" * 88])
def test_a_secret_that_is_none_is_refused_and_not_repeated(secret: str) -> None:
    """Without its prefix, too short, too long, or no base64."""
    with pytest.raises(ValidationError) as refused:
        Webhooks(secrets={"team": (secret,)})
    assert "24 to 64 random bytes" in refused.value.errors()[0]["msg"]
    assert secret == "whsec_" or secret not in refused.value.errors()[0]["msg"]


def test_secrets_are_not_shown() -> None:
    """Where settings are printed or logged."""
    assert GOOD not in repr(Webhooks(secrets={"team": (GOOD,)}))


def test_allowed_hosts_have_one_form() -> None:
    """That of the hosts of URLs, so that they can be compared."""
    assert Webhooks(allowed_hosts=("N8N.:5678", "[FD00:0::1]")).allowed_hosts == ("n8n:5678", "[fd00::1]")
    with pytest.raises(ValidationError, match="is no host"):
        Webhooks(allowed_hosts=("https://n8n",))
