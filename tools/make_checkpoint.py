#!/usr/bin/env python3
"""Writes a Qwen3-VL checkpoint with the real names, shapes, dtypes and file layout, and random weights. Needs numpy only.

    python tools/make_checkpoint.py DIR --size tiny|mini|2b|4b|8b --format bf16|fp8|nf4|nf4-plain [--thinking] [--seed N] [--tokenizer DIR]

For speed and memory measurements and load tests: the numbers in it mean nothing, its shape is that of the Hub's files. The 2B FP8
file has exactly the published size, 3,468,553,776 bytes (checked). What is known and what is assumed:
  fp8   only the decoder's linears are FP8 (e4m3, 128 x 128 fp32 factors); lm_head stored though tied; one shard with an index
        whose metadata is empty, as Qwen/Qwen3-VL-2B-Thinking-FP8
  nf4   bitsandbytes, nested absmax; vision, embeddings and head dense; in the decoder layer 0's MLP and layer 11's attention are dense
        (seen in the 4B repository; the lists of the others are not known, the same is assumed). nf4-plain: fp32 absmax
  bf16  shards of at most 5 GB, as transformers saves

Weights are slices, at random places, of small pools of normal numbers that were quantised once, scaled so that activations stay
sane: memory use is small and writing goes at the speed of the disk. Without --tokenizer a byte-level tokenizer of made-up words is
written, with Qwen's ids for the added tokens.
"""
import argparse
import json
import os
import shutil
import struct
import sys

import numpy as np

SIZES = {
    "tiny": dict(layers=3, hidden=256, heads=4, kv=2, head_dim=64, inter=768, tied=True, sections=[12, 10, 10],
                 v=dict(depth=4, hidden=192, heads=3, inter=768, deep=[0, 1, 2], positions=576)),
    "mini": dict(layers=2, hidden=512, heads=8, kv=4, head_dim=128, inter=1024, tied=True, sections=[24, 20, 20],
                 v=dict(depth=2, hidden=128, heads=2, inter=256, deep=[0], positions=576)),
    "2b": dict(layers=28, hidden=2048, heads=16, kv=8, head_dim=128, inter=6144, tied=True, sections=[24, 20, 20],
               v=dict(depth=24, hidden=1024, heads=16, inter=4096, deep=[5, 11, 17], positions=2304)),
    "4b": dict(layers=36, hidden=2560, heads=32, kv=8, head_dim=128, inter=9728, tied=True, sections=[24, 20, 20],
               v=dict(depth=24, hidden=1024, heads=16, inter=4096, deep=[5, 11, 17], positions=2304)),
    "8b": dict(layers=36, hidden=4096, heads=32, kv=8, head_dim=128, inter=12288, tied=False, sections=[24, 20, 20],
               v=dict(depth=27, hidden=1152, heads=16, inter=4304, deep=[8, 16, 24], positions=2304)),
}
SHARD_BYTES = 5_000_000_000
DTYPE_ORDER = ["F32", "BF16", "F8_E4M3", "U8"]  # as the reference writer orders data
NF4 = np.array([-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
                -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
                0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0], np.float32)
ADDED = ([("<|%s|>" % s, True) for s in ["endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start", "box_end", "quad_start",
                                         "quad_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"]] +
         [(s, False) for s in ["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>",
                               "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>"]])


def tensors(c, vocab):
    """(name, shape, kind, std) of the bf16 checkpoint; kind: linear (decoder), dense, norm, bias."""
    D, I, H, L = c["hidden"], c["inter"], c["head_dim"], c["layers"]
    Q, K = c["heads"] * H, c["kv"] * H
    v = c["v"]
    V, J, M = v["hidden"], v["inter"], 4 * v["hidden"]
    t = "model.language_model."
    yield t + "embed_tokens.weight", [vocab, D], "dense", 0.02
    for i in range(L):
        p = "%slayers.%d." % (t, i)
        yield p + "input_layernorm.weight", [D], "norm", 0.1
        for n, out, inp in (("q_proj", Q, D), ("k_proj", K, D), ("v_proj", K, D), ("o_proj", D, Q)):
            yield "%sself_attn.%s.weight" % (p, n), [out, inp], "linear", inp ** -0.5 * (0.3 if n == "o_proj" else 0.8)
        yield p + "self_attn.q_norm.weight", [H], "norm", 0.1
        yield p + "self_attn.k_norm.weight", [H], "norm", 0.1
        yield p + "post_attention_layernorm.weight", [D], "norm", 0.1
        for n, out, inp in (("gate_proj", I, D), ("up_proj", I, D), ("down_proj", D, I)):
            yield "%smlp.%s.weight" % (p, n), [out, inp], "linear", inp ** -0.5 * (0.3 if n == "down_proj" else 0.8)
    yield t + "norm.weight", [D], "norm", 0.1
    if not c["tied"]:
        yield "lm_head.weight", [vocab, D], "dense", 0.02
    p = "model.visual."

    def linear(name, shape, std):
        yield name + ".weight", shape, "dense", std
        yield name + ".bias", shape[:1], "bias", 0.02

    def norm(name, n):
        yield name + ".weight", [n], "norm", 0.1
        yield name + ".bias", [n], "bias", 0.02
    yield from linear(p + "patch_embed.proj", [V, 3, 2, 16, 16], 0.02)
    yield p + "pos_embed.weight", [v["positions"], V], "dense", 0.02
    for b in range(v["depth"]):
        q = "%sblocks.%d." % (p, b)
        yield from norm(q + "norm1", V)
        yield from norm(q + "norm2", V)
        yield from linear(q + "attn.qkv", [3 * V, V], 0.8 * V ** -0.5)
        yield from linear(q + "attn.proj", [V, V], 0.3 * V ** -0.5)
        yield from linear(q + "mlp.linear_fc1", [J, V], 0.8 * V ** -0.5)
        yield from linear(q + "mlp.linear_fc2", [V, J], 0.3 * J ** -0.5)
    for name, n in [("merger", V)] + [("deepstack_merger_list.%d" % k, M) for k in range(len(v["deep"]))]:
        yield from norm(p + name + ".norm", n)
        yield from linear(p + name + ".linear_fc1", [M, M], 0.8 * M ** -0.5)
        yield from linear(p + name + ".linear_fc2", [D, M], 0.8 * M ** -0.5)


def to_bf16(f):
    bits = np.ascontiguousarray(f, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def e4m3_values():
    code = np.arange(127)
    exponent, mantissa = code >> 3, code & 7
    return np.where(exponent == 0, mantissa * 2.0 ** -9, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0)).astype(np.float32)


def dynamic_map():
    """bitsandbytes' signed dynamic 8-bit map."""
    out = [0.0, 1.0]
    for i in range(7):
        edges = np.linspace(0.1, 1, 2 ** i + 1)
        out += list(10.0 ** (i - 6) * (edges[:-1] + edges[1:]) / 2) + list(-(10.0 ** (i - 6)) * (edges[:-1] + edges[1:]) / 2)
    return np.array(sorted(out), np.float32)


class Pools:
    GROUPS = 256  # of 256 blocks of 64
    PRIME = (1 << 22) - 3  # dense and FP8 values go round after so many: no two rows of a matrix (of the vocabulary) are alike

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.normal = self.rng.standard_normal(1 << 22, np.float32)
        self.dense = {}
        scaled = np.clip(self.normal / 4.2 * 448, -448, 448)  # 128 x 128 normal numbers reach about 4.2 standard deviations
        values = e4m3_values()
        nearest = np.searchsorted((values[1:] + values[:-1]) / 2, np.abs(scaled)).astype(np.uint8)
        self.fp8 = np.where(scaled < 0, nearest | 0x80, nearest).astype(np.uint8)[:self.PRIME]
        blocks = self.normal[:self.GROUPS * 256 * 64].reshape(-1, 64)
        absmax = np.abs(blocks).max(1)
        codes = np.searchsorted((NF4[1:] + NF4[:-1]) / 2, blocks / absmax[:, None]).astype(np.uint8)
        self.nf4 = (codes[:, 0::2] << 4 | codes[:, 1::2]).reshape(-1)
        self.absmax, self.offset = absmax.astype(np.float32), float(absmax.mean())
        centred = (absmax - self.offset).reshape(self.GROUPS, 256)
        self.nested = np.abs(centred).max(1).astype(np.float32)
        self.map = dynamic_map()
        self.absmax_codes = np.searchsorted((self.map[1:] + self.map[:-1]) / 2, (centred / self.nested[:, None]).reshape(-1)).astype(np.uint8)

    def slices(self, pool, count, unit=1):
        """count elements of pool from a random multiple of unit on, wrapping around, in pieces."""
        at = int(self.rng.integers(len(pool) // unit)) * unit
        while count:
            piece = pool[at:at + count]
            yield piece
            count -= len(piece)
            at = 0


def pieces(pools, name, shape, kind, std, storage):
    """(name, dtype, shape, generator of byte pieces) of each stored tensor."""
    n = int(np.prod(shape, dtype=np.int64))
    if storage == "fp8":
        blocks = [(s + 127) // 128 for s in shape]
        yield name, "F8_E4M3", shape, lambda: pools.slices(pools.fp8, n)
        yield name + "_scale_inv", "F32", blocks, lambda: [(std * 4.2 / 448 * pools.rng.uniform(0.9, 1.1, blocks)).astype(np.float32)]
    elif storage in ("nf4", "nf4-plain"):
        blocks = n // 64
        state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": list(shape)}
        start = int(pools.rng.integers(pools.GROUPS)) * 256  # codes and their absmax must come from one place

        def cyclic(pool, at, count):
            while count:
                piece = pool[at:at + count]
                yield piece
                count -= len(piece)
                at = 0
        yield name, "U8", [n // 2, 1], lambda: cyclic(pools.nf4, start * 32, n // 2)
        if storage == "nf4":
            state.update(nested_blocksize=256, nested_dtype="float32", nested_offset=float(np.float32(pools.offset * std)))
            yield name + ".absmax", "U8", [blocks], lambda: cyclic(pools.absmax_codes, start, blocks)
            yield name + ".nested_absmax", "F32", [(blocks + 255) // 256], lambda: [np.concatenate(list(cyclic(pools.nested, start // 256, (blocks + 255) // 256))) * np.float32(std)]
            yield name + ".nested_quant_map", "F32", [256], lambda: [pools.map]
        else:
            yield name + ".absmax", "F32", [blocks], lambda: (p * np.float32(std) for p in cyclic(pools.absmax, start, blocks))
        yield name + ".quant_map", "F32", [16], lambda: [NF4]
        text = json.dumps(state).encode()
        yield name + ".quant_state.bitsandbytes__nf4", "U8", [len(text)], lambda: [np.frombuffer(text, np.uint8)]
    elif kind == "norm":
        yield name, "BF16", shape, lambda: [to_bf16(1 + std * pools.rng.standard_normal(n))]
    else:
        key = float(np.float32(std))

        def dense():
            if key not in pools.dense:
                if len(pools.dense) > 6:
                    pools.dense.clear()
                pools.dense[key] = to_bf16(pools.normal[:pools.PRIME] * key)
            return pools.slices(pools.dense[key], n)
        yield name, "BF16", shape, dense


def storage_of(name, kind, fmt):
    if kind != "linear" or fmt == "bf16":
        return "dense"
    if fmt.startswith("nf4") and (".layers.0.mlp." in name or ".layers.11.self_attn." in name):
        return "dense"
    return fmt


BYTES = {"F32": 4, "BF16": 2, "F8_E4M3": 1, "U8": 1}


def write_file(path, entries):
    entries = sorted(entries, key=lambda e: (DTYPE_ORDER.index(e[1]), e[0]))
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, shape, _ in entries:
        size = int(np.prod(shape, dtype=np.int64)) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, dtype, shape, make in entries:
            before = f.tell()
            for piece in make():
                f.write(np.ascontiguousarray(piece).data)
            if f.tell() - before != header[name]["data_offsets"][1] - header[name]["data_offsets"][0]:
                sys.exit("wrong size: " + name)
    return at


def write_weights(folder, c, vocab, fmt, seed):
    pools = Pools(seed)
    listed = list(tensors(c, vocab))
    if fmt == "fp8" and c["tied"]:
        listed.append(("lm_head.weight", [vocab, c["hidden"]], "dense", 0.02))
    shards, sizes = [[]], [0]
    for name, shape, kind, std in listed:
        for e in pieces(pools, name, shape, kind, std, storage_of(name, kind, fmt)):
            size = int(np.prod(e[2], dtype=np.int64)) * BYTES[e[1]]
            if sizes[-1] + size > SHARD_BYTES and shards[-1]:
                shards.append([])
                sizes.append(0)
            shards[-1].append(e)
            sizes[-1] += size
    if len(shards) == 1 and fmt != "fp8":
        write_file(os.path.join(folder, "model.safetensors"), shards[0])
        return
    where, total = {}, 0
    for i, entries in enumerate(shards):
        name = "model-%05d-of-%05d.safetensors" % (i + 1, len(shards))
        total += write_file(os.path.join(folder, name), entries)
        where.update({e[0]: name for e in entries})
    index = {"metadata": {} if fmt == "fp8" else {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    with open(os.path.join(folder, "model.safetensors.index.json"), "w") as f:
        f.write(json.dumps(index, indent=2))


def byte_alphabet():
    shown = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    return [chr(b) for b in shown] + [chr(256 + i) for i in range(256 - len(shown))]


def write_tokenizer(folder, first_added):
    """Every id below first_added is a piece: the bytes, then made-up words. No merges: text becomes bytes."""
    syllables = [a + b for a in "bdfghjklmnprstvwyz" for b in "aeiou"]
    vocab = {s: i for i, s in enumerate(byte_alphabet())}
    n = 0
    while len(vocab) < first_added:
        word, k = "", n
        while k or not word:
            word += syllables[k % 90]
            k //= 90
        for piece in (word, "\u0120" + word):
            if len(vocab) < first_added and piece not in vocab:
                vocab[piece] = len(vocab)
        n += 1
    added = [{"id": first_added + i, "content": s, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
             for i, (s, special) in enumerate(ADDED)]
    split = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    document = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": {"type": "NFC"},
                "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False}, level]},
                "post_processor": level, "decoder": level,
                "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False,
                          "byte_fallback": False, "vocab": vocab, "merges": []}}
    with open(os.path.join(folder, "tokenizer.json"), "w") as f:
        json.dump(document, f)


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w") as f:
        f.write(json.dumps(value, indent=2) + "\n")


def write_configs(folder, c, fmt, thinking, vocab, ids):
    v = c["v"]
    text = {"attention_bias": False, "attention_dropout": 0.0, "bos_token_id": ids["<|endoftext|>"], "dtype": "bfloat16", "eos_token_id": ids["<|im_end|>"],
            "head_dim": c["head_dim"], "hidden_act": "silu", "hidden_size": c["hidden"], "initializer_range": 0.02, "intermediate_size": c["inter"],
            "max_position_embeddings": 262144, "model_type": "qwen3_vl_text", "num_attention_heads": c["heads"], "num_hidden_layers": c["layers"],
            "num_key_value_heads": c["kv"], "rms_norm_eps": 1e-06,
            "rope_scaling": {"mrope_interleaved": True, "mrope_section": c["sections"], "rope_type": "default"}, "rope_theta": 5000000,
            "tie_word_embeddings": c["tied"], "use_cache": True, "vocab_size": vocab}
    vision = {"deepstack_visual_indexes": v["deep"], "depth": v["depth"], "hidden_act": "gelu_pytorch_tanh", "hidden_size": v["hidden"], "in_channels": 3,
              "initializer_range": 0.02, "intermediate_size": v["inter"], "model_type": "qwen3_vl", "num_heads": v["heads"],
              "num_position_embeddings": v["positions"], "out_hidden_size": c["hidden"], "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2}
    config = {"architectures": ["Qwen3VLForConditionalGeneration"], "image_token_id": ids["<|image_pad|>"], "model_type": "qwen3_vl", "text_config": text,
              "tie_word_embeddings": c["tied"], "transformers_version": "4.57.0.dev0", "video_token_id": ids["<|video_pad|>"], "vision_config": vision,
              "vision_end_token_id": ids["<|vision_end|>"], "vision_start_token_id": ids["<|vision_start|>"]}
    if fmt == "fp8":
        config["quantization_config"] = {"activation_scheme": "dynamic", "fmt": "e4m3", "ignored_layers": ["lm_head"] + [
            "model.visual.blocks.%d.%s" % (b, n) for b in range(27) for n in ("attn.proj", "attn.qkv", "mlp.linear_fc1", "mlp.linear_fc2")],
            "quant_method": "fp8", "weight_block_size": [128, 128]}
    if fmt.startswith("nf4"):
        config["pad_token_id"], config["unsloth_fixed"] = ids["<|vision_pad|>"], True
        config["quantization_config"] = {
            "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_storage": "uint8", "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": fmt == "nf4",
            "llm_int8_skip_modules": ["lm_head", "visual", "model.language_model.layers.0.mlp", "model.language_model.layers.11.self_attn"],
            "load_in_4bit": True, "load_in_8bit": False, "quant_method": "bitsandbytes"}
    write_json(folder, "config.json", config)
    write_json(folder, "generation_config.json", {
        "bos_token_id": ids["<|endoftext|>"], "do_sample": True, "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]], "pad_token_id": ids["<|endoftext|>"],
        "repetition_penalty": 1.0, "temperature": 1.0 if thinking else 0.7, "top_k": 20, "top_p": 0.95 if thinking else 0.8})
    for name, low, high in (("preprocessor_config.json", 65536, 16777216), ("video_preprocessor_config.json", 4096, 25165824)):
        write_json(folder, name, {"size": {"longest_edge": high, "shortest_edge": low}, "patch_size": 16, "temporal_patch_size": 2, "merge_size": 2,
                                  "image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    golden = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests", "golden", "text", "thinking" if thinking else "instruct")
    shutil.copyfile(os.path.join(golden, "chat_template.jinja"), os.path.join(folder, "chat_template.jinja"))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("folder")
    p.add_argument("--size", choices=list(SIZES), required=True)
    p.add_argument("--format", choices=["bf16", "fp8", "nf4", "nf4-plain"], required=True)
    p.add_argument("--thinking", action="store_true")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--tokenizer", help="folder whose tokenizer.json is copied")
    a = p.parse_args()
    c = SIZES[a.size]
    os.makedirs(a.folder, exist_ok=True)
    if a.tokenizer:
        shutil.copyfile(os.path.join(a.tokenizer, "tokenizer.json"), os.path.join(a.folder, "tokenizer.json"))
    else:
        write_tokenizer(a.folder, 1000 if a.size in ("tiny", "mini") else 151643)
    with open(os.path.join(a.folder, "tokenizer.json")) as f:
        ids = {t["content"]: t["id"] for t in json.load(f)["added_tokens"]}
    vocab = 151936 if a.size not in ("tiny", "mini") else (max(ids.values()) + 128) // 128 * 128
    if max(ids.values()) >= vocab:
        sys.exit("the tokenizer has more tokens than the model: %d" % max(ids.values()))
    write_configs(a.folder, c, a.format, a.thinking, vocab, ids)
    write_weights(a.folder, c, vocab, a.format, a.seed)
    total = 0
    for name in sorted(os.listdir(a.folder)):
        if name.endswith(".safetensors"):
            size = os.path.getsize(os.path.join(a.folder, name))
            total += size
            print("%s: %s bytes" % (name, format(size, ",")))
    if (a.size, a.format) == ("2b", "fp8") and total != 3468553776:
        sys.exit("expected 3,468,553,776 bytes as published")


if __name__ == "__main__":
    main()
