"""A request with adapters and ControlNets."""

from dataclasses import dataclass, replace

from loadgen.addons.images import outlines
from loadgen.traffic import ImageRequest


@dataclass(frozen=True, slots=True)
class AddonsRequest(ImageRequest):
    """A request with adapters by name, and with ControlNets by name and the number of the image each follows."""

    adapters: tuple[str, ...] = ()
    adapter_scale: float = 1.0
    controlnets: tuple[tuple[str, int], ...] = ()
    control_weight: float = 1.0

    @property
    def addons(self) -> tuple[int, int]:
        """How many ControlNets and adapters the request has."""
        return len(self.controlnets), len(self.adapters)

    @property
    def without_addons(self) -> "AddonsRequest":
        """Return the request without adapters and ControlNets."""
        return replace(self, adapters=(), controlnets=())

    def body(self, model: str) -> dict[str, object]:
        """Return the body of ``POST /v1/images/generations``."""
        # Not super(): the decorator makes a new class for the slots, which the old one's cell does not know.
        body = ImageRequest.body(self, model)
        if self.adapters:
            body["lora"] = [{"name": name, "scale": self.adapter_scale} for name in self.adapters]
        if self.controlnets:
            body["controlnet"] = [
                {"name": name, "image": outlines(self.width, self.height, number), "weight": self.control_weight}
                for name, number in self.controlnets
            ]
        return body
