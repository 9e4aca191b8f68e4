"""Trains models/tinywoods-vl on one GPU from play of the bundled ROM; the teacher is the fair oracle.

Many games run side by side (pmd-agent env), each in a process of its own. First the oracle plays, with random steps mixed in, so that
its way back from odd places is seen. Then the model plays most of the games itself, on the GPU, in one batch; the oracle labels every
situation that it gets into, and training goes on over all of them at the same time (DAgger without rounds). The last quarter of the games is
played by the model alone. Their results are printed, but flatter: where it gets stuck, training frees it. What counts is the last line: other seeds
played by the finished weights. Seeds kept for testing are never played here.

    python tools/train_tinywoods.py --agent build/pmd-agent --init DIR --out DIR --minutes 9
"""
import argparse
import collections
import json
import os
import random
import select
import shutil
import subprocess
import time

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer

import tinywoods_vl as tw

FRAME = 160 * 240 * 3
TEST_SEEDS = 1_000_000
VALIDATION_SEEDS = 900_000


def say(*words):
    print(f"[{time.time() - START:6.1f} s]", *words, flush=True)


class Games:
    """The processes and the frames they share. pending holds the decisions that wait for an answer."""

    def __init__(self, agent, count, scratch, max_decisions, first_seed):
        path = os.path.join(scratch, "frames")
        with open(path, "wb") as f:
            f.truncate(count * FRAME)
        self.frames = np.memmap(path, np.uint8, "r", shape=(count, FRAME))
        self.jobs, self.tails, self.pending, self.ended = [], [b""] * count, [], []
        self.poll = select.poll()
        self.by_fd = {}
        for k in range(count):
            job = subprocess.Popen([agent, "env", "--frames", path, "--slot", str(k), "--seed", str(first_seed + k), "--stride", str(count),
                                    "--max-decisions", str(max_decisions)], preexec_fn=lambda: os.nice(10), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
            os.set_blocking(job.stdout.fileno(), False)
            self.jobs.append(job)
            self.by_fd[job.stdout.fileno()] = k
            self.poll.register(job.stdout.fileno(), select.POLLIN)

    def collect(self, wait_ms):
        for fd, _ in self.poll.poll(wait_ms):
            k = self.by_fd[fd]
            data = os.read(fd, 1 << 16)
            if not data:
                raise SystemExit(f"game {k} ended by itself")
            *lines, self.tails[k] = (self.tails[k] + data).split(b"\n")
            for line in lines:
                r = json.loads(line)
                if r["seed"] >= TEST_SEEDS:
                    raise SystemExit(f"seed {r['seed']} belongs to the evaluation")
                if "outcome" in r:
                    self.ended.append((k, r))
                else:
                    self.pending.append((k, r))

    def answer(self, k, action):
        self.jobs[k].stdin.write(action.encode() + b"\n")

    def close(self):
        for job in self.jobs:
            job.kill()


class Words:
    """Conversations as token ids: what is fixed is tokenised once."""

    def __init__(self, folder, length):
        self.t, self.length = Tokenizer.from_file(os.path.join(folder, "tokenizer.json")), length
        whole = self.t.encode(tw.conversation(tw.SYSTEM, "", '{"action":"')).ids
        end = self.t.token_to_id("<|vision_end|>")
        cut = whole.index(end) + 1
        self.head, self.tail = whole[:cut], whole[cut:]
        self.image_at = whole.index(self.t.token_to_id("<|image_pad|>"))
        self.close = self.t.encode('"}<|im_end|>').ids
        self.pad = self.t.token_to_id("<|endoftext|>")
        self.action = {}
        for a in tw.ACTIONS:
            ids = self.t.encode(a).ids
            assert len(ids) == 1, f"{a} is not one token"
            self.action[a] = ids[0]
        sample = tw.conversation(tw.SYSTEM, "last wait", '{"action":"wait"}<|im_end|>')
        assert self.t.encode(sample).ids == self.head + self.t.encode("last wait").ids + self.tail + [self.action["wait"]] + self.close

    def rows(self, prompts, labels):
        ids = np.full((len(prompts), self.length), self.pad, np.int16)
        at = np.zeros(len(prompts), np.int64)
        for i, e in enumerate(self.t.encode_batch(prompts)):
            row = (self.head + e.ids)[:self.length - len(self.tail) - 4] + self.tail
            at[i] = len(row) - 1
            row = row + [self.action[labels[i]]] + self.close
            ids[i, :len(row)] = row
        return ids, at


class Samples:
    def __init__(self, capacity, length, device):
        self.rgb = torch.empty(capacity, FRAME, dtype=torch.uint8, device=device)
        self.ids = torch.empty(capacity, length, dtype=torch.int16, device=device)
        self.at = torch.empty(capacity, dtype=torch.int64, device=device)
        self.capacity, self.n, self.next = capacity, 0, 0

    def add(self, rgb, ids, at):
        k = torch.arange(self.next, self.next + len(at), device=rgb.device) % self.capacity
        self.rgb[k], self.ids[k], self.at[k] = rgb, ids, at
        self.next = (self.next + len(at)) % self.capacity
        self.n = min(self.capacity, self.n + len(at))

    def batch(self, size):
        i = torch.randint(0, self.n, (size,), device=self.rgb.device)
        return self.rgb[i].view(size, 160, 240, 3), self.ids[i].long(), self.at[i]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--agent", default="build/pmd-agent")
    p.add_argument("--init", required=True, help="weights and tokenizer to start from (tinywoods_vl.py init)")
    p.add_argument("--out", required=True)
    p.add_argument("--minutes", type=float, default=9)
    p.add_argument("--games", type=int, default=240)
    p.add_argument("--teach", type=float, default=50, help="seconds in which only the oracle plays")
    p.add_argument("--batch", type=int, default=512)
    p.add_argument("--steps-per-round", type=int, default=2, help="training steps between two moves of the games")
    p.add_argument("--rate", type=float, default=1.2e-3)
    p.add_argument("--length", type=int, default=224, help="tokens of the longest conversation")
    p.add_argument("--capacity", type=int, default=400_000, help="situations kept on the GPU, 115 KB each")
    p.add_argument("--max-decisions", type=int, default=700)
    p.add_argument("--seed", type=int, default=1, help="of the training itself")
    p.add_argument("--first-seed", type=int, default=1, help="of the games; a call that goes on with trained weights needs games of its own: "
                   "the same ones again seem to be learnt by heart (bench/results/play.md)")
    p.add_argument("--scratch", default="/tmp/tinywoods-train")
    p.add_argument("--validate", type=int, default=160, help="games that the finished weights play at the end")
    p.add_argument("--validate-s", type=float, default=60, help="at most so long; what is unfinished then counts as not cleared")
    p.add_argument("--no-compile", action="store_true")
    args = p.parse_args()
    deadline = START + args.minutes * 60
    device = "cuda" if torch.cuda.is_available() else "cpu"
    random.seed(args.seed), torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    os.makedirs(args.scratch, exist_ok=True)

    words = Words(args.init, args.length)
    weights = {k: v.float() for k, v in load_file(os.path.join(args.init, "model.safetensors")).items()}
    twin = tw.Twin(weights["model.language_model.embed_tokens.weight"].shape[0], words.image_at, args.length)
    twin.load_state_dict(weights)
    twin.to(device)
    names = list(dict(twin.named_parameters()))
    live = [dict(twin.named_parameters())[k] for k in names]
    averaged = [q.detach().clone() for q in live]
    optimizer = torch.optim.AdamW([dict(params=[q for q in live if q.dim() > 1], weight_decay=0.05),
                                   dict(params=[q for q in live if q.dim() <= 1], weight_decay=0.0)], lr=args.rate, betas=(0.9, 0.95),
                                  fused=device == "cuda")
    wide, tall = tw.bicubic(240, tw.WIDTH).to(device), tw.bicubic(160, tw.HEIGHT).to(device)

    def loss_of(rgb, ids, at):
        patches = tw.to_patches(rgb, wide, tall)
        with torch.autocast(device, torch.bfloat16):
            hidden = twin(ids, patches.to(torch.bfloat16))
            three = at[:, None] + torch.arange(3, device=device)
            rows = hidden.gather(1, three[:, :, None].expand(-1, -1, hidden.shape[2]))
            logits = twin.logits(rows).float()
        labels = ids.gather(1, three + 1)
        loss = F.cross_entropy(logits[:, 0], labels[:, 0])
        rest = F.cross_entropy(logits[:, 1:].reshape(-1, logits.shape[2]), labels[:, 1:].reshape(-1))
        return loss + 0.05 * rest, loss.detach(), (logits[:, 0].argmax(1) == labels[:, 0]).float().mean()

    step_of = loss_of if args.no_compile else torch.compile(loss_of, dynamic=False)
    noise = torch.randint(0, 256, (args.batch, 160, 240, 3), dtype=torch.uint8, device=device)
    step_of(noise, torch.full((args.batch, args.length), 300, device=device), torch.full((args.batch,), 100, device=device))[0].backward()
    optimizer.zero_grad(set_to_none=True)
    say("compiled")

    @torch.no_grad()
    def act(rgb, ids, at, allowed):
        with torch.autocast(device, torch.bfloat16):
            hidden = twin(ids, tw.to_patches(rgb.view(-1, 160, 240, 3), wide, tall).to(torch.bfloat16))
            logits = twin.logits(hidden[torch.arange(len(at), device=device), at]).float()[:, action_ids]
        return logits.masked_fill(~allowed, -1e9).argmax(1)

    action_ids = torch.tensor([words.action[a] for a in tw.ACTIONS], device=device)
    number = {a: i for i, a in enumerate(tw.ACTIONS)}
    games = Games(args.agent, args.games, args.scratch, args.max_decisions, args.first_seed)
    samples = Samples(args.capacity, args.length, device)
    alone = int(args.games * 0.75)     # games from here on: the model alone
    taught = int(args.games * 0.12)    # games below: the oracle with random steps
    results = collections.deque(maxlen=200)
    by_model = [False] * args.games    # this episode was the model's from its first step
    begun, steps, decisions, window, shown, right = time.time(), 0, 0, time.time(), [], []
    while time.time() < deadline:
        teaching = time.time() - begun < args.teach
        if samples.n >= 4 * args.batch:
            share = (time.time() - begun) / (deadline - begun)
            for group in optimizer.param_groups:
                group["lr"] = args.rate * min(1.0, (steps + 1) / 200) * (0.03 + 0.97 * 0.5 * (1 + np.cos(np.pi * min(1.0, share))))
            for _ in range(args.steps_per_round):
                loss, plain, hit = step_of(*samples.batch(args.batch))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(live, 1.0)
                optimizer.step()
                steps += 1
                with torch.no_grad():
                    torch._foreach_lerp_(averaged, live, 1 - min(0.999, steps / (steps + 50)))
            if steps % 20 < args.steps_per_round:
                shown.append(plain), right.append(hit)
        games.collect(0 if steps else 50)
        for k, r in games.ended:
            if by_model[k]:
                results.append(r["outcome"] == "cleared")
            by_model[k] = not teaching and k >= alone
        games.ended.clear()
        todo, games.pending = games.pending, []
        if todo:
            slots = [k for k, _ in todo]
            rgb = torch.from_numpy(games.frames[slots]).to(device)
            ids, at = words.rows([r["prompt"] for _, r in todo], [r["oracle"] for _, r in todo])
            ids, at = torch.from_numpy(ids).to(device), torch.from_numpy(at).to(device)
            samples.add(rgb, ids, at)
            chosen = None
            if not teaching:
                allowed = np.zeros((len(todo), len(tw.ACTIONS)), bool)
                for i, (_, r) in enumerate(todo):
                    allowed[i, [number[a] for a in r["offered"]]] = True
                chosen = act(rgb, ids.long(), at, torch.from_numpy(allowed).to(device)).tolist()
            for i, (k, r) in enumerate(todo):
                action = r["oracle"]
                if chosen and k >= taught and (k >= alone or random.random() > 0.03):
                    action = tw.ACTIONS[chosen[i]]
                elif r["scene"] == "field" and random.random() < 0.12:
                    action = tw.ACTIONS[random.randrange(8)]
                games.answer(k, action)
            decisions += len(todo)
        if time.time() - window > 20:
            if shown:
                say(f"step {steps} loss {torch.stack(shown).mean().item():.3f} right {torch.stack(right).mean().item():.3f} decisions {decisions} "
                    f"model alone cleared {sum(results)} of its last {len(results)}")
            window, shown, right = time.time(), [], []
    games.close()
    state = dict(zip(names, averaged))
    shutil.rmtree(args.out, ignore_errors=True)
    tw.write_folder(args.out, words.t, state)
    say(f"{steps} steps over {decisions} decisions; model alone cleared {sum(results)} of its last {len(results)}; wrote {args.out}")
    with torch.no_grad():
        for q, a in zip(live, averaged):
            q.copy_(a.to(torch.bfloat16))
    validate(args, words, act, number, device)


def validate(args, words, act, number, device):
    games, done, until = Games(args.agent, args.validate, args.scratch, 2000, VALIDATION_SEEDS), {}, time.time() + args.validate_s
    while len(done) < args.validate and time.time() < until:
        games.collect(10)
        for k, r in games.ended:
            done.setdefault(k, r["outcome"])
        games.ended.clear()
        todo, games.pending = [(k, r) for k, r in games.pending if k not in done], []
        if not todo:
            continue
        allowed = np.zeros((len(todo), len(tw.ACTIONS)), bool)
        for i, (_, r) in enumerate(todo):
            allowed[i, [number[a] for a in r["offered"]]] = True
        rgb = torch.from_numpy(games.frames[[k for k, _ in todo]]).to(device)
        ids, at = words.rows([r["prompt"] for _, r in todo], [r["oracle"] for _, r in todo])
        chosen = act(rgb, torch.from_numpy(ids).to(device).long(), torch.from_numpy(at).to(device), torch.from_numpy(allowed).to(device)).tolist()
        for (k, _), action in zip(todo, chosen):
            games.answer(k, tw.ACTIONS[action])
    games.close()
    say(f"finished weights, seeds from {VALIDATION_SEEDS}: cleared {sum(o == 'cleared' for o in done.values())} of {args.validate}"
        + (f" ({args.validate - len(done)} not finished in {args.validate_s} s)" if len(done) < args.validate else ""))


START = time.time()
if __name__ == "__main__":
    main()
