"""Registered templates, kept as files that outlive a process and that all gateways share.

A template of a tenant is two files in the tenant's folder: ``ID.png``, its image, and ``ID.json``, what it is
called.  The second is written last and removed first: what has none is not there.
"""

import fcntl
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from lego_serve.errors import NodeError, NotFound
from lego_serve.gateway.errors import Conflict

log = logging.getLogger("lego_serve.gateway")
TEMPLATE_ID = re.compile(r"tmpl_[0-9a-f]{24}")


@dataclass(frozen=True, slots=True)
class Template:
    """An image registered for edits of a workflow, at one size; ``model`` is the workflow its request named.

    ``image`` names its pixels, ``pin`` what holds its activations; ``steps`` those it is warmed for, if not the
    workflow's own; ``caption`` says what it shows.
    """

    id: str
    name: str
    created: int
    width: int
    height: int
    model: str
    workflow: str
    image: str
    pin: str = ""
    steps: int | None = None
    caption: str | None = None


def no_template() -> NotFound:
    """The same for an id that nobody has and for another tenant's."""
    return NotFound("There is no template of this id.", param="template", code="template_not_found")


class TemplateFiles:
    """The templates of all tenants below one folder; every call waits for the disk."""

    def __init__(self, folder: Path, per_tenant: int, tenant_bytes: int) -> None:
        self._folder, self._per_tenant, self._tenant_bytes = folder, per_tenant, tenant_bytes

    def get(self, tenant: str, name: str) -> Template:
        """A tenant's template by its id.  Raises NotFound."""
        found = _read(self._folder / tenant, name) if TEMPLATE_ID.fullmatch(name) else None
        if found is None:
            raise no_template()
        return found

    def image(self, tenant: str, template: Template) -> Image.Image:
        """A template's image.  Raises NotFound where it was removed meanwhile."""
        try:
            with Image.open(self._folder / tenant / f"{template.id}.png", formats=("PNG",)) as image:
                return image.convert("RGB")
        except OSError:
            raise no_template() from None

    def listed(self, tenant: str) -> list[Template]:
        """A tenant's templates, the oldest first."""
        return _all(self._folder / tenant)

    def pinned(self) -> dict[str, list[Template]]:
        """The pinned templates of each tenant."""
        folders = sorted(self._folder.iterdir()) if self._folder.is_dir() else []
        return {folder.name: [template for template in _all(folder) if template.pin] for folder in folders}

    def add(self, tenant: str, template: Template, png: bytes) -> Template:
        """Keep a template; answers the one that is there where its id is known.  Raises Conflict or NodeError."""
        try:
            with self._locked(tenant) as folder:
                return _read(folder, template.id) or self._add(folder, template, png)
        except OSError as error:
            said = "The template could not be written; nothing was changed."
            raise NodeError(said, code="template_not_written") from error

    def remove(self, tenant: str, name: str) -> Template:
        """Forget a template.  Raises NotFound."""
        self.get(tenant, name)  # before a folder is made for whoever asks
        with self._locked(tenant) as folder:
            found = self.get(tenant, name)
            for kind in ("json", "png"):
                (folder / f"{name}.{kind}").unlink(missing_ok=True)
            return found

    def _add(self, folder: Path, template: Template, png: bytes) -> Template:
        there = _all(folder)
        if len(there) >= self._per_tenant:
            said = f"You have {len(there)} templates, and no more than {self._per_tenant} are kept; remove one first."
            raise Conflict(said, code="too_many_templates")
        used = sum((folder / f"{one.id}.png").stat().st_size for one in there)
        if used + len(png) > self._tenant_bytes:
            said = (
                f"Your templates take {used} bytes and this one {len(png)}, and no more than {self._tenant_bytes} are "
                "kept; remove one first."
            )
            raise Conflict(said, code="templates_too_large")
        try:
            _put(folder / f"{template.id}.png", png)
            _put(folder / f"{template.id}.json", json.dumps(asdict(template), indent=1).encode())
        except OSError:
            (folder / f"{template.id}.png").unlink(missing_ok=True)
            raise
        return template

    @contextmanager
    def _locked(self, tenant: str) -> Iterator[Path]:
        """A tenant's folder while nobody else changes it, rid of what a process that died there left."""
        folder = self._folder / tenant
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for file in folder.iterdir():
                if file.suffix == ".new" or (file.suffix == ".png" and not file.with_suffix(".json").exists()):
                    file.unlink(missing_ok=True)
            yield folder


def _all(folder: Path) -> list[Template]:
    names = [path.stem for path in folder.glob("tmpl_*.json")]
    found = [template for name in names if (template := _read(folder, name)) is not None]
    return sorted(found, key=lambda template: (template.created, template.id))


def _read(folder: Path, name: str) -> Template | None:
    """What is registered by an id; nothing where the file is damaged, so that it can be registered anew."""
    try:
        return Template(**json.loads((folder / f"{name}.json").read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        log.exception("the file of a template is damaged")
        return None


def _put(path: Path, data: bytes) -> None:
    """Write a file; whoever reads gets the old or the new whole."""
    new = path.with_name(f"{path.name}.new")
    try:
        new.write_bytes(data)
        os.replace(new, path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
