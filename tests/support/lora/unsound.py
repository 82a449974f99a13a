"""Adapters that are refused: files that are damaged or no safetensors, and tensors that fit no model."""

import json
import pickle
import struct
import zipfile
from io import BytesIO
from typing import Any

import torch
from safetensors.torch import save

from lego_serve.models.lora.names import BaseLayers
from tests.support.lora.adapters import diffusers_names, kohya_names, products

GOOD = save({"a.lora_A.weight": torch.ones(2, 3), "a.lora_B.weight": torch.ones(4, 2)}, {"made": "here"})


def raw(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    """A file of any header, an object or text, and any bytes after it."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(shape: Any = (1,), offsets: Any = (0, 4), dtype: Any = "F32") -> dict[str, Any]:
    """One tensor's line in a header."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def zipped() -> bytes:
    """A zip archive, as torch.save writes them."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    return buffer.getvalue()


def many(count: int, metadata: dict[str, Any]) -> bytes:
    """A sound file of so many tensors."""
    return raw(metadata | {f"w{i}": entry((1,), (4 * i, 4 * i + 4)) for i in range(count)}, bytes(4 * count))


def values(*numbers: float, dtype: torch.dtype = torch.float32) -> bytes:
    """A file whose first tensor holds these numbers."""
    return save({"w": torch.tensor(numbers, dtype=dtype), "v": torch.ones(2)})


BAD: dict[str, tuple[bytes, str]] = {
    "an empty file": (b"", "empty"),
    "one byte": (b"x", "no safetensors header"),
    "a pickle": (pickle.dumps({"a": 1}, protocol=2), "pickle"),
    "a later pickle": (pickle.dumps({"a": 1}, protocol=5), "pickle"),
    "a zip archive": (zipped(), "zip"),
    "a gzip archive": (b"\x1f\x8b\x08" + bytes(40), "gzip"),
    "a tar archive": (b"a" + bytes(256) + b"ustar\x00" + bytes(300), "tar"),
    "an HDF5 file": (b"\x89HDF\r\n\x1a\n" + bytes(40), "HDF5"),
    "a header of no bytes": (raw("", length=0), "no safetensors header"),
    "a header beyond the file": (raw({"w": entry()}, length=500), "ends within its header"),
    "a header over 1 MiB": (raw("{" + " " * (1 << 20) + "}"), "more than 1 MiB"),
    "a header of 2^63 bytes": (raw("{}", length=1 << 63), "safetensors allows 100"),
    "a header that is no JSON": (raw("{w: 1}"), "no JSON"),
    "a header that is not UTF-8": (struct.pack("<Q", 4) + b'{"\xff}', "no JSON"),
    "a header that is a list": (raw([1, 2]), "no JSON object"),
    "a header with NaN": (raw('{"w": NaN}'), "no JSON"),
    "a header with a number of 5000 digits": (raw('{"w": ' + "9" * 5000 + "}"), "no JSON"),
    "a deep nest": (raw("[" * 100_000), "no JSON"),
    "a deep nest inside": (raw('{"w":' * 90_000 + "1"), "no JSON"),
    "no tensors": (raw({}), "holds no tensors"),
    "metadata alone": (raw({"__metadata__": {"a": "b"}}), "holds no tensors"),
    "metadata of numbers": (raw({"__metadata__": {"a": 1}, "w": entry()}, bytes(4)), "metadata"),
    "metadata that is a list": (raw({"__metadata__": [], "w": entry()}, bytes(4)), "metadata"),
    "duplicate keys": (raw('{"w": %s, "w": %s}' % ((json.dumps(entry()),) * 2), bytes(4)), "twice"),
    "duplicate fields": (raw('{"w": {"dtype": "F32", "dtype": "F16"}}', bytes(4)), "twice"),
    "4097 tensors": (many(4097, {}), "more than 4096"),
    "4097 tensors and metadata": (many(4097, {"__metadata__": {"made": "here"}}), "more than 4096"),
    "an entry that is text": (raw({"w": "x"}), "does not describe"),
    "an entry with more fields": (raw({"w": entry() | {"more": 1}}, bytes(4)), "does not describe"),
    "an unknown dtype": (raw({"w": entry(dtype="F99")}, bytes(4)), "dtype"),
    "a dtype of integers": (raw({"w": entry(dtype="I32")}, bytes(4)), "dtype"),
    "a dtype that is a list": (raw({"w": entry(dtype=["F32"])}, bytes(4)), "dtype"),
    "a negative side": (raw({"w": entry((-1,))}, bytes(4)), "shape"),
    "a side of none": (raw({"w": entry((0, 4), (0, 0))}), "shape"),
    "a side that is true": (raw({"w": entry((True,))}, bytes(4)), "shape"),
    "a shape that overflows": (raw({"w": entry((2**32, 2**32))}, bytes(4)), "shape"),
    "five sides": (raw({"w": entry((1, 1, 1, 1, 1))}, bytes(4)), "shape"),
    "negative offsets": (raw({"w": entry((1,), (-4, 0))}, bytes(4)), "place"),
    "three offsets": (raw({"w": entry((1,), (0, 4, 8))}, bytes(4)), "place"),
    "offsets backwards": (raw({"w": entry((1,), (4, 0))}, bytes(4)), "bytes than its shape"),
    "too few bytes for the shape": (raw({"w": entry((2,), (0, 4))}, bytes(4)), "bytes than its shape"),
    "an overlap": (raw({"w": entry(), "v": entry((1,), (2, 6))}, bytes(6)), "overlap"),
    "two of one place": (raw({"w": entry(), "v": entry()}, bytes(4)), "overlap"),
    "a hole": (raw({"w": entry((1,), (4, 8))}, bytes(8)), "hole"),
    "bytes at the end": (raw({"w": entry()}, bytes(8)), "after its last tensor"),
    "an end within a tensor": (GOOD[:-1], "ends within its tensors"),
    "NaN": (values(1.0, float("nan")), "no finite numbers"),
    "infinity": (values(float("-inf"), 1.0), "no finite numbers"),
    "NaN in bf16": (values(1.0, float("nan"), dtype=torch.bfloat16), "no finite numbers"),
    "a huge weight": (values(-1.1e4), "over 10000"),
}


def bad(base: BaseLayers, kind: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of one fault."""
    made = products(base, rank=4, only="transformer_blocks.0.attn.to_q")
    path, (down, up) = next(iter(made.pairs.items()))
    good = diffusers_names(made)
    a, b = f"{path}.lora_A.weight", f"{path}.lora_B.weight"
    other = "flux" if base.family == "sd3" else "sd3"
    architecture = {"flux": "flux-1-dev/lora", "sd3": "stable-diffusion-3-medium/lora"}[other]
    names = {"flux": "lora_unet_double_blocks_0_img_attn_qkv", "sd3": "lora_unet_joint_blocks_0_x_block_attn_qkv"}
    kohya = kohya_names(made)
    alpha = next(key for key in kohya if key.endswith(".alpha"))
    extra = {f"transformer.extra.{i}.lora_{x}.weight": t for i in (0, 1) for x, t in (("A", down), ("B", up))}
    pair = {".lora_down.weight": down, ".lora_up.weight": up}
    return {
        "an unknown layer": (extra, {}),
        "a bias": (good | {f"{path}.lora_B.bias": torch.ones(4)}, {}),
        "DoRA": (good | {f"{path}.lora_magnitude_vector": torch.ones(4)}, {}),
        "LoHa": ({"lora_unet_x.hada_w1_a": down}, {}),
        "one half": ({a: down}, {}),
        "an alpha alone": ({f"{path}.alpha": torch.tensor(1.0)}, {}),
        "ranks that differ": (good | {a: down[:2]}, {}),
        "three sides": (good | {a: down[None]}, {}),
        "a rank of 257": ({a: torch.ones(257, down.shape[1]) * 1e-3, b: torch.ones(up.shape[0], 257) * 1e-3}, {}),
        "other inputs": (good | {a: torch.ones(4, down.shape[1] + 8)}, {}),
        "other outputs": (good | {b: torch.ones(up.shape[0] + 8, 4)}, {}),
        "an alpha that is NaN": (kohya | {alpha: torch.tensor(float("nan"))}, {}),
        "an alpha of two numbers": (kohya | {alpha: torch.ones(2)}, {}),
        "a product that is huge": ({a: down / down.abs().max() * 9e3, b: up / up.abs().max() * 9e3}, {}),
        "a huge alpha": (kohya | {alpha: torch.tensor(9e3), alpha.replace(".alpha", ".lora_up.weight"): up * 1e3}, {}),
        "two formats at once": (good | kohya, {}),
        "another family, as it says": (good, {"modelspec.architecture": architecture}),
        "another family, as kohya says": (good, {"ss_base_model_version": "sdxl_base_v1-0"}),
        "another family, by its names": ({names[other] + key: tensor for key, tensor in pair.items()}, {}),
        "a UNet's names": ({f"lora_unet_down_blocks_0_attentions_0_proj{key}": t for key, t in pair.items()}, {}),
        "settings that are no JSON": (good, {"lora_adapter_metadata": "{"}),
        "settings that are a list": (good, {"lora_adapter_metadata": "[]"}),
        "an alpha that is text": (good, {"lora_adapter_metadata": '{"transformer.lora_alpha": "x"}'}),
        "an alpha past every float": (good, {"lora_adapter_metadata": '{"transformer.lora_alpha": %s}' % ("9" * 400)}),
        "a layer's alpha past every float": (
            good,
            {"lora_adapter_metadata": '{"transformer.alpha_pattern": {"attn.to_q": -%s}}' % ("9" * 400)},
        ),
        "an alpha past every product": (good, {"lora_adapter_metadata": '{"transformer.lora_alpha": 1e308}'}),
        "an alpha of the least whole number": (kohya | {alpha: torch.tensor(-(2**63))}, {}),
        "a setting for DoRA": (good, {"lora_adapter_metadata": '{"transformer.use_dora": true}'}),
    }[kind]


FAULTS = {
    "an unknown layer": "does not let adapters change: transformer.extra.N",
    "a bias": "no low-rank product: .*lora_B.bias", "DoRA": "lora_magnitude_vector", "LoHa": "lora_unet_x.hada",
    "one half": "one half", "an alpha alone": "one half", "ranks that differ": "do not fit each other",
    "three sides": "do not fit each other", "a rank of 257": "rank outside 1 to 256",
    "other inputs": "another model than mine: .* x .* in mine", "other outputs": "another model than mine",
    "an alpha that is NaN": "no finite number", "an alpha of two numbers": "no finite number",
    "a product that is huge": "more than 10000", "a huge alpha": "more than 10000",
    "two formats at once": "two products",
    "another family, as it says": "was made for (flux|sd3), as it says, and model mine is (sd3|flux)",
    "another family, as kohya says": "was made for Stable Diffusion XL, as it says, and model mine",
    "another family, by its names": "looks made for (flux|sd3), and model mine is (sd3|flux)",
    "a UNet's names": "looks made for Stable Diffusion 1, 2 or XL, and model mine",
    "settings that are no JSON": "PEFT settings", "settings that are a list": "PEFT settings",
    "an alpha past every float": "PEFT settings", "a layer's alpha past every float": "PEFT settings",
    "an alpha past every product": "more than 10000", "an alpha of the least whole number": "over 10000",
    "an alpha that is text": "PEFT settings", "a setting for DoRA": "DoRA",
}  # fmt: skip
