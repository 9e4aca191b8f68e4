#!/usr/bin/env python3
"""Writes tests/golden/quant: small FP8 and NF4 matrices with the values that torch and bitsandbytes give for them.

    python tools/make_quant_goldens.py      (needs torch, bitsandbytes, safetensors; runs on the CPU)

Each NAME.weight comes with NAME.reference (fp32): torch's float8_e4m3fn table times the block factors in fp32, or
bitsandbytes.functional.dequantize_4bit. codes.weight holds all 256 e4m3 bytes but the two NaN.
"""
import os
import shutil

import bitsandbytes
import bitsandbytes.functional as F
import torch
from safetensors.torch import save_file

HERE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests", "golden")


def main():
    g = torch.Generator().manual_seed(3)
    out = {}

    def fp8(name, w8, scale):
        rows = torch.arange(w8.shape[0])[:, None] // 128
        columns = torch.arange(w8.shape[1])[None, :] // 128
        out[name + ".weight"] = w8
        out[name + ".weight_scale_inv"] = scale
        out[name + ".reference"] = w8.float() * scale[rows, columns]
    codes = torch.arange(256, dtype=torch.uint8)
    codes[127], codes[255] = 0, 0
    fp8("codes", codes.view(torch.float8_e4m3fn).reshape(2, 128), torch.ones(1, 1))
    fp8("fp8", torch.randn(130, 300, generator=g).mul(60).clamp(-448, 448).to(torch.float8_e4m3fn), torch.rand(2, 3, generator=g) * 1e-3 + 1e-5)
    fp8("fp8_whole", torch.randn(128, 256, generator=g).mul(60).clamp(-448, 448).to(torch.float8_e4m3fn), torch.rand(1, 2, generator=g) * 1e-3 + 1e-5)

    def nf4(name, shape, dtype, nested, blocksize=64):
        w = (torch.randn(shape, generator=g) * 0.05).to(dtype)
        q, state = F.quantize_4bit(w, blocksize=blocksize, compress_statistics=nested, quant_type="nf4")
        out[name + ".weight"] = q
        for key, value in state.as_dict(packed=True).items():
            out[name + ".weight." + key] = value
        out[name + ".bias"] = torch.randn(shape[0], generator=g).to(torch.bfloat16)
        out[name + ".reference"] = F.dequantize_4bit(q, state).float()
    nf4("nf4_nested", (160, 128), torch.bfloat16, True)  # 320 blocks: two groups of 256
    nf4("nf4_plain", (48, 128), torch.bfloat16, False)
    nf4("nf4_rows", (16, 72), torch.bfloat16, True)  # blocks that cross rows, as in the vision tower of 8B
    nf4("nf4_half", (8, 64), torch.float16, True)
    nf4("nf4_single", (8, 64), torch.float32, False)
    nf4("nf4_wide", (8, 256), torch.bfloat16, True, 128)
    for name, dtype in (("bf16", torch.bfloat16), ("f16", torch.float16), ("f32", torch.float32)):
        w = torch.randn(6, 10, generator=g).to(dtype)
        out[name + ".weight"], out[name + ".reference"] = w, w.float()
    folder = os.path.join(HERE, "quant")
    os.makedirs(folder, exist_ok=True)
    save_file({k: v.contiguous().clone() for k, v in out.items()}, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    shutil.copyfile(os.path.join(HERE, "tiny-a", "config.json"), os.path.join(folder, "config.json"))
    with open(os.path.join(folder, "VERSIONS"), "w") as f:
        f.write("torch %s, bitsandbytes %s\n" % (torch.__version__, bitsandbytes.__version__))


if __name__ == "__main__":
    main()
