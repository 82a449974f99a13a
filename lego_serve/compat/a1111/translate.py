"""Translates the bodies of txt2img and img2img to what they ask for."""

from lego_serve.compat.a1111.bodies import ImageToImage, TextToImage
from lego_serve.compat.a1111.fields import (
    MODEL_SETTING,
    SETTINGS_HARMLESS,
    SETTINGS_WITHOUT_EFFECT,
    TIER_SETTING,
    is_harmless,
)
from lego_serve.compat.a1111.prompts import take_loras
from lego_serve.compat.a1111.scripts import base64_image, read_controlnets
from lego_serve.compat.names import near
from lego_serve.compat.samplers import AUTOMATIC, SAMPLERS, exact_sampler, sampler_of, scheduler_of
from lego_serve.compat.task import MAX_FEATHER, MAX_IMAGES, SEEDS, ImageTask, MaskUse, Refused

DENOISING = 0.75
MASK_BLUR = 4


def translate(body: TextToImage, checkpoint: str | None = None) -> ImageTask:
    """Return what a body asks for; ``checkpoint`` is that of the caller's options.  Raises Refused."""
    text, loras, tags = take_loras(body.prompt or "", are_used=not body.disable_extra_networks)
    sampler, scheduler, words = _sampler(body)
    n = (body.batch_size or 1) * (body.n_iter or 1)
    if n > MAX_IMAGES:
        raise Refused(f"`batch_size` times `n_iter` is {n}; at most {MAX_IMAGES} images may be asked for", "batch_size")
    image = body if isinstance(body, ImageToImage) else None
    named = _settings(body)
    return ImageTask(
        prompt=text,
        negative_prompt=body.negative_prompt or None,
        checkpoint=named.get(MODEL_SETTING) or checkpoint or None,
        width=body.width,
        height=body.height,
        steps=body.steps,
        guidance=body.cfg_scale,
        sampler=sampler,
        scheduler=scheduler,
        seed=None if body.seed is None or body.seed < 0 else body.seed % SEEDS,
        n=n,
        strength=None if image is None else _strength(image),
        loras=loras,
        controlnets=read_controlnets(body.alwayson_scripts),
        image=None if image is None else base64_image(_init_image(image)),
        mask=None if image is None else _mask(image),
        replaced=(*words, *tags),
        tier=named.get(TIER_SETTING),
    )


def _sampler(body: TextToImage) -> tuple[str | None, str | None, tuple[tuple[str, str], ...]]:
    """Return our sampler, the schedule by ComfyUI's name, and what is done otherwise than the body asks."""
    name, words = body.sampler, []
    sampler = None if name is None else sampler_of(name)
    if name is not None and sampler is None:
        labels = [label for label, _ in SAMPLERS.values()]
        nearest = near(name, labels)
        hint = f"did you mean {nearest}?" if nearest else f"there is {', '.join(labels)}"
        raise Refused(f"sampler {name[:64]!r} not found; {hint}", "sampler_name")
    if name is not None and sampler is not None and exact_sampler(name) is None:
        words.append(("Sampler used", sampler))
    scheduler = scheduler_of(body.scheduler or AUTOMATIC)
    if scheduler is None:
        raise Refused(f"scheduler {str(body.scheduler)[:64]!r} not found", "scheduler")
    if scheduler != AUTOMATIC:
        words.append(("Schedule used", "the model's own"))
    return sampler, scheduler, tuple(words)


def _settings(body: TextToImage) -> dict[str, str | None]:
    """Return what `override_settings` names: the model, the tier.  Raises Refused for what would change the image."""
    found: dict[str, str | None] = {}
    for name, value in (body.override_settings or {}).items():
        field = f"override_settings.{name[:64]}"
        if name in (MODEL_SETTING, TIER_SETTING) and isinstance(value, str | None):
            found[name] = value or None
        elif name not in SETTINGS_WITHOUT_EFFECT and (
            name not in SETTINGS_HARMLESS or not is_harmless(name, value, SETTINGS_HARMLESS)
        ):
            raise Refused(f"`{field}` is not supported by this server with this value; leave it out", field)
    return found


def _strength(body: ImageToImage) -> float:
    strength = DENOISING if body.denoising_strength is None else body.denoising_strength
    if strength == 0.0:
        raise Refused("`denoising_strength` is 0, which changes nothing; it must be above 0", "denoising_strength")
    return strength


def _init_image(body: ImageToImage) -> str:
    images = body.init_images or []
    if len(images) != 1 or not images[0]:
        raise Refused(f"`init_images` must have one image; it has {len(images)}", "init_images")
    return images[0]


def _mask(body: ImageToImage) -> MaskUse | None:
    """Return the mask: white changes unless it is inverted, and its blur is what new fades into old over."""
    if not body.mask:
        return None
    both = MASK_BLUR if body.mask_blur is None else body.mask_blur
    across, down = (both if blur is None else blur for blur in (body.mask_blur_x, body.mask_blur_y))
    feather = min(max(across, down), MAX_FEATHER)
    return MaskUse(base64_image(body.mask), edits_high=not body.inpainting_mask_invert, feather=feather)
