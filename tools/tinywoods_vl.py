"""The bundled checkpoint models/tinywoods-vl: a small Qwen3-VL in Hugging Face form.

This file holds its shape, its tokenizer and a compact torch twin of the model used for training. The twin has the parameter names of
transformers' Qwen3VLForConditionalGeneration; because every picture has one size, position ids, rotary tables and the interpolated
position embedding are computed once (the library builds them image by image in Python, which is slow in training).

    python tools/tinywoods_vl.py init DIR PREFIX   write config, tokenizer and random weights; the merges are learnt from the prompts of
                                                   PREFIX.*.jsonl (pmd-agent dataset record --packed --out PREFIX)
    python tools/tinywoods_vl.py check DIR     compare the twin with transformers on a random picture and text
"""
import glob
import json
import math
import os
import random
import struct
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F

VISION = dict(depth=6, hidden_size=192, num_heads=3, intermediate_size=768, patch_size=16, temporal_patch_size=2,
              spatial_merge_size=2, in_channels=3, num_position_embeddings=576, deepstack_visual_indexes=[1, 3],
              out_hidden_size=256, hidden_act="gelu_pytorch_tanh", model_type="qwen3_vl", initializer_range=0.02)
TEXT = dict(num_hidden_layers=6, hidden_size=256, num_attention_heads=4, num_key_value_heads=2, head_dim=64, intermediate_size=768,
            rms_norm_eps=1e-6, hidden_act="silu", attention_bias=False, attention_dropout=0.0, max_position_embeddings=4096,
            model_type="qwen3_vl_text", tie_word_embeddings=True, initializer_range=0.02, use_cache=True,
            rope_theta=100000.0, dtype="bfloat16",
            rope_scaling=dict(rope_type="default", mrope_interleaved=True, mrope_section=[12, 10, 10]))
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
SYSTEM = "Play the dungeon: find the stairs."  # [system] of configs/prompts/tinywoods.txt
WIDTH, HEIGHT = 320, 224  # 240x160 after the standard resize
GRID_H, GRID_W = HEIGHT // 16, WIDTH // 16
IMAGE_TOKENS = GRID_H * GRID_W // 4

DIRECTIONS = ["south", "se", "east", "ne", "north", "nw", "west", "sw"]
ACTIONS = ([f"walk_{d}" for d in DIRECTIONS] + [f"hit_{d}" for d in DIRECTIONS] +
           ["use_move", "eat", "heal", "throw", "wait", "proceed", "stay", "next", "yes", "no", "close"])
TEMPLATE = ("{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}{%- if message.content is string %}"
            "{{- message.content }}{%- else %}{%- for item in message.content %}"
            "{%- if 'image' in item or 'image_url' in item or item.type == 'image' %}"
            "{{- '<|vision_start|><|image_pad|><|vision_end|>' }}{%- elif 'text' in item %}{{- item.text }}{%- endif %}"
            "{%- endfor %}{%- endif %}{{- '<|im_end|>\\n' }}{%- endfor %}"
            "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}")
SPLIT = r" ?[A-Za-z_]+|\p{N}|[^\sA-Za-z_\p{N}]+|\s+"


def corpus(prompts):
    """Text for the BPE merges: recorded prompts when there are any, and every action as an answer."""
    rng = random.Random(1)
    for _ in range(3000):
        yield '{"action":"%s"}' % rng.choice(ACTIONS)
        yield "last " + " ".join(rng.choice(ACTIONS) for _ in range(6)) + "\n"
        yield "been " + " ".join(d + str(rng.randrange(10)) for d in ["n", "ne", "e", "se", "s", "sw", "w", "nw"]) + "\n"
    yield from prompts


def build_tokenizer(prompts, size=1024):
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=size - len(SPECIAL), min_frequency=2, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    t.train_from_iterator(corpus(prompts), trainer)
    t.add_special_tokens(SPECIAL)
    return t


def write_folder(folder, tokenizer, state):
    """config.json and its companions, tokenizer.json, and the weights as one bf16 safetensors file."""
    from safetensors.torch import save_file
    os.makedirs(folder, exist_ok=True)
    token = {s: tokenizer.token_to_id(s) for s in SPECIAL}
    text = dict(TEXT, vocab_size=state["model.language_model.embed_tokens.weight"].shape[0],
                bos_token_id=token["<|endoftext|>"], eos_token_id=token["<|im_end|>"])
    config = dict(architectures=["Qwen3VLForConditionalGeneration"], model_type="qwen3_vl", dtype="bfloat16", tie_word_embeddings=True,
                  image_token_id=token["<|image_pad|>"], video_token_id=token["<|video_pad|>"],
                  vision_start_token_id=token["<|vision_start|>"], vision_end_token_id=token["<|vision_end|>"],
                  text_config=text, vision_config=VISION)
    size = dict(shortest_edge=65536, longest_edge=16777216)
    processor = dict(size=size, patch_size=16, temporal_patch_size=2, merge_size=2, image_mean=[0.5] * 3, image_std=[0.5] * 3,
                     processor_class="Qwen3VLProcessor", image_processor_type="Qwen2VLImageProcessorFast")
    generation = dict(do_sample=False, eos_token_id=[token["<|im_end|>"], token["<|endoftext|>"]], pad_token_id=token["<|endoftext|>"])
    tokenizer_config = dict(tokenizer_class="PreTrainedTokenizerFast", model_max_length=4096, eos_token="<|im_end|>",
                            pad_token="<|endoftext|>", clean_up_tokenization_spaces=False, processor_class="Qwen3VLProcessor",
                            chat_template=TEMPLATE)
    for name, value in [("config.json", config), ("preprocessor_config.json", processor), ("generation_config.json", generation),
                        ("tokenizer_config.json", tokenizer_config), ("chat_template.json", dict(chat_template=TEMPLATE))]:
        with open(os.path.join(folder, name), "w") as f:
            json.dump(value, f, indent=2)
            f.write("\n")
    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    tensors = {k: v.detach().to("cpu", torch.bfloat16).contiguous() for k, v in state.items()}
    save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})


# ---- the twin ----------------------------------------------------------------------------------------------------------------

class Rms(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))

    def forward(self, x):
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight.float(), 1e-6).to(x.dtype)


def rotate(x, cos, sin):
    h = x.shape[-1] // 2
    return torch.cat([x[..., :h] * cos - x[..., h:] * sin, x[..., h:] * cos + x[..., :h] * sin], -1)


class VisionBlock(nn.Module):
    def __init__(self):
        super().__init__()
        v, j = VISION["hidden_size"], VISION["intermediate_size"]
        self.norm1, self.norm2 = nn.LayerNorm(v, 1e-6), nn.LayerNorm(v, 1e-6)
        self.attn = nn.ModuleDict(dict(qkv=nn.Linear(v, 3 * v), proj=nn.Linear(v, v)))
        self.mlp = nn.ModuleDict(dict(linear_fc1=nn.Linear(v, j), linear_fc2=nn.Linear(j, v)))

    def forward(self, x, cos, sin):
        b, n, v = x.shape
        q, k, w = self.attn.qkv(self.norm1(x)).view(b, n, 3, VISION["num_heads"], -1).permute(2, 0, 3, 1, 4)
        q, k = rotate(q.float(), cos, sin).to(w.dtype), rotate(k.float(), cos, sin).to(w.dtype)
        x = x + self.attn.proj(F.scaled_dot_product_attention(q, k, w).transpose(1, 2).reshape(b, n, v))
        return x + self.mlp.linear_fc2(F.gelu(self.mlp.linear_fc1(self.norm2(x)), approximate="tanh"))


class Merger(nn.Module):
    def __init__(self, after):
        super().__init__()
        m = 4 * VISION["hidden_size"]
        self.after = after  # norm after the concatenation (DeepStack), before it otherwise
        self.norm = nn.LayerNorm(m if after else VISION["hidden_size"], 1e-6)
        self.linear_fc1, self.linear_fc2 = nn.Linear(m, m), nn.Linear(m, VISION["out_hidden_size"])

    def forward(self, x):
        b, n, v = x.shape
        x = self.norm(x.reshape(b, n // 4, 4 * v)) if self.after else self.norm(x).reshape(b, n // 4, 4 * v)
        return self.linear_fc2(F.gelu(self.linear_fc1(x)))


class Visual(nn.Module):
    def __init__(self):
        super().__init__()
        v = VISION["hidden_size"]
        self.patch_embed = nn.ModuleDict(dict(proj=nn.Conv3d(3, v, (2, 16, 16), (2, 16, 16))))
        self.pos_embed = nn.Embedding(VISION["num_position_embeddings"], v)
        self.blocks = nn.ModuleList(VisionBlock() for _ in range(VISION["depth"]))
        self.merger = Merger(False)
        self.deepstack_merger_list = nn.ModuleList(Merger(True) for _ in VISION["deepstack_visual_indexes"])
        # Patch order: 2x2 merge blocks in row-major order, the four patches of a block inside.
        rows, cols = [], []
        for br in range(GRID_H // 2):
            for bc in range(GRID_W // 2):
                for ir in range(2):
                    for ic in range(2):
                        rows.append(2 * br + ir)
                        cols.append(2 * bc + ic)
        side = math.isqrt(VISION["num_position_embeddings"])
        mix = torch.zeros(len(rows), side * side)
        for p, (r, c) in enumerate(zip(rows, cols)):
            y, x = r * (side - 1) / (GRID_H - 1), c * (side - 1) / (GRID_W - 1)
            y0, x0 = int(y), int(x)
            y1, x1, fy, fx = min(y0 + 1, side - 1), min(x0 + 1, side - 1), y - y0, x - x0
            for yy, wy in ((y0, 1 - fy), (y1, fy)):
                for xx, wx in ((x0, 1 - fx), (x1, fx)):
                    mix[p, yy * side + xx] += wy * wx
        d = v // VISION["num_heads"] // 2
        f = 10000.0 ** (-torch.arange(0, d, 2).float() / d)
        angle = torch.cat([torch.tensor(rows).float()[:, None] * f, torch.tensor(cols).float()[:, None] * f], 1)
        for name, value in (("mix", mix), ("cos", angle.cos()), ("sin", angle.sin())):
            self.register_buffer(name, value, persistent=False)

    def forward(self, patches):  # (b, patches, 1536)
        w = self.patch_embed.proj.weight
        x = F.linear(patches, w.reshape(w.shape[0], -1), self.patch_embed.proj.bias)
        x = x + (self.mix @ self.pos_embed.weight.float()).to(x.dtype)
        deep = []
        for i, block in enumerate(self.blocks):
            x = block(x, self.cos, self.sin)
            if i in VISION["deepstack_visual_indexes"]:
                deep.append(self.deepstack_merger_list[len(deep)](x))
        return self.merger(x), deep


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        d, h, k, i = TEXT["hidden_size"], TEXT["num_attention_heads"], TEXT["num_key_value_heads"], TEXT["intermediate_size"]
        hd = TEXT["head_dim"]
        self.input_layernorm, self.post_attention_layernorm = Rms(d), Rms(d)
        line = lambda a, b: nn.Linear(a, b, bias=False)
        self.self_attn = nn.ModuleDict(dict(q_proj=line(d, h * hd), k_proj=line(d, k * hd), v_proj=line(d, k * hd), o_proj=line(h * hd, d),
                                            q_norm=Rms(hd), k_norm=Rms(hd)))
        self.mlp = nn.ModuleDict(dict(gate_proj=line(d, i), up_proj=line(d, i), down_proj=line(i, d)))

    def forward(self, x, cos, sin):
        b, n, _ = x.shape
        a, y = self.self_attn, self.input_layernorm(x)
        split = lambda t: t.view(b, n, -1, TEXT["head_dim"])
        q = rotate(a.q_norm(split(a.q_proj(y))).transpose(1, 2), cos, sin).to(y.dtype)
        k = rotate(a.k_norm(split(a.k_proj(y))).transpose(1, 2), cos, sin).to(y.dtype)
        v = split(a.v_proj(y)).transpose(1, 2)
        g = TEXT["num_attention_heads"] // TEXT["num_key_value_heads"]
        o = F.scaled_dot_product_attention(q, k.repeat_interleave(g, 1), v.repeat_interleave(g, 1), is_causal=True)
        x = x + a.o_proj(o.transpose(1, 2).reshape(b, n, -1))
        y = self.post_attention_layernorm(x)
        return x + self.mlp.down_proj(F.silu(self.mlp.gate_proj(y)) * self.mlp.up_proj(y))


class Twin(nn.Module):
    """image_at: index of the first image token in every sequence (the system prompt before it never changes)."""

    def __init__(self, vocab, image_at, length):
        super().__init__()
        text = nn.ModuleDict(dict(embed_tokens=nn.Embedding(vocab, TEXT["hidden_size"]),
                                  layers=nn.ModuleList(Layer() for _ in range(TEXT["num_hidden_layers"])),
                                  norm=Rms(TEXT["hidden_size"])))
        self.model = nn.ModuleDict(dict(language_model=text, visual=Visual()))
        self.image_at = image_at
        for p in self.modules():
            if isinstance(p, (nn.Linear, nn.Embedding, nn.Conv3d)):
                nn.init.normal_(p.weight, std=0.02)
                if getattr(p, "bias", None) is not None:
                    nn.init.zeros_(p.bias)
        pos = torch.zeros(3, length)
        rows, cols = GRID_H // 2, GRID_W // 2
        for i in range(length):
            k = i - image_at
            if k < 0:
                pos[:, i] = i
            elif k < IMAGE_TOKENS:
                pos[:, i] = image_at + torch.tensor([0, k // cols, k % cols])
            else:
                pos[:, i] = image_at + max(rows, cols) + k - IMAGE_TOKENS
        half = TEXT["head_dim"] // 2
        f = TEXT["rope_theta"] ** (-torch.arange(half).float() / half)
        section = TEXT["rope_scaling"]["mrope_section"]
        axis = torch.zeros(half, dtype=torch.long)
        for i in range(half):
            axis[i] = 1 if i % 3 == 1 and i < 3 * section[1] else 2 if i % 3 == 2 and i < 3 * section[2] else 0
        angle = pos[axis].T * f
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, ids, patches):
        visual, deep = self.model.visual(patches)
        t, a = self.model.language_model, self.image_at
        x = t.embed_tokens(ids).to(visual.dtype)
        x = torch.cat([x[:, :a], visual, x[:, a + IMAGE_TOKENS:]], 1)
        n = ids.shape[1]
        for i, layer in enumerate(t.layers):
            x = layer(x, self.cos[:n], self.sin[:n])
            if i < len(deep):
                x = torch.cat([x[:, :a], x[:, a:a + IMAGE_TOKENS] + deep[i], x[:, a + IMAGE_TOKENS:]], 1)
        return t.norm(x)

    def logits(self, hidden):
        return hidden @ self.model.language_model.embed_tokens.weight.to(hidden.dtype).T


def bicubic(n_in, n_out):
    """The rows of the antialiased bicubic filter (a = -0.5) as a matrix (n_out, n_in)."""
    def cubic(x):
        x = abs(x)
        return (1.5 * x - 2.5) * x * x + 1 if x < 1 else -0.5 * (((x - 5) * x + 8) * x - 4) if x < 2 else 0.0
    m = torch.zeros(n_out, n_in)
    scale = n_in / n_out
    fs = max(scale, 1.0)
    for i in range(n_out):
        c = (i + 0.5) * scale
        lo, hi = max(int(c - 2 * fs + 0.5), 0), min(int(c + 2 * fs + 0.5), n_in)
        w = [cubic((j - c + 0.5) / fs) for j in range(lo, hi)]
        for j in range(lo, hi):
            m[i, j] = w[j - lo] / sum(w)
    return m


def to_patches(rgb, wide, tall):
    """rgb (b, 160, 240, 3) uint8 -> (b, patches, 1536), the standard resize (rounded to whole grey levels after each pass)."""
    x = rgb.permute(0, 3, 1, 2).float()
    x = (x @ wide.T).round().clamp(0, 255)
    x = (tall @ x).round().clamp(0, 255)
    x = (x - 127.5) / 127.5
    b = x.shape[0]
    x = x.view(b, 3, GRID_H // 2, 2, 16, GRID_W // 2, 2, 16).permute(0, 2, 5, 3, 6, 1, 4, 7)  # b br bc ir ic c y x
    x = x.reshape(b, GRID_H * GRID_W, 3, 1, 16, 16).expand(-1, -1, -1, 2, -1, -1)
    return x.reshape(b, GRID_H * GRID_W, 1536)


def conversation(system, prompt, answer):
    return (f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n<|vision_start|>" + "<|image_pad|>" * IMAGE_TOKENS +
            f"<|vision_end|>{prompt}<|im_end|>\n<|im_start|>assistant\n" + answer)


def check(folder):
    from safetensors.torch import load_file
    from tokenizers import Tokenizer
    from transformers import Qwen3VLForConditionalGeneration
    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    ids = torch.tensor([tokenizer.encode(conversation("Play.", "last walk_north", '{"action":"wait"}')).ids])
    pad = tokenizer.token_to_id("<|image_pad|>")
    state = load_file(os.path.join(folder, "model.safetensors"))
    twin = Twin(state["model.language_model.embed_tokens.weight"].shape[0], ids[0].tolist().index(pad), ids.shape[1])
    twin.load_state_dict({k: v.float() for k, v in state.items()})
    torch.manual_seed(0)
    patches = to_patches(torch.randint(0, 256, (1, 160, 240, 3), dtype=torch.uint8), bicubic(240, WIDTH), bicubic(160, HEIGHT))
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    extra = {}
    if "mm_token_type_ids" in model.forward.__code__.co_varnames or True:
        extra["mm_token_type_ids"] = (ids == pad).int()
    with torch.no_grad():
        a = twin.logits(twin(ids, patches))
        b = model(input_ids=ids, pixel_values=patches[0], image_grid_thw=torch.tensor([[1, GRID_H, GRID_W]]), **extra).logits
    error = ((a - b).abs().max() / b.abs().max()).item()
    print(f"parameters {sum(p.numel() for p in twin.parameters())}, twin against transformers: relative error {error:.2e}")
    assert error < 1e-4


def main():
    if len(sys.argv) == 4 and sys.argv[1] == "init":
        prompts = [SYSTEM] * 50
        for name in sorted(glob.glob(sys.argv[3] + ".*.jsonl")):
            with open(name) as f:
                prompts += [json.loads(line)["prompt"] for line in f]
        torch.manual_seed(1)
        tokenizer = build_tokenizer(prompts)
        twin = Twin((tokenizer.get_vocab_size() + 63) // 64 * 64, 1, 8)
        write_folder(sys.argv[2], tokenizer, twin.state_dict())
    elif len(sys.argv) == 3 and sys.argv[1] == "check":
        check(sys.argv[2])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
