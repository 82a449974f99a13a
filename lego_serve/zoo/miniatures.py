"""Random-weight miniatures shaped like the real SD3 family, for tests of loading and parity."""

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from lego_serve.zoo.build import (
    PROMPT_TOKENS,
    TEXT_WIDTH,
    build_scheduler,
    build_text_encoder,
    build_tokenizer,
    build_vae,
)

MINIATURES = ("sd3-medium", "sd35-medium")
T5_WIDTH = 256
WORDS = ("<pad>", "</s>", "<unk>", "a", "red", "blue", "circle", "square", "on", "the", "left")


def miniature(name: str) -> StableDiffusion3Pipeline:
    """A pipeline shaped as SD3 medium (no QK norm) or SD3.5 medium (QK norm, dual attention), both with T5."""
    tokenizer = build_tokenizer(captions=100)
    encoders = [build_text_encoder(len(tokenizer), tokenizer.eos_token_id, seed) for seed in (0, 1)]
    dual = name == "sd35-medium"
    torch.manual_seed(5)
    transformer = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=8, out_channels=8, num_layers=3, attention_head_dim=16,
        num_attention_heads=4, joint_attention_dim=T5_WIDTH, caption_projection_dim=64,
        pooled_projection_dim=2 * TEXT_WIDTH, pos_embed_max_size=24,
        qk_norm="rms_norm" if dual else None, dual_attention_layers=(0, 1) if dual else (),
    )  # fmt: skip
    for weight in transformer.parameters():
        weight.data.add_(torch.randn_like(weight) * 0.05)
    t5 = T5EncoderModel(T5Config(vocab_size=len(WORDS), d_model=T5_WIDTH, d_kv=16, d_ff=64, num_layers=2, num_heads=4))
    scheduler = build_scheduler()
    scheduler.register_to_config(shift=3.0)
    return StableDiffusion3Pipeline(
        transformer=transformer, scheduler=type(scheduler).from_config(scheduler.config), vae=build_vae(),
        text_encoder=encoders[0], tokenizer=tokenizer, text_encoder_2=encoders[1], tokenizer_2=tokenizer,
        text_encoder_3=t5.eval(), tokenizer_3=_word_tokenizer(),
    )  # fmt: skip


def _word_tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=PROMPT_TOKENS
    )
