"""Links that open one path without a key until they expire: ``PATH?expires=T&signature=HEX``.

The signature is an HMAC-SHA256 over ``PATH|T``, T in seconds by the wall clock.  All gateways over a store sign with
the same secret, which the first of them makes; whoever can read it can open every image.
"""

import hashlib
import hmac
import re
import secrets

from lego_serve.core.durable_jobs.store import JobStore
from lego_serve.gateway.errors import Unauthorized

SETTING = "url_secret"
SECRET_BYTES = 32
TIME = re.compile(r"[1-9][0-9]{0,11}", re.ASCII)
SIGNATURE = re.compile(r"[0-9a-f]{64}", re.ASCII)


class InvalidSignature(Unauthorized):
    """A link's signature is missing, or is not this server's for that path and time."""

    code = "invalid_signature"


class LinkExpired(Unauthorized):
    """A link of this server whose time is over."""

    code = "link_expired"


class UrlSigner:
    """Signs paths with a secret, and checks them against that and those before it.

    Several secrets in one text stand apart by a space, the newest first, which signs.
    """

    def __init__(self, secret: str) -> None:
        self._secrets = [each.encode() for each in secret.split()]
        if not self._secrets:
            raise ValueError("a secret for signing links must not be empty")

    def sign(self, path: str, expires_at: float) -> str:
        """Return a path with the query that opens it until a time, which loses its fraction."""
        expires = str(int(expires_at))
        return f"{path}?expires={expires}&signature={_signature(self._secrets[0], path, expires)}"

    def check(self, path: str, expires: str | None, signature: str | None, now: float) -> None:
        """Raise InvalidSignature or LinkExpired unless a path may be opened now; takes as long for any signature."""
        if expires is None or signature is None:
            raise InvalidSignature("A link needs both `expires` and `signature`; without them, send an API key.")
        if not TIME.fullmatch(expires) or not SIGNATURE.fullmatch(signature):
            raise InvalidSignature("This link was not made by this server; ask for the job again, or send an API key.")
        # A list, not any(): which secret fits must not show in the time.
        fits = [hmac.compare_digest(_signature(each, path, expires), signature) for each in self._secrets]
        if True not in fits:
            raise InvalidSignature("This link was not made by this server; ask for the job again, or send an API key.")
        if now >= int(expires):
            raise LinkExpired("This link has expired; ask for the job again, or send an API key.")


async def url_signer(store: JobStore) -> UrlSigner:
    """Return the signer of all gateways over a store; the first to ask makes the secret."""
    return UrlSigner(await store.setting(SETTING, secrets.token_hex(SECRET_BYTES)))


async def rotate(store: JobStore) -> None:
    """Put a new secret in place of a store's.  Links of the last one stay good, those of any before it do not.

    Gateways that run keep the secrets they began with.
    """
    fresh = secrets.token_hex(SECRET_BYTES)
    earlier = await store.setting(SETTING, fresh)
    if earlier != fresh:
        await store.set_setting(SETTING, f"{fresh} {earlier.split()[0]}")


def _signature(secret: bytes, path: str, expires: str) -> str:
    return hmac.new(secret, f"{path}|{expires}".encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
