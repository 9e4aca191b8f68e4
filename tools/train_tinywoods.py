"""Trains models/tinywoods-vl on one GPU from play of the bundled ROM, teacher: the fair oracle.

First the oracle plays (with random steps mixed in, so that its way back from odd places is seen); then, while training goes on, the
model of the moment plays on the CPU cores, the oracle labels every situation it got into, and these join the training set (DAgger),
until the time is used up. Seeds at and above --test-seeds are refused: they belong to the evaluation.

    python tools/train_tinywoods.py --agent build/pmd-agent --out DIR --minutes 9 [--init DIR] [--jobs 15]
"""
import argparse
import glob
import json
import os
import shutil
import subprocess
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F

import tinywoods_vl as tw

TEST_SEEDS = 1_000_000


def say(*words):
    print(f"[{time.time() - START:6.1f} s]", *words, flush=True)


class Samples:
    """All frames on the GPU: palette indexes, palettes, token ids, place of the answer, label (token id of the action)."""

    def __init__(self, capacity, tokenizer, system, length, device):
        self.length = length
        self.n, self.tokenizer, self.system, self.device = 0, tokenizer, system, device
        self.pixels = torch.empty(capacity, 160 * 240, dtype=torch.uint8, device=device)
        self.palette = torch.empty(capacity, 256, 3, dtype=torch.uint8, device=device)
        self.ids = torch.empty(capacity, length, dtype=torch.int16, device=device)
        self.at = torch.empty(capacity, dtype=torch.int32, device=device)
        self.source = torch.empty(capacity, dtype=torch.uint8, device=device)
        self.end = tokenizer.token_to_id("<|endoftext|>")

    def add(self, prefix, source):
        rows = []
        for index in sorted(glob.glob(prefix + ".*.jsonl")):
            pack = open(index[:-6] + ".pack", "rb").read()
            with open(index) as f:
                for line in f:
                    try:
                        r = json.loads(line)
                    except ValueError:
                        continue  # the last line of a worker that was stopped
                    if r["seed"] >= TEST_SEEDS:
                        raise SystemExit(f"{index}: seed {r['seed']} belongs to the evaluation")
                    if r.get("oracle_action") and r.get("prompt") is not None:
                        rows.append((r, pack))
        rows = rows[:self.pixels.shape[0] - self.n]
        if not rows:
            return 0
        pixels = np.empty((len(rows), 38400), np.uint8)
        palette = np.zeros((len(rows), 256, 3), np.uint8)
        texts = [tw.conversation(self.system, r["prompt"], '{"action":"%s"}<|im_end|>' % r["oracle_action"]) for r, _ in rows]
        encoded = self.tokenizer.encode_batch(texts)
        ids = np.full((len(rows), self.length), self.end, np.int16)
        at = np.zeros(len(rows), np.int32)
        keep = np.zeros(len(rows), bool)

        def one(i):
            r, pack = rows[i]
            raw = zlib.decompress(pack[r["offset"]:r["offset"] + r["length"]])
            colours = raw[0] + 1
            palette[i, :colours] = np.frombuffer(raw, np.uint8, colours * 3, 1).reshape(-1, 3)
            pixels[i] = np.frombuffer(raw, np.uint8, 38400, 1 + colours * 3)
            e = encoded[i].ids
            if len(e) <= self.length:
                ids[i, :len(e)] = e
                at[i] = len(e) - 4  # the token before the action: ... '":"' ACTION '"}' <|im_end|>
                keep[i] = True

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one, range(len(rows)), chunksize=256))
        k = int(keep.sum())
        s = slice(self.n, self.n + k)
        for target, value in ((self.pixels, pixels), (self.palette, palette), (self.ids, ids), (self.at, at)):
            target[s] = torch.from_numpy(value[keep]).to(self.device)
        self.source[s] = source
        self.n += k
        if k < len(rows):
            say(f"{len(rows) - k} conversations longer than {self.length} tokens left out")
        return k

    def batch(self, size, newest):
        """Half of a batch comes from the newest DAgger rounds once there are some."""
        i = torch.randint(0, self.n, (size,), device=self.device)
        if newest < self.n and newest > 0:
            i[:size // 2] = torch.randint(newest, self.n, (size // 2,), device=self.device)
        palette = self.palette[i]
        rgb = torch.gather(palette, 1, self.pixels[i].long()[:, :, None].expand(-1, -1, 3)).view(size, 160, 240, 3)
        return rgb, self.ids[i].long(), self.at[i].long()


def export(twin, averaged, tokenizer, folder):
    tmp = folder + ".new"
    shutil.rmtree(tmp, ignore_errors=True)
    tw.write_folder(tmp, tokenizer, averaged)
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(tmp, folder)


def record(args, prefix, seed, episodes, *more):
    for old in glob.glob(prefix + ".*"):
        os.remove(old)
    command = [args.agent, "dataset", "record", "--packed", "--out", prefix, "--episodes", str(episodes), "--seed", str(seed),
               "--jobs", str(args.jobs), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--agent", default="build/pmd-agent")
    p.add_argument("--out", required=True)
    p.add_argument("--init", required=True, help="start from the weights and tokenizer of this folder (see tinywoods_vl.py init)")
    p.add_argument("--length", type=int, default=208, help="tokens of the longest conversation")
    p.add_argument("--minutes", type=float, default=9)
    p.add_argument("--jobs", type=int, default=15)
    p.add_argument("--episodes", type=int, default=1200, help="of the oracle, before training")
    p.add_argument("--round-episodes", type=int, default=90, help="of the model, in each DAgger round")
    p.add_argument("--first-round", type=float, default=45, help="seconds of training before the first DAgger round")
    p.add_argument("--max-decisions", type=int, default=700, help="of an episode in DAgger rounds")
    p.add_argument("--batch", type=int, default=512)
    p.add_argument("--rate", type=float, default=1.5e-3)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--capacity", type=int, default=900_000)
    p.add_argument("--system", default=tw.SYSTEM, help="the system text of the prompt file")
    p.add_argument("--scratch", default="/tmp/tinywoods-train")
    p.add_argument("--no-compile", action="store_true")
    args = p.parse_args()
    deadline = START + args.minutes * 60
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    os.makedirs(args.scratch, exist_ok=True)

    from safetensors.torch import load_file
    from tokenizers import Tokenizer
    first = os.path.join(args.scratch, "oracle")
    job = record(args, first, args.seed, args.episodes, "--policy", "oracle", "--epsilon", "0.12")
    tokenizer = Tokenizer.from_file(os.path.join(args.init, "tokenizer.json"))
    for a in tw.ACTIONS:
        assert len(tokenizer.encode(a).ids) == 1, f"{a} is not one token"

    image_at = tokenizer.encode(tw.conversation(args.system, "", "")).ids.index(tokenizer.token_to_id("<|image_pad|>"))
    weights = {k: v.float() for k, v in load_file(os.path.join(args.init, "model.safetensors")).items()}
    twin = tw.Twin(weights["model.language_model.embed_tokens.weight"].shape[0], image_at, args.length)
    twin.load_state_dict(weights)
    twin.to(device)
    averaged = {k: v.detach().clone() for k, v in twin.state_dict().items()}
    decay = [q for q in twin.parameters() if q.dim() > 1]
    plain = [q for q in twin.parameters() if q.dim() <= 1]
    optimizer = torch.optim.AdamW([dict(params=decay, weight_decay=0.05), dict(params=plain, weight_decay=0.0)], lr=args.rate,
                                  betas=(0.9, 0.95), fused=device == "cuda")
    wide, tall = tw.bicubic(240, tw.WIDTH).to(device), tw.bicubic(160, tw.HEIGHT).to(device)

    def loss_of(rgb, ids, at):
        patches = tw.to_patches(rgb, wide, tall)
        with torch.autocast(device, torch.bfloat16):
            hidden = twin(ids, patches.to(torch.bfloat16))
            rows = hidden.gather(1, (at[:, None] + torch.arange(3, device=device))[:, :, None].expand(-1, -1, hidden.shape[2]))
            logits = twin.logits(rows).float()
        labels = ids.gather(1, at[:, None] + 1 + torch.arange(3, device=device))
        loss = F.cross_entropy(logits[:, 0], labels[:, 0])
        rest = F.cross_entropy(logits[:, 1:].reshape(-1, logits.shape[2]), labels[:, 1:].reshape(-1))
        right = (logits[:, 0].argmax(1) == labels[:, 0]).float().mean()
        return loss + 0.05 * rest, loss.detach(), right

    step_of = loss_of if args.no_compile else torch.compile(loss_of, dynamic=False)
    # Compile on noise while the oracle still plays.
    noise = torch.randint(0, 256, (args.batch, 160, 240, 3), dtype=torch.uint8, device=device)
    step_of(noise, torch.full((args.batch, args.length), 300, device=device), torch.full((args.batch,), 100, device=device))[0].backward()
    optimizer.zero_grad(set_to_none=True)
    say("ready to train")
    out = job.communicate()[0]
    say("oracle played:", out.strip().splitlines()[-1] if out.strip() else "", "exit", job.returncode)
    samples = Samples(args.capacity, tokenizer, args.system, args.length, device)
    samples.add(first, 0)
    say(f"{samples.n} situations, the longest has {int(samples.at[:samples.n].max()) + 4} tokens")
    begun, steps, newest, rounds, job, folder = time.time(), 0, 0, 0, None, None
    window, seen_loss, seen_right = time.time(), [], []
    next_seed = args.seed + 200_000
    while time.time() < deadline:
        share = (time.time() - begun) / (deadline - begun)
        warm = min(1.0, (steps + 1) / 300)
        rate = args.rate * warm * (0.03 + 0.97 * 0.5 * (1 + np.cos(np.pi * min(1.0, share))))
        for group in optimizer.param_groups:
            group["lr"] = rate
        rgb, ids, at = samples.batch(args.batch, newest)
        loss, shown, right = step_of(rgb, ids, at)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimizer.step()
        steps += 1
        with torch.no_grad():
            keep = min(0.999, steps / (steps + 50))
            live = twin.state_dict()
            torch._foreach_lerp_([averaged[k] for k in averaged], [live[k] for k in averaged], 1 - keep)
        if steps % 50 == 0:
            seen_loss.append(shown), seen_right.append(right)
        if steps == 3:
            torch.cuda.synchronize() if device == "cuda" else None
            say("first steps done")
        if time.time() - window > 20 and seen_loss:
            l, r = torch.stack(seen_loss).mean().item(), torch.stack(seen_right).mean().item()
            say(f"step {steps} rate {rate:.1e} loss {l:.3f} right {r:.3f} situations {samples.n} DAgger rounds {rounds}")
            window, seen_loss, seen_right = time.time(), [], []
        if job and job.poll() is not None:
            text = job.stdout.read().strip().splitlines()
            before = samples.n
            count = samples.add(folder, 1)
            newest = newest or before
            rounds += 1
            say(f"DAgger round {rounds}: {count} situations |", text[-1] if text else f"exit {job.returncode}")
            job = None
        if job is None and time.time() - begun > args.first_round and deadline - time.time() > 45:
            export(twin, averaged, tokenizer, os.path.join(args.scratch, "model"))
            folder = os.path.join(args.scratch, f"round{rounds}")
            job = record(args, folder, next_seed, args.round_episodes, "--policy", "model", "--model", os.path.join(args.scratch, "model"),
                         "--mix", "0.05", "--max-decisions", str(args.max_decisions))
            next_seed += args.round_episodes
    if job:
        job.kill()
    export(twin, averaged, tokenizer, args.out)
    say(f"{steps} steps, {rounds} DAgger rounds, {samples.n} situations; wrote {args.out}")


START = time.time()
if __name__ == "__main__":
    main()
