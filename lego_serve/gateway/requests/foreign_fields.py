"""Fields of other servers' image APIs (vLLM-Omni, SGLang), honoured where they mean what ours mean.

What they switch on and this server does not have is refused by name; their defaults, which clients send always, are
accepted.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from lego_serve.core.workflow.graph import Workflow
from lego_serve.errors import RequestError, UnsupportedParameter

Side = Annotated[int, Field(ge=1, le=99_999)]
DEFAULTS: Mapping[str, tuple[object, ...]] = {  # what asks for nothing
    "enhance_prompt": (False,),
    "generator_device": ("cpu", "cuda"),  # noise is the same wherever it is drawn
    "extra_params": ({},),
    "enable_teacache": (False,),
    "output_quality": ("default",),
    "vae_use_slicing": (False,),
    "vae_use_tiling": (False,),
}


class ForeignFields(BaseModel):
    """The fields that other servers have besides OpenAI's and ours."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    width: Side | None = None
    height: Side | None = None
    true_cfg_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    enhance_prompt: bool | None = None
    generator_device: Annotated[str, Field(max_length=64)] | None = None
    extra_params: dict[str, Any] | None = None
    enable_teacache: bool | None = None
    output_quality: Annotated[str, Field(max_length=64)] | None = None
    vae_use_slicing: bool | None = None
    vae_use_tiling: bool | None = None

    def refuse_foreign(self) -> None:
        """Raise RequestError for the first foreign field that asks for what this server does not do."""
        for name, accepted in DEFAULTS.items():
            value = getattr(self, name)
            if value is not None and value not in accepted:
                raise UnsupportedParameter(f"`{name}` is not supported by this server.", param=name)
        for name, other in (("width", "height"), ("height", "width")):
            if getattr(self, name) is not None and getattr(self, other) is None:
                raise RequestError(f"`{name}` needs `{other}`.", param=other, code="missing")

    def merged_size(self, size: str | None) -> str | None:
        """Return the size that `size`, or `width` and `height`, ask for.  Raises RequestError where they differ."""
        if self.width is None or self.height is None:
            return size
        sides = f"{self.width}x{self.height}"
        if size not in (None, "auto", sides):
            raise RequestError("`size` differs from `width` and `height`; give one of them.", param="size")
        return sides

    def guidance_of(self, workflow: Workflow, guidance_scale: float | None) -> float | None:
        """Return the guidance that the request gives; in a model with a negative prompt both names mean the same.

        Raises RequestError.
        """
        if self.true_cfg_scale is None:
            return guidance_scale
        if not _has_negative(workflow):
            if self.true_cfg_scale != 1:
                message = f"Model {workflow.name} has no classifier-free guidance; `true_cfg_scale` must be 1."
                raise UnsupportedParameter(message, param="true_cfg_scale")
            return guidance_scale
        if guidance_scale not in (None, self.true_cfg_scale):
            message = "`guidance_scale` and `true_cfg_scale` are the same in this model; give one of them."
            raise RequestError(message, param="true_cfg_scale")
        return self.true_cfg_scale

    def foreign_name(self, param: str | None) -> str | None:
        """Return the foreign field that gave the workflow's input ``param``; None where ours did."""
        if param in ("width", "height") and self.width is not None:
            return param
        return "true_cfg_scale" if param == "guidance" and self.true_cfg_scale is not None else None


def _has_negative(workflow: Workflow) -> bool:
    """Return whether requests set a guidance away from a negative prompt."""
    denoising = (node for node in workflow.nodes.values() if node.kind == "denoise")
    return "guidance" in workflow.inputs and any("negative" in node.arguments for node in denoising)
