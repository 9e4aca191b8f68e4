#!/usr/bin/env python3
"""The cache is shared with the Hugging Face tools: what either side fetches, the other reads. Needs huggingface_hub and transformers.

    python tools/check_hub_interop.py [--binary build/pmd-agent] [--report bench/results/hub-interop.md]

Three small checkpoints (bf16 in one file; FP8 with an index; NF4), made by tools/make_checkpoint.py, are served by
tools/hub_test_server.py on loopback. Both clients are separate processes. Prints one line a check; exit status 1 when one fails.
"""
import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from hub_test_server import HubServer

HERE = os.path.dirname(os.path.abspath(__file__))
FORMATS = ["bf16", "fp8", "nf4"]
THEIR_DOWNLOAD = "import sys, huggingface_hub as h; print(h.snapshot_download(sys.argv[1], max_workers=2))"
THEIR_LOCAL = "import sys, huggingface_hub as h; print(h.snapshot_download(sys.argv[1], local_files_only=True))"
THEIR_CONFIG = ("import sys, transformers as t; c = t.AutoConfig.from_pretrained(sys.argv[1]); "
                "k = t.AutoTokenizer.from_pretrained(sys.argv[1]); print(c.model_type, c.text_config.num_hidden_layers, len(k('hello').input_ids))")
THEIR_SCAN = "import sys, huggingface_hub as h; i = h.scan_cache_dir(); print(sorted(r.repo_id for r in i.repos), len(i.warnings)); sys.exit(len(i.warnings))"


class Check:
    def __init__(self, binary, work):
        self.binary, self.work, self.rows = binary, work, []

    def environment(self, home, endpoint=None):
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "TRANSFORMERS_")) and "proxy" not in k.lower()}
        keep.update(HF_HOME=os.path.join(self.work, home), HF_TOKEN="hf_secret", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_XET="1",
                    HF_HUB_DISABLE_PROGRESS_BARS="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")
        keep.update({"HF_ENDPOINT": endpoint} if endpoint else {"HF_HUB_OFFLINE": "1"})
        return keep

    def run(self, title, command, environment, expect=None):
        r = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120)
        text = r.stdout.strip()
        ok = r.returncode == 0 and (expect is None or expect in text) and "hf_secret" not in r.stdout + r.stderr
        self.note(title, ok, text.splitlines()[-1] if ok and text else (r.stderr or r.stdout)[-600:])
        return text

    def note(self, title, ok, detail):
        self.rows.append((title, ok, detail))
        print("%-4s  %s%s" % ("ok" if ok else "FAIL", title, "" if ok else "\n      " + detail), flush=True)

    def ours(self, title, words, environment, expect=None):
        return self.run(title, [self.binary, "models", *words], environment, expect)

    def theirs(self, title, code, model, environment, expect=None):
        return self.run(title, [sys.executable, "-c", code, model], environment, expect)


def check_all(c, hub):
    seen = hub.seen
    online, offline = c.environment("theirs", hub.endpoint), c.environment("theirs")
    for f in FORMATS:
        m = "test/tiny-" + f
        c.theirs("huggingface_hub fetches %s" % f, THEIR_DOWNLOAD, m, online)
        c.ours("  verify: every file as published", ["verify", m], offline, "all as published")
        c.ours("  estimate, offline, from its files", ["estimate", m], offline, "from: files")
        c.ours("  smoke, offline: loads and answers", ["smoke", m], offline, "all log-probabilities finite: ok")
        before = seen["storage"]
        c.ours("  download: nothing is fetched again", ["download", m], online)
        c.note("  no request for content was made", seen["storage"] == before, "%d requests" % (seen["storage"] - before))
    online, offline = c.environment("ours", hub.endpoint), c.environment("ours")
    for f in FORMATS:
        m = "test/tiny-" + f
        path = c.ours("pmd-agent fetches %s" % f, ["download", m], online)
        c.theirs("  snapshot_download(local_files_only) finds it", THEIR_LOCAL, m, offline, path)
        c.theirs("  transformers reads config and tokenizer offline", THEIR_CONFIG, m, offline, "qwen3_vl 3")
        before = seen["storage"]
        c.theirs("  snapshot_download online fetches no weights again", THEIR_DOWNLOAD, m, online, path)
        c.note("  no request for weights was made", seen["storage"] == before, "%d requests" % (seen["storage"] - before))
        c.ours("  verify after both", ["verify", m], offline, "all as published")
    c.theirs("huggingface_hub scans our cache without warnings", THEIR_SCAN, "", offline, "tiny-nf4")
    # One cache, both at work: their lock file is ours.
    blob = hub.repos["test/tiny-bf16"].files["model.safetensors"]["lfs"]
    online = c.environment("both", hub.endpoint)
    both = [subprocess.Popen([sys.executable, "-c", THEIR_DOWNLOAD, "test/tiny-bf16"], env=online, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL),
            subprocess.Popen([c.binary, "models", "download", "test/tiny-bf16"], env=online, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)]
    status = [p.wait(timeout=120) for p in both]
    c.note("both fetch into one cache at the same time", status == [0, 0], "exit statuses %s" % status)
    locks = os.listdir(os.path.join(c.work, "both", "hub", ".locks", "models--test--tiny-bf16"))
    c.note("  they take the same lock file", blob + ".lock" in locks, " ".join(locks)[:80])
    c.ours("  verify", ["verify", "test/tiny-bf16"], c.environment("both"), "all as published")
    c.note("the token never reached the storage host", seen["token_at_storage"] == 0, "%d times" % seen["token_at_storage"])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--binary", default="build/pmd-agent")
    p.add_argument("--report")
    a = p.parse_args()
    import huggingface_hub
    import transformers
    with tempfile.TemporaryDirectory(prefix="pmd-interop-") as work:
        repos = {}
        for f in FORMATS:
            folder = os.path.join(work, "made-" + f)
            subprocess.run([sys.executable, os.path.join(HERE, "make_checkpoint.py"), folder, "--size", "tiny", "--format", f], check=True,
                           stdout=subprocess.DEVNULL)
            with open(os.path.join(folder, "tokenizer_config.json"), "w") as out:
                json.dump({"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}, out)
            with open(os.path.join(folder, "README.md"), "w") as out:
                out.write("a model for tests\n")  # they fetch it, we do not need it
            repos["test/tiny-" + f] = folder
        hub = HubServer(repos)
        c = Check(os.path.abspath(a.binary), work)
        check_all(c, hub)
        hub.close()
    passed = sum(ok for _, ok, _ in c.rows)
    versions = "huggingface_hub %s, transformers %s, Python %s" % (huggingface_hub.__version__, transformers.__version__, sys.version.split()[0])
    print("%d of %d checks passed; %s" % (passed, len(c.rows), versions))
    if a.report:
        with open(a.report, "w") as out:
            out.write("# The Hub's cache shared with the Hugging Face tools\n\n%s UTC, %s, %d of %d checks passed.\n\n"
                      % (datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M"), versions, passed, len(c.rows)))
            out.write("Command: `python tools/check_hub_interop.py --report %s`\n\n| check | result |\n|---|---|\n" % a.report)
            out.writelines("| %s | %s |\n" % (t.replace("  ", "&nbsp;&nbsp;"), "pass" if ok else "FAIL") for t, ok, _ in c.rows)
    return 0 if passed == len(c.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
