#!/usr/bin/env python3
"""Writes a bf16 Qwen3-VL checkpoint again in one of the quantised formats of the Hub. Needs numpy only.

    python tools/requantise.py SRC DST --format fp8|nf4|nf4-plain|mixed

For tests of the readers on weights that mean something (random weights forgive much). Only the decoder's seven linears per layer are
quantised, as in the published files; SRC is one model.safetensors or an index with shards.
  fp8        e4m3 with one fp32 factor per block of 128 x 128 (absmax / 448; blocks at the edge are smaller), lm_head stored although
             tied, one shard with an index whose metadata is empty, `ignored_layers`: Qwen's layout
  nf4        bitsandbytes: blocks of 64, absmax itself 8 bit (nested, groups of 256);  nf4-plain: absmax as fp32
  mixed      nf4 where the MLP of the first layer and the attention of the middle one stay bf16, as unsloth's repositories do
Our own arithmetic: nearest value of the table (the lower one on a tie); bitsandbytes rounds the same but for ties.
"""
import argparse
import json
import os
import shutil
import struct
import sys

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from make_checkpoint import NF4, dynamic_map, e4m3_values, write_json

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ITEM = {"F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "U8": 1}


def read_tensors(folder):
    """{name: (dtype, shape, bytes)}"""
    index = os.path.join(folder, "model.safetensors.index.json")
    names = ["model.safetensors"]
    if os.path.exists(index):
        with open(index) as f:
            names = sorted(set(json.load(f)["weight_map"].values()))
    out = {}
    for name in names:
        with open(os.path.join(folder, name), "rb") as f:
            data = f.read()
        size = struct.unpack("<Q", data[:8])[0]
        for key, v in json.loads(data[8:8 + size]).items():
            if key != "__metadata__":
                a, b = v["data_offsets"]
                out[key] = (v["dtype"], v["shape"], data[8 + size + a:8 + size + b])
    return out


def write_tensors(path, tensors):
    """Widest type first, then by name, as the reference writer does: every tensor comes out aligned."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    order = sorted(tensors, key=lambda n: (-ITEM[tensors[n][0]], n))
    for name in order:
        dtype, shape, data = tensors[name]
        assert len(data) == ITEM[dtype] * int(np.prod(shape, dtype=np.int64)), name
        header[name] = dict(dtype=dtype, shape=list(shape), data_offsets=[at, at + len(data)])
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            f.write(tensors[name][2])


def from_bf16(data, shape):
    return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)


def to_fp8(name, w):
    rows, columns = w.shape
    blocks = (-(-rows // 128), -(-columns // 128))
    padded = np.zeros((blocks[0] * 128, blocks[1] * 128), np.float32)
    padded[:rows, :columns] = w
    absmax = np.abs(padded.reshape(blocks[0], 128, blocks[1], 128)).max((1, 3))
    factor = np.where(absmax > 0, absmax / np.float32(448), np.float32(1)).astype(np.float32)
    scaled = w / np.repeat(np.repeat(factor, 128, 0), 128, 1)[:rows, :columns]
    values = e4m3_values().astype(np.float64)
    low = np.clip(np.searchsorted(values, np.abs(scaled), side="right") - 1, 0, 125)
    middle, x = (values[low] + values[low + 1]) / 2, np.abs(scaled).astype(np.float64)
    code = np.where((x > middle) | ((x == middle) & (low % 2 == 1)), low + 1, low).astype(np.uint8)  # ties to even
    code = np.where(np.signbit(scaled), code | 0x80, code).astype(np.uint8)
    return {name: ("F8_E4M3", w.shape, code.tobytes()), name + "_scale_inv": ("F32", blocks, factor.tobytes())}


def to_nf4(name, w, nested):
    n = w.size
    if n % 64:
        sys.exit("%s: %d elements are no whole number of blocks of 64" % (name, n))
    blocks = w.reshape(-1, 64)
    absmax = np.abs(blocks).max(1).astype(np.float32)
    unit = blocks / np.where(absmax > 0, absmax, 1)[:, None]
    codes = np.searchsorted((NF4[1:].astype(np.float64) + NF4[:-1]) / 2, unit).astype(np.uint8).reshape(-1)
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": list(w.shape)}
    out = {name: ("U8", (n // 2, 1), (codes[0::2] << 4 | codes[1::2]).tobytes()), name + ".quant_map": ("F32", (16,), NF4.tobytes())}
    if nested:
        offset, table = absmax.mean(dtype=np.float32), dynamic_map()
        groups = -(-len(absmax) // 256)
        centred = np.zeros(groups * 256, np.float32)
        centred[:len(absmax)] = absmax - offset
        scale = np.abs(centred.reshape(groups, 256)).max(1).astype(np.float32)
        part = (centred.reshape(groups, 256) / np.where(scale > 0, scale, 1)[:, None]).reshape(-1)[:len(absmax)]
        second = np.searchsorted((table[1:].astype(np.float64) + table[:-1]) / 2, part).astype(np.uint8)
        state.update(nested_blocksize=256, nested_dtype="float32", nested_offset=float(offset))
        out[name + ".absmax"] = ("U8", second.shape, second.tobytes())
        out[name + ".nested_absmax"] = ("F32", scale.shape, scale.tobytes())
        out[name + ".nested_quant_map"] = ("F32", (256,), table.tobytes())
    else:
        out[name + ".absmax"] = ("F32", absmax.shape, absmax.tobytes())
    text = json.dumps(state).encode()
    out[name + ".quant_state.bitsandbytes__nf4"] = ("U8", (len(text),), text)
    return out


def dense_parts(fmt, layers):
    """Module names that stay bf16 in a mixed file."""
    return ["model.language_model.layers.0.mlp", "model.language_model.layers.%d.self_attn" % (layers // 2)] if fmt == "mixed" else []


def quantisation_config(fmt, tensors, layers):
    vision = sorted({n.rsplit(".", 1)[0] for n in tensors if n.startswith("model.visual.")})
    if fmt == "fp8":
        return {"activation_scheme": "dynamic", "fmt": "e4m3", "ignored_layers": ["lm_head"] + vision, "quant_method": "fp8", "weight_block_size": [128, 128]}
    return {"bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_storage": "uint8", "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": fmt != "nf4-plain", "llm_int8_skip_modules": ["lm_head", "visual", "model.visual"] + dense_parts(fmt, layers),
            "load_in_4bit": True, "load_in_8bit": False, "quant_method": "bitsandbytes"}


def requantise(source, target, fmt):
    os.makedirs(target, exist_ok=True)
    tensors, out = read_tensors(source), {}
    with open(os.path.join(source, "config.json")) as f:
        config = json.load(f)
    if "quantization_config" in config:
        sys.exit("%s is quantised already" % source)
    layers = config["text_config"]["num_hidden_layers"]
    dense = dense_parts(fmt, layers)
    for name, (dtype, shape, data) in tensors.items():
        module = name.rsplit(".", 1)[0]
        linear = ".language_model.layers." in name and name.endswith(".weight") and module.rsplit(".", 1)[1] in LINEARS
        if not linear or any(module.startswith(d + ".") for d in dense):
            out[name] = (dtype, shape, data)
            continue
        if dtype != "BF16":
            sys.exit("%s: %s is %s, expected BF16" % (source, name, dtype))
        w = from_bf16(data, shape)
        out.update(to_fp8(name, w) if fmt == "fp8" else to_nf4(name, w, fmt != "nf4-plain"))
    if fmt == "fp8" and "lm_head.weight" not in out:
        out["lm_head.weight"] = out["model.language_model.embed_tokens.weight"]
    config["quantization_config"] = quantisation_config(fmt, tensors, layers)
    write_json(target, "config.json", config)
    for name in os.listdir(source):
        if name != "config.json" and not name.endswith((".safetensors", ".safetensors.index.json")) and os.path.isfile(os.path.join(source, name)):
            shutil.copyfile(os.path.join(source, name), os.path.join(target, name))
    if fmt == "fp8":
        file = "model-00001-of-00001.safetensors"
        write_json(target, "model.safetensors.index.json", {"metadata": {}, "weight_map": {n: file for n in sorted(out)}})
    else:
        file = "model.safetensors"
    write_tensors(os.path.join(target, file), out)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("source")
    p.add_argument("target")
    p.add_argument("--format", choices=["fp8", "nf4", "nf4-plain", "mixed"], required=True)
    a = p.parse_args()
    requantise(a.source, a.target, a.format)


if __name__ == "__main__":
    main()
