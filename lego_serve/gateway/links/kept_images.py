"""Keeps the images of answers that hold links in place of them, for a while: files in a folder that gateways share.

    secret              what links are signed with; readable for this user alone
    HEX-K.png           image K of an answer

A file's time says when it goes.  Who may read one is who has its link; nothing else names it.
"""

import asyncio
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from lego_serve.errors import NotFound, StoreUnavailable
from lego_serve.gateway.links.signed_urls import SECRET_BYTES, UrlSigner
from lego_serve.gateway.settings import KeptImageSettings

log = logging.getLogger("lego_serve.gateway")
ROUTE = "/v1/images/kept"
SECRET = "secret"
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

    async def open_link(self, name: str, expires: str | None, signature: str | None) -> Path:
        """Return the file that a link opens.  Raises Unauthorized, NotFound."""
        signer = await asyncio.to_thread(self._signed_by)
        signer.check(f"{ROUTE}/{name}", expires, signature, self._wall())
        path = self._settings.folder / name
        if not NAME.fullmatch(name) or not await asyncio.to_thread(path.is_file):
            raise NotFound("This image is not kept any more.", param="name", code="image_not_found")
        return path

    def sweep(self) -> None:
        """Remove what has been kept for long enough, and the oldest where all take too much."""
        oldest = self._wall() - self._settings.keep_s
        kept = []
        for changed_s, size, path in self._files():
            if changed_s < oldest:
                path.unlink(missing_ok=True)
            else:
                kept.append((changed_s, size, path))
        spare = self._settings.max_bytes - sum(size for _, size, _ in kept)
        for _, size, path in sorted(kept):
            if spare >= 0:
                return
            path.unlink(missing_ok=True)
            spare += size

    def _keep(self, files: Sequence[bytes], image_format: str) -> list[str]:
        signer, answer = self._signed_by(), secrets.token_hex(16)
        names = [f"{answer}-{index}.{image_format}" for index in range(len(files))]
        try:
            for name, content in zip(names, files, strict=True):
                _write(self._settings.folder / name, content)
        except OSError as error:
            log.warning("an answer's images cannot be kept: %s", error)
            for name in names:
                _discard(self._settings.folder / name)
            message = "The images cannot be kept for links now; ask for `response_format: b64_json`."
            raise StoreUnavailable(message, param="response_format") from error
        expires_at = self._wall() + self._settings.keep_s
        return [signer.sign(f"{ROUTE}/{name}", expires_at) for name in names]

    def _signed_by(self) -> UrlSigner:
        if self._signer is None:
            self._signer = UrlSigner(_shared_secret(self._settings.folder))
        return self._signer

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """Yield time, size and path of what is kept, or was being written; some may go meanwhile."""
        for path in self._settings.folder.glob("*-*.*"):
            with suppress(OSError):
                found = path.stat()
                yield found.st_mtime, found.st_size, path

    async def _sweep_forever(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.sweep)
            except OSError as error:
                log.warning("kept images cannot be removed: %s", error)
            await asyncio.sleep(min(SWEEP_S, self._settings.keep_s))


def _shared_secret(folder: Path) -> str:
    """Return the secret of a folder; the first process to ask makes it.  Raises StoreUnavailable."""
    path, mine = folder / SECRET, folder / f".{secrets.token_hex(8)}"
    try:
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write_private(mine, secrets.token_hex(SECRET_BYTES).encode())
            with suppress(FileExistsError):
                os.link(mine, path)  # whole or not at all, and never in place of another's
        return path.read_text()
    except OSError as error:
        log.warning("links cannot be signed: %s", error)
        message = "Links cannot be signed now; ask for `response_format: b64_json`."
        raise StoreUnavailable(message, param="response_format") from error
    finally:
        _discard(mine)


def _write(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all."""
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        _write_private(unfinished, content)
        unfinished.replace(path)
    finally:
        _discard(unfinished)


def _discard(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _write_private(path: Path, content: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
