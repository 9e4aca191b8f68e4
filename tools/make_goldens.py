#!/usr/bin/env python3
"""Writes tests/golden/tiny-*: small random Qwen3-VL checkpoints and what Hugging Face transformers computes with them.

    python tools/make_goldens.py [NAME...]      (needs torch, torchvision, transformers 5.x, tokenizers, safetensors;
                                                 bitsandbytes for tiny-nf4)

Each folder is a checkpoint in Hugging Face form (odd shapes on purpose, see SHAPES) with a folder cases/:
    NAME.json          the messages, the library versions
    NAME.safetensors   the reference's tensors, stage by stage: exact ones (input_ids, positions, grid, pixels as uint8) and
                       fp32 ones (the model run in float32 on the stored, dequantised weights); logits_bf16 is the same
                       model run in bfloat16, whose distance from logits is the yardstick of our bf16 path; logits_e4m3
                       (FP8 only) has quantised activations, computed by e4m3_twin() below, not by transformers.
Pictures come from the formula in picture(), which tests/golden.c repeats. The C tests need no Python.
"""
import json
import os
import pathlib
import shutil
import sys

import numpy as np
import torch
import torchvision
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (PreTrainedTokenizerFast, Qwen2VLImageProcessor, Qwen3VLConfig,
                          Qwen3VLForConditionalGeneration, Qwen3VLProcessor, Qwen3VLVideoProcessor)

ROOT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
         r"|\s+(?!\S)|\s+")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
           "<|image_pad|>", "<|video_pad|>"]
ORDINARY = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]

# text: heads x head_dim differs from hidden; MLP width no multiple of 32. vision: head_dim 72, or 32 with two heads.
SHAPES = {
    "tiny-a": dict(dtype="bfloat16", tied=True, thinking=False, seed=1,
                   text=dict(hidden_size=80, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
                             intermediate_size=100, num_hidden_layers=3, mrope=[6, 5, 5]),
                   vision=dict(hidden_size=72, num_heads=1, intermediate_size=76, depth=3, deepstack=[0, 2], patch=16,
                               positions=64)),
    "tiny-b": dict(dtype="float32", tied=False, thinking=True, seed=2, shard="200KB", cases=["text", "image", "boundary"],
                   text=dict(hidden_size=80, num_attention_heads=3, num_key_value_heads=1, head_dim=64,
                             intermediate_size=72, num_hidden_layers=4, mrope=[12, 10, 10]),
                   vision=dict(hidden_size=40, num_heads=2, intermediate_size=44, depth=4, deepstack=[0, 1, 2], patch=8,
                               positions=25)),
    "tiny-c": dict(dtype="float16", tied=True, thinking=False, seed=3, cases=["text", "image"],
                   text=dict(hidden_size=64, num_attention_heads=2, num_key_value_heads=2, head_dim=128,
                             intermediate_size=56, num_hidden_layers=2, mrope=[24, 20, 20]),
                   vision=dict(hidden_size=48, num_heads=3, intermediate_size=52, depth=2, deepstack=[1], patch=8,
                               positions=36)),
    # Block FP8; all sides multiples of 128, as transformers wants them.
    "tiny-fp8": dict(dtype="bfloat16", tied=True, thinking=True, seed=4, quant="fp8", cases=["text", "image"],
                     text=dict(hidden_size=128, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
                               intermediate_size=256, num_hidden_layers=2, mrope=[12, 10, 10]),
                     vision=dict(hidden_size=48, num_heads=3, intermediate_size=52, depth=2, deepstack=[0], patch=8,
                                 positions=36)),
    # bitsandbytes NF4 with nested absmax; one MLP and one attention block left dense as in the dynamic checkpoints.
    "tiny-nf4": dict(dtype="bfloat16", tied=False, thinking=False, seed=5, quant="nf4", cases=["text", "image"],
                     text=dict(hidden_size=128, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
                               intermediate_size=192, num_hidden_layers=3, mrope=[12, 10, 10]),
                     vision=dict(hidden_size=64, num_heads=2, intermediate_size=64, depth=2, deepstack=[0], patch=8,
                                 positions=36)),
    "tiny-nf4-plain": dict(dtype="bfloat16", tied=True, thinking=False, seed=6, quant="nf4", nested=False, cases=["text"],
                           text=dict(hidden_size=64, num_attention_heads=2, num_key_value_heads=1, head_dim=64,
                                     intermediate_size=128, num_hidden_layers=2, mrope=[12, 10, 10]),
                           vision=dict(hidden_size=32, num_heads=2, intermediate_size=32, depth=1, deepstack=[0], patch=8,
                                       positions=16)),
}

WORDS = """the cat sat on the mat and looked at a map of the woods where north south east west are the ways to go
{"action":"north"} {"action":"south"} {"action":"attack"} What do you see? Describe the picture. You are in a dungeon.
user assistant system tool 0.3 seconds HP belly floor stairs item leader turn"""


def picture(width, height, seed):
    """A picture anyone can compute: integer arithmetic only."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    v = (x * (3 + seed % 5) + y * (2 + seed % 7) + c * 61 + ((x * y * (seed + 1)) >> 5) + ((x >> 3) ^ (y >> 3)) * 17) & 255
    return v.astype(np.uint8)


# The chat format as the facts describe it, written for these tests.
TEMPLATE = """{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}
{%- if m.content is string %}{{- m.content }}{%- else %}{%- for p in m.content %}
{%- if p.type == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif p.type == 'video' %}{{- '<|vision_start|><|video_pad|><|vision_end|>' }}
{%- else %}{{- p.text }}{%- endif %}{%- endfor %}{%- endif %}
{{- '<|im_end|>\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}THINK{%- endif %}"""


def make_tokenizer():
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    tok.train_from_iterator([WORDS] * 4, trainer)
    tok.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    tok.add_tokens([AddedToken(s, special=False, normalized=False) for s in ORDINARY])
    return PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def make_config(shape, tok):
    t, v = dict(shape["text"]), dict(shape["vision"])
    mrope = t.pop("mrope")
    deepstack, patch, positions = v.pop("deepstack"), v.pop("patch"), v.pop("positions")
    ids = tok.convert_tokens_to_ids
    return Qwen3VLConfig(
        text_config=dict(**t, vocab_size=len(tok) + 5, hidden_act="silu", rms_norm_eps=1e-6, max_position_embeddings=4096,
                         rope_parameters=dict(rope_type="default", rope_theta=5000000.0, mrope_section=mrope,
                                              mrope_interleaved=True),
                         tie_word_embeddings=shape["tied"]),
        vision_config=dict(**v, hidden_act="gelu_pytorch_tanh", patch_size=patch, spatial_merge_size=2,
                           temporal_patch_size=2, in_channels=3, out_hidden_size=t["hidden_size"],
                           num_position_embeddings=positions, deepstack_visual_indexes=deepstack),
        image_token_id=ids("<|image_pad|>"), video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"), vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=shape["tied"])


def randomise(model, seed):
    """Weights of the size that trained models have: outputs of every stage matter, no stage drowns another."""
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        r = torch.randn(p.shape, generator=g)
        if "norm" in name and name.endswith("weight"):
            p.data = 1 + 0.2 * r
        elif name.endswith("bias"):
            p.data = 0.1 * r
        elif "embed_tokens" in name or "pos_embed" in name:
            p.data = 0.7 * r
        else:
            p.data = r / (p[0].numel() ** 0.5) * (1.6 if "q_proj" in name or "k_proj" in name else 1.0)


def processor_for(config, tok, thinking):
    v = config.vision_config
    f = v.patch_size * 2
    common = dict(patch_size=v.patch_size, temporal_patch_size=2, merge_size=2, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    image = Qwen2VLImageProcessor(size=dict(shortest_edge=6 * f * f, longest_edge=600 * f * f), **common)
    video = Qwen3VLVideoProcessor(size=dict(shortest_edge=8 * f * f, longest_edge=600 * f * f), **common)
    template = TEMPLATE.replace("THINK", "{{- '<think>\\n' }}" if thinking else "")
    return Qwen3VLProcessor(image_processor=image, video_processor=video, tokenizer=tok, chat_template=template)


def img(w, h, seed):
    return dict(type="image", width=w, height=h, seed=seed)


def text(s):
    return dict(type="text", text=s)


def cases_for(f):
    """f: pixels per merged token side. Pictures in multiples of f need no resampling."""
    user = lambda *parts: [dict(role="user", content=list(parts))]
    return {
        "text": user(text("What do you see? Describe the picture.")),
        "image": [dict(role="system", content=[text("You are in a dungeon.")]),
                  *user(img(4 * f, 3 * f, 1), text("Where are the stairs?"))],
        "images": [*user(img(3 * f, 2 * f, 2), text("the first and "), img(2 * f + 5, 4 * f - 3, 3), text("the other")),
                   dict(role="assistant", content=[text("a map")]), *user(img(20, 9, 4), text("and this?"))],
        # With 512-token chunks: about 480 text tokens, then an image of 70 tokens across the boundary.
        "boundary": user(text("go north " * 120), img(10 * f, 7 * f, 5), text("What do you see?")),
        "video": user(dict(type="video", width=3 * f, height=3 * f, seeds=[6, 7, 8, 9, 10], fps=2.0), text("What moved?")),
    }


def inputs_for(processor, messages):
    images, videos, metas = [], [], []
    for m in messages:
        for p in m["content"]:
            if p["type"] == "image":
                images.append(Image.fromarray(picture(p["width"], p["height"], p["seed"])))
            elif p["type"] == "video":
                frames = np.stack([picture(p["width"], p["height"], s) for s in p["seeds"]])
                videos.append(torch.from_numpy(frames).permute(0, 3, 1, 2))
                metas.append(dict(total_num_frames=len(frames), fps=p["fps"], frames_indices=list(range(len(frames)))))
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    # Qwen3-VL was trained with the whole placeholder replaced by the timestamped groups (transformers 4.57 does that); 5.23
    # replaces only the pad token and leaves a second pair of vision_start and vision_end around the video.
    prompt = prompt.replace("<|vision_start|><|video_pad|><|vision_end|>", "<|video_pad|>")
    kw = dict(videos=videos, video_metadata=metas, do_sample_frames=False) if videos else {}
    return prompt, processor(text=[prompt], images=images or None, return_tensors="pt", **kw)


def tap(model, store):
    """Hooks that keep every stage's output."""
    def keep(name, index=None):
        def hook(_module, _args, output):
            value = output if index is None else output[index]
            if isinstance(value, tuple):
                value = value[0]
            store[name] = value.detach().float().reshape(-1, value.shape[-1]).clone()
        return hook
    handles = []
    visual, language = model.model.visual, model.model.language_model
    handles.append(visual.patch_embed.register_forward_hook(keep("vision.patch_embed")))
    for i, block in enumerate(visual.blocks):
        handles.append(block.register_forward_hook(keep(f"vision.block.{i}")))
        if i == 0:
            handles.append(block.register_forward_pre_hook(
                lambda _m, args, kw: store.__setitem__("vision.embed", (args[0] if args else kw["hidden_states"]).detach().float().clone()),
                with_kwargs=True))
    handles.append(visual.merger.register_forward_hook(keep("vision.merger")))
    for i, m in enumerate(visual.deepstack_merger_list):
        handles.append(m.register_forward_hook(keep(f"vision.deepstack.{i}")))
    # A layer's end is what the next layer is given: that includes the deepstack addition.
    for i, layer in enumerate(language.layers):
        name = "text.embed" if i == 0 else f"text.layer.{i - 1}"
        handles.append(layer.register_forward_pre_hook(
            (lambda n: lambda _m, args, kw: store.__setitem__(
                n, (args[0] if args else kw["hidden_states"]).detach().float()[0].clone()))(name), with_kwargs=True))
    handles.append(language.norm.register_forward_pre_hook(
        lambda _m, args: store.__setitem__(f"text.layer.{len(language.layers) - 1}", args[0].detach().float()[0].clone())))
    handles.append(language.norm.register_forward_hook(
        lambda _m, _a, out: store.__setitem__("text.norm", out.detach().float()[0].clone())))
    return handles


def reference(model, inputs):
    store = {}
    handles = tap(model, store)
    with torch.no_grad():
        out = model(**inputs, use_cache=False)
    for h in handles:
        h.remove()
    store["logits"] = out.logits[0].float()
    return store


def e4m3_twin(model, folder, inputs):
    """Logits with activations quantised as the checkpoint declares (facts §2.3): ours, in torch, because transformers runs this
    only on a GPU. Per token and 128 channels: factor = max(max|x|, 1e-10) / 448, e4m3 operands, fp32 dot, times both factors."""
    stored = load_file(folder / "model-00001-of-00001.safetensors")
    modules = {n: m for n, m in model.named_modules() if n + ".weight_scale_inv" in stored}

    def quantised(name):
        w, ws = stored[name + ".weight"].float(), stored[name + ".weight_scale_inv"]

        def hook(_module, args, _output):
            x = args[0].to(torch.bfloat16).float()
            groups = x.unflatten(-1, (-1, 128))
            factor = groups.abs().amax(-1, keepdim=True).clamp(min=1e-10) / 448
            q = (groups / factor).to(torch.float8_e4m3fn).float()
            y = 0
            for g in range(groups.shape[-2]):
                rows = ws[:, g].repeat_interleave(128)[:w.shape[0]]
                y = y + q[..., g, :] @ w[:, g * 128:(g + 1) * 128].T * factor[..., g, :] * rows
            return y
        return hook

    handles = [m.register_forward_hook(quantised(n)) for n, m in modules.items()]
    assert len(handles) == 7 * len(model.model.language_model.layers)
    with torch.no_grad():
        logits = model(**inputs, use_cache=False).logits[0].float()
    for h in handles:
        h.remove()
    return logits


def greedy(model, inputs, n=12):
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=n, min_new_tokens=n, do_sample=False, eos_token_id=None,
                             pad_token_id=0)
    return out[0, inputs["input_ids"].shape[1]:].int()


def write_case(folder, name, messages, processor, model32, model16, fp8):
    prompt, inputs = inputs_for(processor, messages)
    store = reference(model32, inputs)
    types = inputs.get("mm_token_type_ids", torch.zeros_like(inputs["input_ids"]))
    positions, delta = model32.model.get_rope_index(
        inputs["input_ids"], types, image_grid_thw=inputs.get("image_grid_thw"),
        video_grid_thw=inputs.get("video_grid_thw"), attention_mask=inputs["attention_mask"])
    out = {"input_ids": inputs["input_ids"][0].int(), "positions": positions[:, 0].T.int().contiguous(),
           "rope_delta": delta.flatten().int(), "greedy": greedy(model32, inputs)}
    for key, grid in (("pixel_values", "image_grid_thw"), ("pixel_values_videos", "video_grid_thw")):
        if key in inputs:
            pixels = torch.round(inputs[key] * 127.5 + 127.5)
            assert torch.equal((pixels - 127.5) / 127.5, inputs[key]) or \
                (((pixels - 127.5) / 127.5) - inputs[key]).abs().max() < 1e-6
            out["pixels"], out["grid"] = pixels.to(torch.uint8), inputs[grid].int()
    long = inputs["input_ids"].shape[1] > 200
    bf16 = reference(model16, inputs)["logits"]
    if fp8:
        out["logits_e4m3"] = e4m3_twin(model32, folder, inputs)
    for key, value in store.items():
        # Every stage for one picture; the ends of tower and decoder for the rest keep the files small.
        if key.startswith(("text.", "vision.")) and key not in ("text.norm", "vision.merger") and name not in ("text", "image"):
            continue
        rows = slice(-24, None) if long and key in ("logits", "text.norm") else slice(None)
        out[key] = value[rows]
        if key == "logits":
            out["logits_bf16"] = bf16[rows]
    cases = folder / "cases"
    cases.mkdir(exist_ok=True)
    save_file({k: v.contiguous() for k, v in out.items()}, cases / f"{name}.safetensors")
    versions = dict(transformers=transformers.__version__, torch=torch.__version__, torchvision=torchvision.__version__)
    if "bitsandbytes" in sys.modules:
        versions["bitsandbytes"] = sys.modules["bitsandbytes"].__version__
    (cases / f"{name}.json").write_text(json.dumps(dict(messages=messages, prompt=prompt, versions=versions), indent=1) + "\n")
    noise = (out["logits"] - out["logits_bf16"]).abs().max() / out["logits"].abs().max()
    print(f"  {name}: {out['input_ids'].numel()} tokens, bf16 distance {noise:.2e}")


DECODER_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def is_decoder_linear(name):
    return ".layers." in name and name.endswith(".weight") and name.split(".")[-2] in DECODER_LINEARS


def quantise_fp8(folder):
    """e4m3 with one F32 factor for each 128x128 block, in the layout of the published FP8 checkpoints."""
    tensors = load_file(folder / "model.safetensors")
    out = {}
    for name, w in tensors.items():
        if not is_decoder_linear(name):
            out[name] = w
            continue
        w = w.float()
        rows, cols = -(-w.shape[0] // 128), -(-w.shape[1] // 128)
        scale = torch.zeros(rows, cols)
        q = torch.zeros_like(w)
        for r in range(rows):
            for c in range(cols):
                block = w[r * 128:(r + 1) * 128, c * 128:(c + 1) * 128]
                scale[r, c] = block.abs().max() / 448
                q[r * 128:(r + 1) * 128, c * 128:(c + 1) * 128] = block / scale[r, c]
        out[name] = q.to(torch.float8_e4m3fn)
        out[name.replace(".weight", ".weight_scale_inv")] = scale
    # As in the published repository: one numbered shard, an index without metadata, a redundant head.
    out["lm_head.weight"] = out["model.language_model.embed_tokens.weight"].clone()
    (folder / "model.safetensors").unlink()
    shard = "model-00001-of-00001.safetensors"
    save_file(out, folder / shard, metadata={"format": "pt"})
    index = dict(metadata={}, weight_map={n: shard for n in sorted(out)})
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = dict(
        quant_method="fp8", fmt="e4m3", activation_scheme="dynamic", weight_block_size=[128, 128],
        ignored_layers=["lm_head"] + sorted(n.removesuffix(".weight") for n in out if "visual" in n and n.endswith(".weight")))
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def dequantised_fp8(folder):
    tensors = load_file(folder / "model-00001-of-00001.safetensors")
    out = {}
    for name, w in tensors.items():
        if name.endswith("weight_scale_inv"):
            continue
        if w.dtype == torch.float8_e4m3fn:
            s = tensors[name.replace(".weight", ".weight_scale_inv")]
            s = s.repeat_interleave(128, 0)[:w.shape[0]].repeat_interleave(128, 1)[:, :w.shape[1]]
            w = w.float() * s
        out[name] = w.float()
    return out


def quantise_nf4(folder, nested):
    import bitsandbytes.functional as F
    tensors = load_file(folder / "model.safetensors")
    out, plain = {}, {}
    skip = ["model.language_model.layers.0.mlp", "model.language_model.layers.1.self_attn"] if nested else []
    for name, w in tensors.items():
        if not is_decoder_linear(name) or any(name.startswith(s + ".") for s in skip):
            out[name], plain[name] = w, w.float()
            continue
        q, state = F.quantize_4bit(w, blocksize=64, quant_type="nf4", compress_statistics=nested)
        out[name] = q
        for k, v in state.as_dict(packed=True).items():
            out[f"{name}.{k}"] = v
        plain[name] = F.dequantize_4bit(q, state).reshape(w.shape).float()  # rounded once to bf16, as stated in the file
    save_file({k: v.contiguous() for k, v in out.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = dict(
        quant_method="bitsandbytes", load_in_4bit=True, load_in_8bit=False, bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=nested, bnb_4bit_compute_dtype="bfloat16", bnb_4bit_quant_storage="uint8",
        llm_int8_skip_modules=["lm_head", "visual", "model.visual"] + skip)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return plain


def model_with(config, state, dtype):
    model = Qwen3VLForConditionalGeneration(config)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not [m for m in missing if m != "lm_head.weight"], missing
    assert not unexpected, unexpected
    model.tie_weights()
    return model.to(dtype).eval()


def loaded(folder, quant):
    """The folder as transformers itself loads it on a CPU: FP8 through its dequantising path, NF4 through bitsandbytes."""
    kw = dict(quantization_config=transformers.FineGrainedFP8Config(dequantize=True)) if quant == "fp8" else {}
    return Qwen3VLForConditionalGeneration.from_pretrained(folder, device_map="cpu", dtype=torch.bfloat16, **kw).eval()


def make(name, shape):
    folder = ROOT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tok = make_tokenizer()
    config = make_config(shape, tok)
    model = Qwen3VLForConditionalGeneration(config)
    randomise(model, shape["seed"])
    model.tie_weights()
    model = model.to(getattr(torch, shape["dtype"]))
    model.config.dtype = shape["dtype"]
    model.generation_config = transformers.GenerationConfig(
        do_sample=True, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.0,
        eos_token_id=[tok.convert_tokens_to_ids("<|im_end|>"), tok.convert_tokens_to_ids("<|endoftext|>")],
        pad_token_id=tok.convert_tokens_to_ids("<|endoftext|>"))
    model.save_pretrained(folder, max_shard_size=shape.get("shard", "1GB"))
    processor = processor_for(config, tok, shape["thinking"])
    processor.save_pretrained(folder)
    # transformers 5.x puts all processors into one file; the published folders carry these two.
    for part, file in (("image_processor", "preprocessor_config.json"), ("video_processor", "video_preprocessor_config.json")):
        (folder / file).write_text(json.dumps(getattr(processor, part).to_dict(), indent=2, default=str) + "\n")
    state = {k: v.float() for k, v in model.state_dict().items()}
    if shape.get("quant") == "fp8":
        quantise_fp8(folder)
        state = dequantised_fp8(folder)
    elif shape.get("quant") == "nf4":
        state = quantise_nf4(folder, shape.get("nested", True))
    model32 = model_with(config, state, torch.float32)
    model16 = loaded(folder, shape["quant"]) if "quant" in shape else model_with(config, state, torch.bfloat16)
    print(name, f"({sum(p.numel() for p in model32.parameters())} parameters)")
    wanted = shape.get("cases")
    for case, messages in cases_for(2 * config.vision_config.patch_size).items():
        if wanted is None or case in wanted:
            write_case(folder, case, messages, processor, model32, model16, shape.get("quant") == "fp8")


if __name__ == "__main__":
    torch.set_num_threads(2)
    torch.manual_seed(0)
    for n in sys.argv[1:] or SHAPES:
        make(n, SHAPES[n])
