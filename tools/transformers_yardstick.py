#!/usr/bin/env python3
"""The yardstick: Qwen3-VL in bf16 by Hugging Face transformers on this machine's GPU, at the published shapes with random weights (no
download): decode steps and prefill of text, as a user of that library would have them.

    python3 tools/transformers_yardstick.py --sizes 2b,4b,8b --batches 1,8,64 --prefill 1024,8192 --json yardstick.json

  eager    model.generate with its growing cache (sdpa), greedy, no end token: a stopping criterion waits for the GPU and takes the time
           after every token; a step is the median interval of one answer after its first quarter.
  compile  torch.compile(mode="reduce-overhead", dynamic=False) of the same forward over a static cache: median step on the host's clock,
           the token read back after every one, as a server must. The compilation's own seconds are told.
  prefill  one forward of the whole prompt, logits of the last token, waited for: median after a warm-up.

Prompts are random ids; sampling is left out, which favours transformers. Rows appear as soon as they are measured; with --time-limit-s no
row is begun after so many seconds, and those left out are named. Needs torch and transformers (seen with 5.17 and 5.24)."""
import argparse
import inspect
import json
import statistics
import sys
import time

import torch
import transformers

sys.path.insert(0, __file__.rsplit("/", 1)[0])
from make_checkpoint import SIZES  # noqa: E402

VOCAB, START = 151936, time.perf_counter()


def make_model(size, device):
    c, v = SIZES[size], SIZES[size]["v"]
    vocab = VOCAB if size in ("2b", "4b", "8b") else 2048
    special = {name: vocab - 20 + i for i, name in enumerate(["image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"])}
    text = dict(hidden_size=c["hidden"], intermediate_size=c["inter"], num_hidden_layers=c["layers"], num_attention_heads=c["heads"],
                num_key_value_heads=c["kv"], head_dim=c["head_dim"], vocab_size=vocab, tie_word_embeddings=c["tied"], max_position_embeddings=262144,
                rope_theta=5000000, rope_scaling={"rope_type": "default", "mrope_interleaved": True, "mrope_section": c["sections"]})
    vision = dict(depth=v["depth"], hidden_size=v["hidden"], intermediate_size=v["inter"], num_heads=v["heads"], deepstack_visual_indexes=v["deep"],
                  num_position_embeddings=v["positions"], out_hidden_size=c["hidden"])
    config = transformers.Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=c["tied"], **special)
    torch.manual_seed(1)
    with torch.device(device):
        model = transformers.Qwen3VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    model.eval()
    model.generation_config.eos_token_id = None
    return model, vocab


def wait(device):
    if device == "cuda":
        torch.cuda.synchronize()


class Stamps(transformers.StoppingCriteria):
    def __init__(self, device):
        self.device, self.times = device, []

    def __call__(self, input_ids, scores, **kwargs):
        wait(self.device)
        self.times.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def random_prompts(batch, tokens, vocab, device):
    return torch.randint(100, vocab - 100, (batch, tokens), device=device)


def eager_step(model, vocab, batch, a):
    best = None
    for call in range(a.calls + 1):  # the first warms up
        stamps = Stamps(a.device)
        model.model.rope_deltas = None
        ids = random_prompts(batch, a.context, vocab, a.device)
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=a.steps + 1, do_sample=False,
                       stopping_criteria=transformers.StoppingCriteriaList([stamps]))
        gaps = [y - x for x, y in zip(stamps.times, stamps.times[1:])]
        step = statistics.median(gaps[len(gaps) // 4:])
        best = step if best is None or call == 1 else min(best, step)
    return best, {}


def compiled_step(model, vocab, batch, a):
    cache_name = "past_key_values" if "past_key_values" in inspect.signature(model.forward).parameters else "cache"
    cache = transformers.StaticCache(config=model.config.get_text_config(), max_cache_len=a.context + 256)
    model.model.rope_deltas = None
    ids = random_prompts(batch, a.context, vocab, a.device)
    model(input_ids=ids, logits_to_keep=1, **{cache_name: cache})
    forward = torch.compile(model.forward, mode="reduce-overhead" if a.device == "cuda" else "default", dynamic=False)
    token = ids[:, -1:].clone()
    position = torch.full((4, batch, 1), a.context, dtype=torch.long, device=a.device)

    def step():
        if a.device == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        token.copy_(forward(input_ids=token, position_ids=position, logits_to_keep=1, **{cache_name: cache}).logits[:, -1].argmax(-1, keepdim=True))
        position.add_(1)
        return token[:, 0].tolist()
    began = time.perf_counter()
    for _ in range(4):
        step()
    wait(a.device)
    compiling, times = time.perf_counter() - began, []
    for _ in range(a.compiled_steps):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    torch.compiler.reset()
    return statistics.median(times), {"compile_s": round(compiling, 1)}


def prefill(model, vocab, tokens, a):
    times = []
    for i in range(a.calls + 2):
        model.model.rope_deltas = None
        ids = random_prompts(1, tokens, vocab, a.device)
        wait(a.device)
        began = time.perf_counter()
        out = model(input_ids=ids, logits_to_keep=1, use_cache=True)
        wait(a.device)
        times.append(time.perf_counter() - began)
        if i == 0 and not bool(torch.isfinite(out.logits).all()):
            raise ValueError("logits are not finite")
        del out
    return statistics.median(times[1:]), {}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--sizes", default="2b,4b,8b", help="of " + ", ".join(SIZES))
    p.add_argument("--batches", default="1,8,64")
    p.add_argument("--prefill", default="1024,8192", help="prompt lengths")
    p.add_argument("--modes", default="prefill,eager,compile", help="in this order")
    p.add_argument("--context", type=int, default=1024, help="tokens before the decoded ones")
    p.add_argument("--steps", type=int, default=32, help="of an eager answer")
    p.add_argument("--compiled-steps", type=int, default=60)
    p.add_argument("--calls", type=int, default=3, help="repeats of an answer and of a prefill")
    p.add_argument("--time-limit-s", type=float, default=1e9)
    p.add_argument("--device", default="cuda")
    p.add_argument("--json", help="one object a row is appended")
    a = p.parse_args()
    whole = lambda text: [int(x) for x in text.split(",") if x]  # noqa: E731
    if a.device == "cuda" and not torch.cuda.is_available():
        sys.exit("transformers_yardstick: no CUDA device")
    machine = torch.cuda.get_device_name() if a.device == "cuda" else "cpu"
    print(f"{machine}, torch {torch.__version__}, transformers {transformers.__version__}, bf16, random weights", flush=True)
    print("| model | what | batch | tokens | ms | tok/s | |\n| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for size in a.sizes.split(","):
        model, vocab = make_model(size, a.device)
        for mode in a.modes.split(","):
            for n in whole(a.prefill if mode == "prefill" else a.batches):
                if time.perf_counter() - START > a.time_limit_s:
                    print(f"| {size} | {mode} | {n} | | | | left out: time |", flush=True)
                    continue
                batch, tokens = (1, n) if mode == "prefill" else (n, a.context)
                row = {"model": size, "what": mode, "batch": batch, "tokens": tokens, "machine": machine, "torch": torch.__version__,
                       "transformers": transformers.__version__}
                try:
                    with torch.inference_mode() if mode != "compile" else torch.no_grad():
                        seconds, more = prefill(model, vocab, n, a) if mode == "prefill" else (eager_step if mode == "eager" else compiled_step)(model, vocab, n, a)
                    rate = (n if mode == "prefill" else batch) / seconds
                    row.update(ms=round(seconds * 1e3, 4), tok_s=round(rate, 1), **more)
                    print(f"| {size} | {mode} | {batch} | {tokens} | {seconds * 1e3:.3f} | {rate:.0f} | {' '.join(f'{k} {v}' for k, v in more.items())} |", flush=True)
                except (RuntimeError, ValueError, TypeError) as e:  # out of memory, say: the other rows go on
                    row.update(error=str(e).splitlines()[0][:300])
                    print(f"| {size} | {mode} | {batch} | {tokens} | | | failed: {row['error']} |", flush=True)
                if a.device == "cuda":
                    torch.cuda.empty_cache()
                if a.json:
                    with open(a.json, "a") as f:
                        f.write(json.dumps(row) + "\n")
        del model


if __name__ == "__main__":
    main()
