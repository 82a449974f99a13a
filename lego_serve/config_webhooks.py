"""Defines the keys of webhooks."""

import base64
from typing import Annotated

from pydantic import AfterValidator, Field

from lego_serve.config_models import Name, Strict
from lego_serve.core.durable_jobs.receivers import allowed_entry

SECRET_BYTES = range(24, 65)


def _secret(text: str) -> str:
    """A secret as Standard Webhooks writes it; complaints must not repeat it."""
    try:
        is_one = text.startswith("whsec_") and len(base64.b64decode(text[6:], validate=True)) in SECRET_BYTES
    except ValueError:
        is_one = False
    if not is_one:
        raise ValueError("a secret is `whsec_` and 24 to 64 random bytes in base64")
    return text


Secret = Annotated[str, AfterValidator(_secret)]


class Webhooks(Strict):
    """Messages to the receivers that tenants name, about jobs that ended."""

    secrets: dict[Name, Annotated[tuple[Secret, ...], Field(min_length=1, max_length=4)]] = Field(
        default={},
        repr=False,
        description="Secrets that sign each tenant's messages, `default` being the tenant of a server without `keys`. "
        "Each is `whsec_` and 24 to 64 random bytes in base64, such as `echo whsec_$(openssl rand -base64 32)` makes. "
        "All of a tenant's sign, so that receivers can change from one to the next. A tenant without any gets 400 for "
        "`webhook`.",
    )
    allowed_hosts: tuple[Annotated[str, AfterValidator(allowed_entry)], ...] = Field(
        default=(),
        description="Hosts that messages go to though their addresses are private: `HOST`, at `ports`, or `HOST:PORT`. "
        "Every tenant can then send there. Others must have public addresses.",
    )
    ports: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = Field(
        default=(80, 443), description="Ports that messages go to."
    )
    timeout_s: Annotated[float, Field(gt=0, le=30)] = Field(
        default=15, description="Seconds that a receiver has to answer in; after that the message is tried again."
    )
