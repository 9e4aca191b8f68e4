#!/usr/bin/env python3
"""Random-weight GGUF files at the text shapes of Qwen3-VL, as a yardstick for our decode: llama.cpp reads the same bytes a token (its arch
"qwen3": same decoder, no vision). Head and embedding stay bf16, as in the published FP8 and NF4 checkpoints.

    python3 tools/llama_cpp_yardstick.py --size 2b --type Q8_0 --out /tmp/2b-q8.gguf     # needs: pip install gguf numpy
    llama-bench -m /tmp/2b-q8.gguf -t 2 -p 0 -n 32 -r 3                                  # llama.cpp, built -O3 -march=native

Types: BF16; Q8_0 (8.5 bits, nearest to FP8); IQ4_NL (4.5 bits, a 16-value table like NF4) and Q4_0 (4.5 bits, llama.cpp's fastest)."""
import argparse
import numpy as np
import gguf

SHAPES = {"2b": (28, 2048, 16, 8, 6144, True), "4b": (36, 2560, 32, 8, 9728, True), "8b": (36, 4096, 32, 8, 12288, False)}
VOCAB, HEAD = 151936, 128
BLOCK = {"Q8_0": (32, 34), "IQ4_NL": (32, 18), "Q4_0": (32, 18)}
KIND = {k: getattr(gguf.GGMLQuantizationType, k) for k in ("BF16", "Q8_0", "IQ4_NL", "Q4_0", "F32")}
rng = np.random.default_rng(1)


def blocks(kind, out, width):
    """Raw stored bytes, (out, bytes of a row): random codes under a scale that keeps activations in range."""
    if kind == "BF16":
        some = (rng.standard_normal(1 << 20).astype(np.float32) * 0.02).view(np.uint32) >> 16
        flat = np.resize(some.astype(np.uint16), out * width)
        return flat.view(np.uint8).reshape(out, width * 2)
    values, size = BLOCK[kind]
    count = out * width // values
    some = rng.integers(0, 256, (1 << 15, size), dtype=np.uint8)
    scale = np.float16(0.02 / (64 if kind == "Q8_0" else 60 if kind == "IQ4_NL" else 4))
    some[:, :2] = np.frombuffer(scale.tobytes(), np.uint8)
    return np.resize(some, (count, size)).reshape(out, width // values * size)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--size", choices=SHAPES, required=True)
    p.add_argument("--type", choices=["BF16", *BLOCK], required=True)
    p.add_argument("--out", required=True)
    a = p.parse_args()
    layers, d, heads, kv, wide, tied = SHAPES[a.size]
    w = gguf.GGUFWriter(a.out, "qwen3")
    w.add_block_count(layers), w.add_context_length(32768), w.add_embedding_length(d), w.add_feed_forward_length(wide)
    w.add_head_count(heads), w.add_head_count_kv(kv), w.add_key_length(HEAD), w.add_value_length(HEAD)
    w.add_layer_norm_rms_eps(1e-6), w.add_rope_freq_base(5e6)
    w.add_vocab_size(VOCAB)
    w.add_tokenizer_model("gpt2"), w.add_tokenizer_pre("qwen2")
    w.add_token_list([f"t{i}" for i in range(VOCAB)]), w.add_token_types([1] * VOCAB), w.add_token_merges(["t1 t2"])
    w.add_eos_token_id(VOCAB - 1)

    def matrix(name, kind, out, width):
        w.add_tensor(name, blocks(kind, out, width), raw_dtype=KIND[kind])

    def vector(name, n):
        w.add_tensor(name, np.ones(n, np.float32))

    matrix("token_embd.weight", "BF16", VOCAB, d)
    if not tied:
        matrix("output.weight", "BF16", VOCAB, d)
    vector("output_norm.weight", d)
    for i in range(layers):
        b = f"blk.{i}."
        vector(b + "attn_norm.weight", d), vector(b + "ffn_norm.weight", d)
        vector(b + "attn_q_norm.weight", HEAD), vector(b + "attn_k_norm.weight", HEAD)
        for name, out, width in (("attn_q", heads * HEAD, d), ("attn_k", kv * HEAD, d), ("attn_v", kv * HEAD, d), ("attn_output", d, heads * HEAD),
                                 ("ffn_gate", wide, d), ("ffn_up", wide, d), ("ffn_down", d, wide)):
            matrix(f"{b}{name}.weight", a.type, out, width)
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file()
    w.close()


main()
