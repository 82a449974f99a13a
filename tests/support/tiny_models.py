"""Random-weight miniatures of the real SD3 and FLUX families, and lego-tiny untrained."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetModel,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3ControlNetModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from lego_serve.zoo.architecture import (
    PROMPT_TOKENS,
    TEXT_WIDTH,
    build_scheduler,
    build_text_encoder,
    build_tokenizer,
    build_transformer,
    build_vae,
)
from lego_serve.zoo.export import pipeline

MINIATURES = ("sd3-medium", "sd35-medium")
FLUX_LATENT_CHANNELS = 16
T5_WIDTH = 256
WORDS = ("<pad>", "</s>", "<unk>", "a", "red", "blue", "circle", "square", "on", "the", "left")


def miniature(name: str) -> StableDiffusion3Pipeline:
    """Return a pipeline shaped as SD3 medium (no QK norm) or SD3.5 medium (QK norm, dual attention), both with T5."""
    tokenizer = build_tokenizer(captions=100)
    encoders = [build_text_encoder(len(tokenizer), tokenizer.eos_token_id, seed) for seed in (0, 1)]
    dual = name == "sd35-medium"
    torch.manual_seed(5)
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=8,
        out_channels=8,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=T5_WIDTH,
        caption_projection_dim=64,
        pooled_projection_dim=2 * TEXT_WIDTH,
        pos_embed_max_size=24,
        qk_norm="rms_norm" if dual else None,
        dual_attention_layers=(0, 1) if dual else (),
    )
    for weight in transformer.parameters():
        weight.data.add_(torch.randn_like(weight) * 0.05)
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=build_scheduler(),
        vae=build_vae(),
        text_encoder=encoders[0],
        tokenizer=tokenizer,
        text_encoder_2=encoders[1],
        tokenizer_2=tokenizer,
        text_encoder_3=_t5(),
        tokenizer_3=word_tokenizer(),
    )


def flux_miniature(name: str) -> FluxPipeline:
    """Return a pipeline shaped as FLUX.1-dev (guidance embedding, shift by size) or FLUX.1-schnell (neither)."""
    dev = name == "flux-dev"
    tokenizer = build_tokenizer(captions=100)
    clip_config = build_text_encoder(len(tokenizer), tokenizer.eos_token_id, seed=0).config
    torch.manual_seed(6)
    transformer = FluxTransformer2DModel(
        in_channels=4 * FLUX_LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=dev,
        axes_dims_rope=(4, 6, 6),
    )
    for weight in transformer.parameters():
        weight.data.add_(torch.randn_like(weight) * 0.05)
    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0 if dev else 1.0,
        use_dynamic_shifting=dev,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )
    return FluxPipeline(
        transformer=transformer,
        scheduler=scheduler,
        vae=_flux_vae(),
        text_encoder=CLIPTextModel(clip_config).eval(),
        tokenizer=tokenizer,
        text_encoder_2=_t5(),
        tokenizer_2=word_tokenizer(),
    )


def untrained() -> StableDiffusion3Pipeline:
    """Return lego-tiny's architecture with random weights from fixed seeds."""
    tokenizer = build_tokenizer(captions=300)
    end = tokenizer.eos_token_id
    encoders = [build_text_encoder(len(tokenizer), end, seed) for seed in (0, 1)]
    transformer = build_transformer()
    generator = torch.Generator().manual_seed(4)
    for weight in transformer.parameters():  # adaLN starts at zero, which would hide mistakes
        weight.data.add_(torch.randn(weight.shape, generator=generator) * 0.02)
    return pipeline(tokenizer, encoders, build_vae(), transformer)


def control_miniature(transformer: SD3Transformer2DModel, seed: int = 7, **changes: Any) -> SD3ControlNetModel:
    """Return a ControlNet of two blocks for an SD3 transformer, with random weights (outputs would start at zero)."""
    config = transformer.config
    keys = (
        "sample_size",
        "patch_size",
        "in_channels",
        "attention_head_dim",
        "num_attention_heads",
        "joint_attention_dim",
        "caption_projection_dim",
        "pooled_projection_dim",
        "out_channels",
        "pos_embed_max_size",
        "qk_norm",
    )
    settings = {key: config[key] for key in keys} | {"num_layers": 2} | changes
    return _randomise(SD3ControlNetModel(**settings), seed)


def flux_control_miniature(transformer: FluxTransformer2DModel, seed: int = 7, **changes: Any) -> FluxControlNetModel:
    """Return a ControlNet of one double and two single blocks for a FLUX transformer, with random weights."""
    config = transformer.config
    keys = (
        "in_channels",
        "attention_head_dim",
        "num_attention_heads",
        "joint_attention_dim",
        "pooled_projection_dim",
        "guidance_embeds",
        "axes_dims_rope",
    )
    settings = {key: config[key] for key in keys} | {"num_layers": 1, "num_single_layers": 2} | changes
    return _randomise(FluxControlNetModel(**settings), seed)


def _randomise(module: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    for weight in module.parameters():
        weight.data.add_(torch.randn(weight.shape, generator=generator) * 0.05)
    return module.eval().requires_grad_(False)


def _flux_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 16, 32, 64),
        layers_per_block=1,
        latent_channels=FLUX_LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=128,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    )


def _t5() -> T5EncoderModel:
    config = T5Config(vocab_size=len(WORDS), d_model=T5_WIDTH, d_kv=16, d_ff=64, num_layers=2, num_heads=4)
    return T5EncoderModel(config).eval()


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of WORDS, as T5's."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=PROMPT_TOKENS,
    )
