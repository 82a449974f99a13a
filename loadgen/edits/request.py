"""A request to edit a template within a mask."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from loadgen.edits.templates import template_file
from loadgen.traffic import ImageRequest


@dataclass(frozen=True, slots=True)
class EditRequest(ImageRequest):
    """An edit of a template, given by its number, within a mask, given as a file.

    ``mask_ratio`` is the part of the image that the mask covers.  ``reuse``, ``mask_feather`` and ``caption`` (of the
    unedited template) are fields of lego_serve's interface that the baseline ignores.
    """

    template: int = 0
    mask: bytes = field(default=b"", repr=False)
    mask_ratio: float = 0.0
    mask_feather: int = 0
    reuse: str = "high"
    caption: str = ""

    @property
    def path(self) -> str:
        """The path that the request is posted to."""
        return "/v1/images/edits"

    @property
    def image(self) -> bytes:
        """The template's file."""
        return template_file(self.width, self.height, self.template)

    @property
    def files(self) -> Mapping[str, tuple[str, bytes, str]]:
        """The form's files: the template and the mask."""
        return {"image": ("image.png", self.image, "image/png"), "mask": ("mask.png", self.mask, "image/png")}

    def body(self, model: str) -> dict[str, object]:
        """Return the other fields of the form."""
        # Not super(): the decorator makes a new class for the slots, which the old one's cell does not know.
        fields: dict[str, object] = {"reuse": self.reuse, "mask_feather": self.mask_feather}
        if self.caption:
            fields["caption"] = self.caption
        return ImageRequest.body(self, model) | fields
