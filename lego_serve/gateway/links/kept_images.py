"""Keeps the images of answers that hold links in place of them, for a while, where all gateways find them.

    kept/secret              what links are signed with; readable for this user alone
    kept/HEX-K.png           image K of an answer

A file's time says when it goes.  Who may read one is who has its link; nothing else names it.
"""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from lego_serve.errors import NotFound, StoreUnavailable
from lego_serve.gateway.links.signed_urls import SECRET_BYTES, UrlSigner
from lego_serve.gateway.settings import KeptImageSettings
from lego_serve.jobstore.blobs.port import Blobs

log = logging.getLogger("lego_serve.gateway")
ROUTE = "/v1/images/kept"
FOLDER, SECRET = "kept", "secret"
NAME = re.compile(r"[0-9a-f]{32}-[0-9]{1,2}\.(png|jpeg|webp)", re.ASCII)
SWEEP_S = 60.0


class KeptImages:
    """The images that one gateway has kept, and those of the others."""

    def __init__(self, settings: KeptImageSettings, wall: Callable[[], float] = time.time) -> None:
        self._settings, self._wall = settings, wall
        self._signer: UrlSigner | None = None
        self._sweeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to remove what has been kept for long enough, also by servers before this one."""
        self._sweeping = asyncio.ensure_future(self._sweep_forever())

    async def close(self) -> None:
        """Stop; what is kept stays."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)

    async def keep(self, start: str, files: Sequence[bytes], image_format: str) -> list[str]:
        """Keep images and return a link to each, which begins with ``start``.  Raises StoreUnavailable."""
        paths = await asyncio.to_thread(self._keep, files, image_format)
        return [start + path for path in paths]

    async def open_link(self, name: str, expires: str | None, signature: str | None) -> Path | bytes:
        """Return the file that a link opens, or its content where it is no file on this machine.

        Raises Unauthorized, NotFound, StoreUnavailable.
        """
        signer = await asyncio.to_thread(self._signed_by)
        signer.check(f"{ROUTE}/{name}", expires, signature, self._wall())
        try:
            if not NAME.fullmatch(name):
                raise FileNotFoundError(name)
            return await asyncio.to_thread(self._find, name)
        except FileNotFoundError:
            raise NotFound("This image is not kept any more.", param="name", code="image_not_found") from None

    def sweep(self) -> None:
        """Remove what was kept for long enough, and the oldest where all take too much.  Raises StoreUnavailable."""
        oldest, blobs = self._wall() - self._settings.keep_s, self._settings.blobs
        files = sorted(
            (each for each in blobs.list(FOLDER) if each.name != SECRET), key=lambda each: (each.written_at, each.name)
        )
        spare = self._settings.max_bytes - sum(each.size for each in files if each.written_at >= oldest)
        gone = []
        for each in files:
            if each.written_at >= oldest:
                if spare >= 0:
                    break
                spare += each.size
            gone.append(each.name)
        blobs.delete(FOLDER, gone)

    def _keep(self, files: Sequence[bytes], image_format: str) -> list[str]:
        signer, answer, blobs = self._signed_by(), secrets.token_hex(16), self._settings.blobs
        names = [f"{answer}-{index}.{image_format}" for index in range(len(files))]
        try:
            for name, content in zip(names, files, strict=True):
                blobs.write(FOLDER, name, content, is_durable=False)
        except StoreUnavailable as error:
            log.warning("an answer's images cannot be kept: %s", error)
            with suppress(StoreUnavailable, OSError):
                blobs.delete(FOLDER, names)
            message = "The images cannot be kept for links now; ask for `response_format: b64_json`."
            raise StoreUnavailable(message, param="response_format") from error
        expires_at = self._wall() + self._settings.keep_s
        return [signer.sign(f"{ROUTE}/{name}", expires_at) for name in names]

    def _signed_by(self) -> UrlSigner:
        if self._signer is None:
            self._signer = UrlSigner(_shared_secret(self._settings.blobs))
        return self._signer

    def _find(self, name: str) -> Path | bytes:
        blobs: Blobs = self._settings.blobs
        return blobs.path(FOLDER, name) or blobs.read(FOLDER, name)

    async def _sweep_forever(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.sweep)
            except (OSError, StoreUnavailable) as error:
                log.warning("kept images cannot be removed: %s", error)
            await asyncio.sleep(min(SWEEP_S, self._settings.keep_s))


def _shared_secret(blobs: Blobs) -> str:
    """Return the secret that all gateways sign with; the first one to ask makes it.  Raises StoreUnavailable."""
    try:
        try:
            return blobs.read(FOLDER, SECRET).decode()
        except FileNotFoundError:
            blobs.create(FOLDER, SECRET, secrets.token_hex(SECRET_BYTES).encode())
            return blobs.read(FOLDER, SECRET).decode()
    except (OSError, StoreUnavailable) as error:
        log.warning("links cannot be signed: %s", error)
        message = "Links cannot be signed now; ask for `response_format: b64_json`."
        raise StoreUnavailable(message, param="response_format") from error
