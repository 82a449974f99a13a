"""What becomes of each field of txt2img and img2img: honoured, without effect, or refused unless it is harmless."""

from collections.abc import Mapping
from types import MappingProxyType


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Read by `bodies`.
HONOURED = _words(
    "prompt negative_prompt seed sampler_name sampler_index scheduler steps cfg_scale width height batch_size n_iter "
    "denoising_strength init_images mask mask_blur mask_blur_x mask_blur_y inpainting_mask_invert override_settings "
    "alwayson_scripts send_images disable_extra_networks"
)
# Any value is harmless: of what is refused by another field, of what is saved on a server's disk, or of noise that
# our samplers do not add.
WITHOUT_EFFECT = _words(
    # of the second pass, which `enable_hr` asks for
    "hr_scale hr_upscaler hr_second_pass_steps hr_resize_x hr_resize_y hr_checkpoint_name hr_sampler_name hr_scheduler "
    "hr_prompt hr_negative_prompt hr_additional_modules hr_cfg hr_distilled_cfg hr_rescale_cfg "
    # of a variation, which `subseed_strength` asks for; of a script, which `script_name` names; of a refiner
    "subseed script_args refiner_switch_at "
    # of the server's disk, and of settings that are the caller's own here
    "do_not_save_samples do_not_save_grid save_images override_settings_restore_afterwards include_init_images "
    "force_task_id comments "
    # of models that take an image as a prompt
    "image_cfg_scale "
    # of what fills a mask before it is redrawn, and of how closely; edits see the whole image
    "inpainting_fill inpaint_full_res inpaint_full_res_padding mask_round "
    # of noise that is added anew in a step
    "eta s_min_uncond s_churn s_tmax s_tmin s_noise"
)
# Refused unless the value is one of these; null is always harmless.
HARMLESS: Mapping[str, tuple[object, ...]] = MappingProxyType(
    {
        "enable_hr": (False,),
        "firstpass_image": ("",),
        "firstphase_width": (0,),
        "firstphase_height": (0,),
        "restore_faces": (False,),
        "tiling": (False,),
        "refiner_checkpoint": ("", "None"),
        "subseed_strength": (0,),
        "seed_resize_from_h": (0, -1),
        "seed_resize_from_w": (0, -1),
        "styles": ([], [""], ["None"]),
        "script_name": ("", "None", "none"),
        "infotext": ("",),
        "resize_mode": (0,),
        "initial_noise_multiplier": (1,),
        "latent_mask": ("",),
    }
)
# Of a ControlNet unit, likewise.
UNIT_HONOURED = frozenset(("enabled", "image", "input_image", "model", "weight", "guidance_start", "guidance_end"))
UNIT_WITHOUT_EFFECT = _words(
    "resize_mode low_vram lowvram processor_res threshold_a threshold_b pixel_perfect hr_option save_detected_map "
    "use_preview_as_input"
)
UNIT_HARMLESS: Mapping[str, tuple[object, ...]] = MappingProxyType(
    {
        "module": ("none", "None", ""),
        "mask": ("",),
        "mask_image": ("",),
        "effective_region_mask": ("",),
        "control_mode": ("Balanced", 0),
        "guessmode": (False, 0),
        "inpaint_crop_input_image": (False, True),
        "advanced_weighting": ([],),
    }
)
# Of `override_settings`, likewise; what names the model is honoured, and the tier, which A1111 knows nothing of.
MODEL_SETTING = "sd_model_checkpoint"
TIER_SETTING = "tier"
SETTINGS_WITHOUT_EFFECT = _words(
    "sd_checkpoint_hash samples_format enable_pnginfo save_images_add_number grid_save return_grid "
    "live_previews_enable show_progress_every_n_steps"
)
SETTINGS_HARMLESS: Mapping[str, tuple[object, ...]] = MappingProxyType(
    {"sd_vae": ("", "None", "Automatic"), "CLIP_stop_at_last_layers": (1,), "eta_noise_seed_delta": (0,)}
)


def is_harmless(name: str, value: object, harmless: Mapping[str, tuple[object, ...]]) -> bool:
    """Whether a field that nothing honours may have this value."""
    return value is None or any(value == fine for fine in harmless[name])
