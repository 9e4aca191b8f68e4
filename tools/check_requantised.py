#!/usr/bin/env python3
"""Is a trained checkpoint, quantised, read and run right? Teacher-forced comparison with transformers on the same weights.

    python tools/check_requantised.py [MODEL] [--formats fp8,nf4,nf4-plain,mixed] [--prompts 50] [--seed S] [--report FILE] [--binary B]

The prompts are what the oracle saw and did in one recorded game (`pmd-agent dataset record`): picture, words, answer. For each format
tools/requantise.py writes the checkpoint, and then
  weights   transformers (FP8: its dequantising path; NF4: bitsandbytes) and the formula applied by this tool agree on every element
  float32   pmd-agent score --f32 against transformers in fp32 on these dequantised weights: same tokens, largest |difference| of the
            log-probabilities of all tokens, top-1 equal
  bf16      pmd-agent score as users run it against the same reference; the yardstick is transformers in bfloat16 on the same
            weights. Top-1 must be the reference's or tie with it (within 2 ulps of bf16 at the reference's largest logit): everywhere
            in the answer, which is what the checkpoint was trained on; in the prompt's words, which it was never trained to
            predict, such exceptions must be no more than transformers' own bfloat16 run has
Positions inside a picture are left out (nobody asks what follows a patch). The weights of NF4 matrices whose rows are no
multiple of 64 cannot be checked against bitsandbytes on the CPU: 0.50.2 dequantises those wrongly (bench/results/requantised.md). Needs
torch, transformers, bitsandbytes.
"""
import argparse
import datetime
import glob
import json
import math
import os
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers
from PIL import Image

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from make_checkpoint import e4m3_values
from requantise import from_bf16, read_tensors, requantise

F32_LIMIT = 1e-3


def dequantised(folder):
    """{name: fp32 array} by the formulas; for NF4 rounded once to bf16, as bitsandbytes does; FP8 is not rounded."""
    tensors, out = read_tensors(folder), {}
    table = np.concatenate([e4m3_values(), [np.nan]]).astype(np.float32)
    for name, (dtype, shape, data) in tensors.items():
        state = tensors.get(name + ".quant_state.bitsandbytes__nf4")
        if dtype == "F8_E4M3":
            code = np.frombuffer(data, np.uint8).reshape(shape)
            factor = np.frombuffer(tensors[name + "_scale_inv"][2], np.float32).reshape(tensors[name + "_scale_inv"][1])
            value = table[code & 0x7F] * np.where(code & 0x80, np.float32(-1), np.float32(1))
            out[name] = value * np.repeat(np.repeat(factor, 128, 0), 128, 1)[:shape[0], :shape[1]]
        elif state:
            about = json.loads(state[2])
            byte = np.frombuffer(data, np.uint8)
            code = np.stack([byte >> 4, byte & 15], 1).reshape(-1, about["blocksize"])
            absmax = tensors[name + ".absmax"]
            if absmax[0] == "U8":
                first = np.frombuffer(tensors[name + ".nested_quant_map"][2], np.float32)[np.frombuffer(absmax[2], np.uint8)]
                scale = np.repeat(np.frombuffer(tensors[name + ".nested_absmax"][2], np.float32), about["nested_blocksize"])[:len(first)]
                absmax = first * scale + np.float32(about["nested_offset"])
            else:
                absmax = np.frombuffer(absmax[2], np.float32)
            value = np.frombuffer(tensors[name + ".quant_map"][2], np.float32)[code] * absmax[:, None]
            out[name] = torch.from_numpy(value).bfloat16().float().numpy().reshape(about["shape"])
        elif dtype == "BF16":
            out[name] = from_bf16(data, shape)
    return out


def reference(source, weights):
    """The bf16 checkpoint's model in fp32 with the dequantised weights put in."""
    model = transformers.Qwen3VLForConditionalGeneration.from_pretrained(source, dtype=torch.float32, device_map="cpu").eval()
    own = dict(model.named_parameters())
    for name, p in own.items():
        p.data.copy_(torch.from_numpy(np.ascontiguousarray(weights[name])))
    return model


def weights_disagree(folder, fmt, weights):
    """Elements where transformers' own reading of the checkpoint differs from ours. FP8 comes out of transformers rounded to bf16."""
    kw = {"quantization_config": transformers.FineGrainedFP8Config(dequantize=True)} if fmt == "fp8" else {}
    model = transformers.Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16, device_map="cpu", **kw)
    if fmt != "fp8":
        model = model.dequantize()
    return sum(int((p.detach().float() != torch.from_numpy(np.ascontiguousarray(weights[n])).bfloat16().float()).sum()) for n, p in model.named_parameters())


def record(binary, work, count, seed):
    folder = os.path.join(work, "game")
    subprocess.run([binary, "dataset", "record", "--out", folder, "--episodes", "1", "--seed", str(seed)], check=True, stderr=subprocess.DEVNULL)
    with open(os.path.join(folder, "manifest.jsonl")) as f:
        entries = [json.loads(line) for line in f]
    step = max(1, len(entries) // count)
    return [(os.path.join(folder, e["frame_path"]), e["prompt"], e["oracle_action"]) for e in entries[::step][:count]]


def system_words():
    path = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "configs", "prompts", "tinywoods.txt")
    with open(path) as f:
        return f.read().split("[system]\n")[1].split("\n[user]")[0].strip()


def conversation(system, prompt, action):
    return ("<|im_start|>system\n%s<|im_end|>\n<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>%s<|im_end|>\n<|im_start|>assistant\n"
            '{"action":"%s"}<|im_end|>' % (system, prompt, action))


def ulp(x):
    return 2.0 ** (math.floor(math.log2(max(abs(x), 2.0 ** -126))) - 7)


class Tally:
    def __init__(self):
        self.positions = self.different = self.outside = self.answers = self.answers_different = self.answers_outside = 0
        self.largest, self.total = 0.0, 0.0

    def add(self, logits, logprobs, top, ids, rows, answer_from):
        """logits, logprobs: of the reference; top, ids: ours. rows: positions whose next token is judged."""
        for r in rows:
            self.positions += 1
            self.answers += r >= answer_from
            best, ours = int(logits[r].argmax()), top[r]
            if ours == best:
                continue
            self.different += 1
            self.answers_different += r >= answer_from
            gap = float(logits[r, best] - logits[r, ours])
            beyond = gap > 2 * ulp(float(logits[r, best]))
            self.outside += beyond
            self.answers_outside += beyond and r >= answer_from

    def distance(self, got, want):
        d = (got - want).abs()
        self.largest, self.total = max(self.largest, float(d.max())), self.total + float(d.sum())


def compare(binary, source, folder, fmt, prompts):
    weights = dequantised(folder)
    disagree = weights_disagree(folder, fmt, weights)
    exact = reference(source, weights)
    rounded = reference(source, weights).bfloat16()
    processor = transformers.AutoImageProcessor.from_pretrained(source)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    pad, system = exact.config.image_token_id, system_words()
    tallies, tokens_equal = {"float32": Tally(), "bf16": Tally(), "transformers bf16": Tally()}, True
    for picture, prompt, action in prompts:
        text = conversation(system, prompt, action)
        image = processor(images=[Image.open(picture).convert("RGB")], return_tensors="pt")
        count = int(image["image_grid_thw"].prod()) // 4
        ids = tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * count))["input_ids"]
        batch = dict(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), image_grid_thw=image["image_grid_thw"],
                     mm_token_type_ids=(torch.tensor([ids]) == pad).int())
        with torch.no_grad():
            logits = exact(pixel_values=image["pixel_values"], **batch).logits[0].float()
            coarse = rounded(pixel_values=image["pixel_values"].bfloat16(), **batch).logits[0].float()
        want = torch.log_softmax(logits, -1)
        # From the first token after the picture on: the words, the answer, the end.
        start = len(ids) - ids[::-1].index(pad)
        rows = range(start, len(ids) - 1)
        answer_from = len(ids) - 1 - len(tokenizer('%s"}<|im_end|>' % action)["input_ids"])
        targets = torch.tensor(ids[start + 1:])
        here = torch.arange(start, len(ids) - 1)
        for mode, options in (("float32", ["--f32"]), ("bf16", [])):
            command = [binary, "score", "--model", folder, "--raw", "--top", "1", "--threads", "1", "--image", picture, *options, text]
            ours = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            if ours["ids"] != ids:
                tokens_equal = False
                continue
            # "top" at position i is what was expected there; our rows name the position before.
            top = [ours["top"][i + 1][0]["id"] if i + 1 < len(ids) else -1 for i in range(len(ids))]
            tallies[mode].add(logits, want, top, ids, rows, answer_from)
            tallies[mode].distance(torch.tensor(ours["logprobs"][start + 1:]), want[here, targets])
        tallies["transformers bf16"].add(logits, want, coarse.argmax(-1).tolist(), ids, rows, answer_from)
        tallies["transformers bf16"].distance(torch.log_softmax(coarse, -1)[here, targets], want[here, targets])
    f32, bf16, theirs = (tallies[k] for k in ("float32", "bf16", "transformers bf16"))
    ok = (tokens_equal and not disagree and f32.positions > 0 and f32.different == 0 and f32.largest <= F32_LIMIT and bf16.answers_outside == 0 and bf16.outside <= theirs.outside)
    return tallies, disagree, tokens_equal, ok


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", nargs="?", default="models/tinywoods-vl")
    p.add_argument("--formats", default="fp8,nf4,nf4-plain,mixed")
    p.add_argument("--prompts", type=int, default=50)
    p.add_argument("--seed", type=int, default=11)
    p.add_argument("--binary", default="build/pmd-agent")
    p.add_argument("--report")
    a = p.parse_args()
    transformers.logging.set_verbosity_error()
    lines, all_ok, count = [], True, 0
    with tempfile.TemporaryDirectory(prefix="pmd-requantised-") as work:
        prompts = record(a.binary, work, a.prompts, a.seed)
        for fmt in a.formats.split(","):
            folder = os.path.join(work, fmt)
            requantise(a.model, folder, fmt)
            size = sum(os.path.getsize(f) for f in glob.glob(os.path.join(folder, "*.safetensors")))
            tallies, disagree, tokens_equal, ok = compare(a.binary, a.model, folder, fmt, prompts)
            all_ok &= ok
            for mode, t in tallies.items():
                count = max(count, t.positions)
                lines.append("| %s | %s | %d | %d of %d | %d of %d | %d (%d) | %.2g | %.2g | %s |" % (
                    fmt, mode, disagree, t.positions - t.different, t.positions, t.answers - t.answers_different, t.answers, t.outside, t.answers_outside, t.largest,
                    t.total / max(t.positions, 1), "yardstick" if mode.startswith("transformers") else ("pass" if ok else "FAIL")))
                print(lines[-1], flush=True)
            print("%s: %d bytes; tokens %s" % (fmt, size, "equal" if tokens_equal else "DIFFER"), flush=True)
    head = ("| format | run | weights that differ | top-1 equal | of these in the answer | beyond 2 bf16 ulps (in the answer) | largest abs. difference of logprob | mean | |\n"
            "|---|---|---|---|---|---|---|---|---|\n")
    print(head + "\n".join(lines) + "\n" + ("all pass" if all_ok else "FAILED"))
    if a.report:
        import bitsandbytes
        with open(a.report, "w") as out:
            out.write("# The trained checkpoint, quantised, against transformers on the same weights\n\n"
                      "%s UTC; torch %s, transformers %s, bitsandbytes %s; %d prompts of one game (seed %d), %d positions after the picture.\n\n"
                      % (datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M"), torch.__version__, transformers.__version__,
                         bitsandbytes.__version__, len(prompts), a.seed, count))
            out.write("Command: `python tools/check_requantised.py %s --prompts %d --seed %d --report %s`\n\n" % (a.model, a.prompts, a.seed, a.report))
            out.write("The reference of all rows is transformers in fp32 on the dequantised weights. `float32` is `pmd-agent score --f32`, `bf16` what "
                      "users run; the last run of each format is transformers' own bf16, for scale. \"beyond 2 bf16 "
                      "ulps\" counts top-1 choices that are no tie: the limit is none in the answer (what the checkpoint was trained on) and, in the "
                      "prompt's words, no more than transformers' bf16 has.\n\n")
            out.write(head + "\n".join(lines) + "\n")
    return 0 if all_ok else 1


if __name__ == "__main__":
    sys.exit(main())
