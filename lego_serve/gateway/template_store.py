"""Stores registered templates as files, which outlive a process and which all gateways share.

A template is two files in its tenant's folder: ``ID.png``, its image, and ``ID.json``, all else.  The second is written
last and removed first: a template without it does not exist.
"""

import fcntl
import io
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from lego_serve.core.editing.edit import image_key
from lego_serve.errors import NodeError, NotFound
from lego_serve.gateway.errors import Conflict

log = logging.getLogger("lego_serve.gateway")
TEMPLATE_ID = re.compile(r"tmpl_[0-9a-f]{24}")


@dataclass(frozen=True, slots=True)
class Template:
    """An image registered for edits of a workflow, at one size; ``model`` is the workflow its request named.

    ``image`` is the key of its pixels and ``pin`` the name under which its activations stay; ``steps`` and ``tier``
    are those it is warmed for, None for the workflow's own; ``caption`` says what it shows.
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
    tier: str | None = None


def no_template() -> NotFound:
    """Return the error for an unknown id; another tenant's id gets no other answer."""
    return NotFound("There is no template of this id.", param="template", code="template_not_found")


def _damaged() -> NotFound:
    """Return the error for a template whose image cannot be used: it is as none, but its id is still taken."""
    message = "The server's copy of this template's image is damaged; remove the template and register its image again."
    return NotFound(message, param="template", code="template_not_found")


class TemplateFiles:
    """Reads and writes the templates of all tenants below one folder; every call waits for the disk."""

    def __init__(self, folder: Path, per_tenant: int, tenant_bytes: int) -> None:
        self._folder, self._per_tenant, self._tenant_bytes = folder, per_tenant, tenant_bytes

    def get(self, tenant: str, template_id: str) -> Template:
        """Return a tenant's template by its id.  Raises NotFound."""
        template = _read(self._folder / tenant, template_id) if TEMPLATE_ID.fullmatch(template_id) else None
        if template is None:
            raise no_template()
        return template

    def image(self, tenant: str, template: Template) -> Image.Image:
        """Return a template's image.  Raises NotFound where it was removed, or is another than was registered."""
        return self._checked(tenant, template)[0]

    def png(self, tenant: str, template: Template) -> bytes:
        """Return the file of a template's image.  Raises NotFound as ``image`` does."""
        return self._checked(tenant, template)[1]

    def _checked(self, tenant: str, template: Template) -> tuple[Image.Image, bytes]:
        """Return a template's image and the file that it was read from, whose pixels are those of its key."""
        try:
            png = (self._folder / tenant / f"{template.id}.png").read_bytes()
            with Image.open(io.BytesIO(png), formats=("PNG",)) as file:
                if file.size != (template.width, template.height):
                    raise ValueError(f"its size is {file.size}")
                image = file.convert("RGB")
        except FileNotFoundError:
            raise no_template() from None
        except (OSError, SyntaxError, ValueError):  # Pillow's errors about damaged files
            log.exception("the image of a template is damaged")
            raise _damaged() from None
        if image_key(tenant, (image.height, image.width, 3), image.tobytes()) != template.image:
            log.error("the image of the template %s is not the one that was registered", template.id)
            raise _damaged()
        return image, png

    def listed(self, tenant: str) -> list[Template]:
        """Return a tenant's templates, the oldest first."""
        return _all(self._folder / tenant)

    def of_all(self) -> dict[str, list[Template]]:
        """Return the templates of each tenant, the oldest first."""
        folders = sorted(self._folder.iterdir()) if self._folder.is_dir() else []
        return {folder.name: _all(folder) for folder in folders}

    def pinned(self) -> dict[str, list[Template]]:
        """Return the pinned templates of each tenant."""
        return {tenant: [each for each in templates if each.pin] for tenant, templates in self.of_all().items()}

    def add(self, tenant: str, template: Template, png: bytes) -> Template:
        """Store a template, or return the stored one where its id is known.  Raises Conflict or NodeError."""
        try:
            with self._locked(tenant) as folder:
                return _read(folder, template.id) or self._add(folder, template, png)
        except OSError as error:
            message = "The template could not be written; nothing was changed."
            raise NodeError(message, code="template_not_written") from error

    def remove(self, tenant: str, template_id: str) -> Template:
        """Remove a template and return it.  Raises NotFound."""
        self.get(tenant, template_id)  # before a folder is made for a tenant that has none
        with self._locked(tenant) as folder:
            template = self.get(tenant, template_id)
            for extension in ("json", "png"):
                (folder / f"{template_id}.{extension}").unlink(missing_ok=True)
            return template

    def _add(self, folder: Path, template: Template, png: bytes) -> Template:
        """Write the two files of a new template.  Raises Conflict above a tenant's limits, or OSError."""
        stored = _all(folder)
        if len(stored) >= self._per_tenant:
            message = (
                f"You have {len(stored)} templates, and no more than {self._per_tenant} are kept; remove one first."
            )
            raise Conflict(message, code="too_many_templates")
        used = sum((folder / f"{other.id}.png").stat().st_size for other in stored)
        if used + len(png) > self._tenant_bytes:
            message = (
                f"Your templates take {used} bytes and this one {len(png)}, and no more than {self._tenant_bytes} are "
                "kept; remove one first."
            )
            raise Conflict(message, code="templates_too_large")
        try:
            _write_whole(folder / f"{template.id}.png", png)
            facts = asdict(template)
            if template.tier is None:  # gateways of an older version know no such field
                del facts["tier"]
            _write_whole(folder / f"{template.id}.json", json.dumps(facts, indent=1).encode())
        except OSError:
            (folder / f"{template.id}.png").unlink(missing_ok=True)
            raise
        return template

    @contextmanager
    def _locked(self, tenant: str) -> Iterator[Path]:
        """Lock a tenant's folder and remove what a process that died there left half written."""
        folder = self._folder / tenant
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True)
        folder.chmod(0o700)  # also of one that an older version made
        with open(folder / "lock", "wb", opener=_open_private) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for file in folder.iterdir():
                if file.suffix == ".new" or (file.suffix == ".png" and not file.with_suffix(".json").exists()):
                    file.unlink(missing_ok=True)
            yield folder


def _all(folder: Path) -> list[Template]:
    ids = [path.stem for path in folder.glob("tmpl_*.json")]
    templates = [template for template_id in ids if (template := _read(folder, template_id)) is not None]
    return sorted(templates, key=lambda template: (template.created, template.id))


def _read(folder: Path, template_id: str) -> Template | None:
    """Return the template of an id; None also where its file is damaged, so that it can be registered anew."""
    try:
        return Template(**json.loads((folder / f"{template_id}.json").read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        log.exception("the file of a template is damaged")
        return None


def _open_private(path: str, flags: int) -> int:
    """Open a file that only this user may read: it holds an image of a tenant."""
    return os.open(path, flags, 0o600)


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file; readers get the old content or the new, never a part."""
    new = path.with_name(f"{path.name}.new")
    try:
        with open(new, "wb", opener=_open_private) as file:
            file.write(data)
        os.replace(new, path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
