"""A request to edit a template where a mask says."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from loadgen.edits.templates import template_file
from loadgen.traffic import ImageRequest


@dataclass(frozen=True, slots=True)
class EditRequest(ImageRequest):
    """A template by its number, a mask as a file, and how it is computed.

    ``mask_ratio`` is the part of the image that the mask covers; ``reuse``, ``mask_feather`` and ``caption``, what
    the template shows as it is, are fields of lego_serve's interface that others ignore.
    """

    template: int = 0
    mask: bytes = field(default=b"", repr=False)
    mask_ratio: float = 0.0
    mask_feather: int = 0
    reuse: str = "high"
    caption: str = ""

    @property
    def path(self) -> str:
        """Where it is posted."""
        return "/v1/images/edits"

    @property
    def image(self) -> bytes:
        """The template's file."""
        return template_file(self.width, self.height, self.template)

    @property
    def files(self) -> Mapping[str, tuple[str, bytes, str]]:
        """The template and the mask, as a form has them."""
        return {"image": ("image.png", self.image, "image/png"), "mask": ("mask.png", self.mask, "image/png")}

    def body(self, model: str) -> dict[str, object]:
        """The other fields of the form."""
        # Not super(): the decorator makes a new class for the slots, which the old one's cell does not know.
        ours: dict[str, object] = {"reuse": self.reuse, "mask_feather": self.mask_feather}
        if self.caption:
            ours["caption"] = self.caption
        return ImageRequest.body(self, model) | ours
