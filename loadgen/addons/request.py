"""A request with adapters and ControlNets."""

from dataclasses import dataclass, replace

from loadgen.addons.images import outlines
from loadgen.traffic import ImageRequest


@dataclass(frozen=True, slots=True)
class AddonsRequest(ImageRequest):
    """Adapters by name, ControlNets by name with the number of the image each is to follow."""

    adapters: tuple[str, ...] = ()
    adapter_scale: float = 1.0
    controlnets: tuple[tuple[str, int], ...] = ()
    control_weight: float = 1.0

    @property
    def addons(self) -> tuple[int, int]:
        """How many ControlNets and adapters."""
        return len(self.controlnets), len(self.adapters)

    @property
    def without(self) -> "AddonsRequest":
        """The same image without any."""
        return replace(self, adapters=(), controlnets=())

    def body(self, model: str) -> dict[str, object]:
        """The body of ``POST /v1/images/generations``."""
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
