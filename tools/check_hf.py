#!/usr/bin/env python3
"""Compares pmd-agent score with Hugging Face transformers on the same checkpoint folder, token by token.

    python tools/check_hf.py MODEL_DIR [--image FILE]... [--text TEXT] [--binary build/pmd-agent] [--f32] [--json]

Prints the tokens (must be equal), the largest and mean difference of the log-probabilities, and how often the most likely token
agrees. With --f32 both sides compute in float32 and the limit is 1e-3; otherwise both in bfloat16, and the yardstick is the
distance of transformers' bfloat16 run from its own float32 run. Exit status 1 when tokens differ or a limit is exceeded.
"""
import argparse
import json
import subprocess
import sys

import torch
import transformers
from PIL import Image


def reference(folder, images, text, dtype):
    kw = {}
    config = transformers.AutoConfig.from_pretrained(folder)
    quant = getattr(config, "quantization_config", None)
    if quant and quant.get("quant_method") == "fp8":
        kw["quantization_config"] = transformers.FineGrainedFP8Config(dequantize=True)
    nf4 = bool(quant) and quant.get("quant_method") == "bitsandbytes"
    model = transformers.Qwen3VLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.bfloat16 if nf4 else dtype, device_map="cpu", **kw).eval()
    if nf4 and dtype == torch.float32:  # bitsandbytes computes in the type that the checkpoint names: unpack it first
        model = model.dequantize().float()
    elif "quantization_config" in kw:  # dequantised to bfloat16, the rest as asked for
        model = model.to(dtype)
    processor = transformers.AutoProcessor.from_pretrained(folder)
    content = [dict(type="image") for _ in images] + [dict(type="text", text=text)]
    prompt = processor.apply_chat_template([dict(role="user", content=content)], add_generation_prompt=True, tokenize=False)
    pictures = [Image.open(f).convert("RGB") for f in images]
    inputs = processor(text=[prompt], images=pictures or None, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0].float()
    ids = inputs["input_ids"][0]
    return ids.tolist(), torch.log_softmax(logits, -1)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--image", action="append", default=[])
    p.add_argument("--text", default="What do you see? Where are the stairs?")
    p.add_argument("--binary", default="build/pmd-agent")
    p.add_argument("--f32", action="store_true")
    p.add_argument("--json", action="store_true")
    a = p.parse_args()
    command = [a.binary, "score", "--model", a.model, "--top", "1", *(["--f32"] if a.f32 else [])]
    for f in a.image:
        command += ["--image", f]
    ours = json.loads(subprocess.run([*command, a.text], check=True, stdout=subprocess.PIPE).stdout)
    ids, exact = reference(a.model, a.image, a.text, torch.float32)
    rows = torch.arange(len(ids) - 1)
    want = exact[rows, torch.tensor(ids[1:])]
    result = dict(tokens=len(ids), tokens_equal=ids == ours["ids"], transformers=transformers.__version__, torch=torch.__version__)
    if result["tokens_equal"]:
        got = torch.tensor(ours["logprobs"][1:])
        top = torch.tensor([t[0]["id"] for t in ours["top"][1:]])
        result.update(largest=float((got - want).abs().max()), mean=float((got - want).abs().mean()),
                      top1_equal=float((top == exact[:-1].argmax(-1)).float().mean()))
        if a.f32:
            limit = 1e-3
        else:
            _, rounded = reference(a.model, a.image, a.text, torch.bfloat16)
            other = rounded[rows, torch.tensor(ids[1:])]
            result.update(reference_bf16_largest=float((other - want).abs().max()), reference_bf16_mean=float((other - want).abs().mean()),
                          reference_bf16_top1=float((rounded[:-1].argmax(-1) == exact[:-1].argmax(-1)).float().mean()))
            limit = max(2 * result["reference_bf16_largest"], 1e-3)
        result["ok"] = result["largest"] <= limit
    else:
        at = next((i for i, (x, y) in enumerate(zip(ids, ours["ids"])) if x != y), min(len(ids), len(ours["ids"])))
        result.update(ok=False, first_difference=at, transformers_ids=ids[at:at + 8], our_ids=ours["ids"][at:at + 8])
    print(json.dumps(result) if a.json else "\n".join(f"{k:24} {v}" for k, v in result.items()))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
