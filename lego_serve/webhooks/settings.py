"""What an operator decides about webhooks."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lego_serve.core.durable_jobs.receivers import ReceiverRules
from lego_serve.errors import RequestError


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """Where webhooks may go, and what signs them.

    ``secrets`` are each tenant's, the newest first; all of them sign.  ``base_url`` is where clients reach the server;
    without it the URLs in messages are paths.
    """

    secrets: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    rules: ReceiverRules = field(default_factory=ReceiverRules)
    base_url: str | None = None
    timeout_s: float = 15.0

    def check(self, tenant: str, url: str) -> None:
        """Raise RequestError for a webhook that could never be sent, as far as that shows without a name server."""
        if not self.secrets.get(tenant):
            raise RequestError(
                "This server has no secret to sign your webhooks with; its operator gives one in "
                "`jobs.webhooks.secrets`.",
                param="webhook",
                code="webhooks_not_configured",
            )
        self.rules.check(url)
