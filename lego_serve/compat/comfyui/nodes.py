"""ComfyUI's nodes that are translated, in one table: what checks a prompt and what describes the nodes to clients."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lego_serve.compat.samplers import SAMPLERS, SCHEDULERS
from lego_serve.compat.task import MAX_GUIDANCE, MAX_IMAGES, MAX_SCALE, MAX_STEPS

MAX_SIDE = 16384
MAX_SEED = 2**64 - 1
# Lists whose entries are the server's own; the others stand in the table.
CHECKPOINTS, LORAS, CONTROLNETS, IMAGES = "checkpoints", "loras", "controlnets", "images"
# Parts that come with a model here, whatever is named.
TEXT_ENCODERS, VAES, CLIP_TYPES = "text_encoders", "vaes", "clip_types"
OWN_LISTS = (CHECKPOINTS, LORAS, CONTROLNETS, IMAGES, TEXT_ENCODERS, VAES, CLIP_TYPES)
ANY_WORD = (TEXT_ENCODERS, VAES, CLIP_TYPES)


@dataclass(frozen=True, slots=True)
class Input:
    """An input: the type of the node it is linked to, or INT, FLOAT, STRING, BOOLEAN, or COMBO with its choices.

    Choices are words, or the name of one of the server's lists.
    """

    name: str
    type: str
    default: float | int | str | bool | None = None
    low: float | int | None = None
    high: float | int | None = None
    step: float | int | None = None
    choices: tuple[str, ...] | str = ()
    is_required: bool = True

    @property
    def is_link(self) -> bool:
        """Whether the value can come from another node only."""
        return self.type not in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


@dataclass(frozen=True, slots=True)
class NodeClass:
    """A class of nodes: its inputs in order, the types and names of its outputs, and where a menu lists it."""

    name: str
    inputs: tuple[Input, ...]
    outputs: tuple[tuple[str, str], ...]
    category: str
    title: str = ""
    is_output: bool = False

    @property
    def required(self) -> tuple[Input, ...]:
        """The inputs that a node cannot be without."""
        return tuple(declared for declared in self.inputs if declared.is_required)


def _link(name: str, kind: str, required: bool = True) -> Input:
    return Input(name, kind, is_required=required)


def _int(name: str, default: int, low: int, high: int, step: int | None = None) -> Input:
    return Input(name, "INT", default, low, high, step)


def _float(name: str, default: float, low: float, high: float, step: float = 0.01) -> Input:
    return Input(name, "FLOAT", default, low, high, step)


def _combo(name: str, choices: tuple[str, ...] | str, default: str | None = None, required: bool = True) -> Input:
    return Input(name, "COMBO", default, choices=choices, is_required=required)


def _same(*kinds: str) -> tuple[tuple[str, str], ...]:
    return tuple((kind, kind) for kind in kinds)


MODEL, CLIP, VAE = _link("model", "MODEL"), _link("clip", "CLIP"), _link("vae", "VAE")
POSITIVE, NEGATIVE = _link("positive", "CONDITIONING"), _link("negative", "CONDITIONING")
LATENT, PIXELS, MASK = _link("samples", "LATENT"), _link("pixels", "IMAGE"), _link("mask", "MASK")
WIDTH, HEIGHT = _int("width", 512, 16, MAX_SIDE, 16), _int("height", 512, 16, MAX_SIDE, 16)
BATCH = _int("batch_size", 1, 1, MAX_IMAGES)
STEPS, DENOISE = _int("steps", 20, 1, MAX_STEPS), _float("denoise", 1.0, 0.0, 1.0)
SAMPLER, SCHEDULER = _combo("sampler_name", tuple(SAMPLERS)), _combo("scheduler", tuple(SCHEDULERS))
STRENGTH = _float("strength", 1.0, 0.0, MAX_SCALE)
LORA = (_combo("lora_name", LORAS), _float("strength_model", 1.0, -MAX_SCALE, MAX_SCALE))
SIZES = (("LATENT", "LATENT"),)
SCALE_METHODS = ("nearest-exact", "bilinear", "area", "bicubic", "lanczos")
CHANNELS = ("alpha", "red", "green", "blue")
WEIGHT_TYPES = ("default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2")
DEVICES = ("default", "cpu")

LOADERS = (
    NodeClass(
        "CheckpointLoaderSimple",
        (_combo("ckpt_name", CHECKPOINTS),),
        _same("MODEL", "CLIP", "VAE"),
        "loaders",
        "Load Checkpoint",
    ),
    NodeClass(
        "UNETLoader",
        (_combo("unet_name", CHECKPOINTS), _combo("weight_dtype", WEIGHT_TYPES, "default")),
        _same("MODEL"),
        "advanced/loaders",
        "Load Diffusion Model",
    ),
    NodeClass(
        "CLIPLoader",
        (
            _combo("clip_name", TEXT_ENCODERS),
            _combo("type", CLIP_TYPES),
            _combo("device", DEVICES, "default", required=False),
        ),
        _same("CLIP"),
        "advanced/loaders",
        "Load CLIP",
    ),
    NodeClass(
        "DualCLIPLoader",
        (
            *(_combo(f"clip_name{number}", TEXT_ENCODERS) for number in (1, 2)),
            _combo("type", CLIP_TYPES),
            _combo("device", DEVICES, "default", required=False),
        ),
        _same("CLIP"),
        "advanced/loaders",
    ),
    NodeClass(
        "TripleCLIPLoader",
        tuple(_combo(f"clip_name{number}", TEXT_ENCODERS) for number in (1, 2, 3)),
        _same("CLIP"),
        "advanced/loaders",
    ),
    NodeClass("VAELoader", (_combo("vae_name", VAES),), _same("VAE"), "loaders", "Load VAE"),
    NodeClass(
        "LoraLoader",
        (MODEL, CLIP, *LORA, _float("strength_clip", 1.0, -MAX_SCALE, MAX_SCALE)),
        _same("MODEL", "CLIP"),
        "loaders",
        "Load LoRA",
    ),
    NodeClass("LoraLoaderModelOnly", (MODEL, *LORA), _same("MODEL"), "loaders"),
    NodeClass(
        "ControlNetLoader",
        (_combo("control_net_name", CONTROLNETS),),
        _same("CONTROL_NET"),
        "loaders",
        "Load ControlNet Model",
    ),
    NodeClass("LoadImage", (_combo("image", IMAGES),), (("IMAGE", "IMAGE"), ("MASK", "MASK")), "image", "Load Image"),
    NodeClass(
        "LoadImageMask",
        (_combo("image", IMAGES), _combo("channel", CHANNELS)),
        _same("MASK"),
        "mask",
        "Load Image (as Mask)",
    ),
)
CONDITIONING = (
    NodeClass(
        "CLIPTextEncode",
        (Input("text", "STRING"), CLIP),
        _same("CONDITIONING"),
        "conditioning",
        "CLIP Text Encode (Prompt)",
    ),
    NodeClass(
        "FluxGuidance",
        (_link("conditioning", "CONDITIONING"), _float("guidance", 3.5, 0.0, MAX_GUIDANCE, 0.1)),
        _same("CONDITIONING"),
        "advanced/conditioning",
    ),
    NodeClass(
        "ControlNetApply",
        (
            _link("conditioning", "CONDITIONING"),
            _link("control_net", "CONTROL_NET"),
            _link("image", "IMAGE"),
            STRENGTH,
        ),
        _same("CONDITIONING"),
        "conditioning/controlnet",
        "Apply ControlNet (OLD)",
    ),
    NodeClass(
        "ControlNetApplyAdvanced",
        (
            POSITIVE,
            NEGATIVE,
            _link("control_net", "CONTROL_NET"),
            _link("image", "IMAGE"),
            STRENGTH,
            _float("start_percent", 0.0, 0.0, 1.0, 0.001),
            _float("end_percent", 1.0, 0.0, 1.0, 0.001),
            _link("vae", "VAE", required=False),
        ),
        (("CONDITIONING", "positive"), ("CONDITIONING", "negative")),
        "conditioning/controlnet",
        "Apply ControlNet",
    ),
)
LATENTS = (
    NodeClass("EmptyLatentImage", (WIDTH, HEIGHT, BATCH), SIZES, "latent", "Empty Latent Image"),
    NodeClass("EmptySD3LatentImage", (WIDTH, HEIGHT, BATCH), SIZES, "latent"),
    NodeClass("VAEEncode", (PIXELS, VAE), SIZES, "latent", "VAE Encode"),
    NodeClass(
        "VAEEncodeForInpaint",
        (PIXELS, VAE, MASK, _int("grow_mask_by", 6, 0, 64)),
        SIZES,
        "latent/inpaint",
        "VAE Encode (for Inpainting)",
    ),
    NodeClass("SetLatentNoiseMask", (LATENT, MASK), SIZES, "latent/inpaint", "Set Latent Noise Mask"),
    NodeClass(
        "RepeatLatentBatch", (LATENT, _int("amount", 1, 1, MAX_IMAGES)), SIZES, "latent/batch", "Repeat Latent Batch"
    ),
    NodeClass(
        "ImageScale",
        (
            _link("image", "IMAGE"),
            _combo("upscale_method", SCALE_METHODS),
            _int("width", 512, 0, MAX_SIDE),
            _int("height", 512, 0, MAX_SIDE),
            _combo("crop", ("disabled", "center")),
        ),
        _same("IMAGE"),
        "image/upscaling",
        "Upscale Image",
    ),
    NodeClass("VAEDecode", (LATENT, VAE), _same("IMAGE"), "latent", "VAE Decode"),
)
SAMPLING = (
    NodeClass(
        "KSampler",
        (
            MODEL,
            _int("seed", 0, 0, MAX_SEED),
            STEPS,
            _float("cfg", 8.0, 0.0, MAX_GUIDANCE, 0.1),
            SAMPLER,
            SCHEDULER,
            POSITIVE,
            NEGATIVE,
            _link("latent_image", "LATENT"),
            DENOISE,
        ),
        SIZES,
        "sampling",
    ),
    NodeClass(
        "SamplerCustomAdvanced",
        (
            _link("noise", "NOISE"),
            _link("guider", "GUIDER"),
            _link("sampler", "SAMPLER"),
            _link("sigmas", "SIGMAS"),
            _link("latent_image", "LATENT"),
        ),
        (("LATENT", "output"), ("LATENT", "denoised_output")),
        "sampling/custom_sampling",
    ),
    NodeClass("RandomNoise", (_int("noise_seed", 0, 0, MAX_SEED),), _same("NOISE"), "sampling/custom_sampling/noise"),
    NodeClass(
        "BasicGuider",
        (MODEL, _link("conditioning", "CONDITIONING")),
        _same("GUIDER"),
        "sampling/custom_sampling/guiders",
    ),
    NodeClass(
        "BasicScheduler",
        (MODEL, SCHEDULER, STEPS, DENOISE),
        _same("SIGMAS"),
        "sampling/custom_sampling/schedulers",
    ),
    NodeClass("KSamplerSelect", (SAMPLER,), _same("SAMPLER"), "sampling/custom_sampling/samplers"),
    NodeClass("ModelSamplingSD3", (MODEL, _float("shift", 3.0, 0.0, 100.0)), _same("MODEL"), "advanced/model"),
    NodeClass("ModelSamplingAuraFlow", (MODEL, _float("shift", 1.73, 0.0, 100.0)), _same("MODEL"), "advanced/model"),
    NodeClass(
        "ModelSamplingFlux",
        (MODEL, _float("max_shift", 1.15, 0.0, 100.0), _float("base_shift", 0.5, 0.0, 100.0), WIDTH, HEIGHT),
        _same("MODEL"),
        "advanced/model",
    ),
)
SAVING = (
    NodeClass(
        "SaveImage",
        (_link("images", "IMAGE"), Input("filename_prefix", "STRING", "ComfyUI")),
        (),
        "image",
        "Save Image",
        is_output=True,
    ),
    NodeClass("PreviewImage", (_link("images", "IMAGE"),), (), "image", "Preview Image", is_output=True),
)
CLASSES: Mapping[str, NodeClass] = MappingProxyType(
    {known.name: known for known in (*LOADERS, *CONDITIONING, *LATENTS, *SAMPLING, *SAVING)}
)
