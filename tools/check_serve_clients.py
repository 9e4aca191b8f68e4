#!/usr/bin/env python3
"""Real clients against `pmd-agent serve`: openai-python, curl, lm-eval, guidellm. Prints one line a check: pass, fail or n.a. with the reason.

usage: check_serve_clients.py BASE_URL [--model NAME] [--key KEY] [--tokenizer DIR]
Needs (tools only): pip install openai pydantic "lm_eval[api]" guidellm; curl."""
import argparse, asyncio, base64, json, math, os, shutil, struct, subprocess, sys, tempfile, urllib.request, zlib

from typing import Literal

import openai
from pydantic import BaseModel

results = []


def check(name):
    def wrap(f):
        results.append((name, f))
        return f
    return wrap


def png(width=64, height=64, shade=120):
    """A small grey PNG, written by hand."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + bytes([shade, shade, x % 256])[:3] * 1 + bytes([shade, (x * 3) % 256, shade]) * (width - 1)
                    for x in range(height))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) +
            chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def data_uri(data, kind="image/png"):
    return f"data:{kind};base64," + base64.b64encode(data).decode()


class Move(BaseModel):
    action: Literal["wait", "walk"]  # closed: a small model may never end a free string
    steps: Literal[1, 2, 3]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("url")
    p.add_argument("--model")
    p.add_argument("--key", default="none")
    p.add_argument("--tokenizer", help="folder of the model's tokenizer, as lm-eval and guidellm want it")
    a = p.parse_args()
    base = a.url.rstrip("/")
    client = openai.OpenAI(base_url=base + "/v1", api_key=a.key, max_retries=0)
    model = a.model or client.models.list().data[0].id
    say = dict(model=model, messages=[{"role": "user", "content": "Which way?"}], max_tokens=12)

    def curl(*args):
        return subprocess.run(["curl", "-sS", "-m", "30", "-H", f"Authorization: Bearer {a.key}", *args], capture_output=True, text=True)

    @check("openai-python: models.list, models.retrieve")
    def _():
        assert client.models.retrieve(model).id == model

    @check("openai-python: chat, sync")
    def _():
        r = client.chat.completions.create(**say, temperature=0)
        assert r.choices[0].finish_reason in ("stop", "length") and r.usage.completion_tokens > 0
        again = client.chat.completions.create(**say, temperature=0)
        assert again.choices[0].message.content == r.choices[0].message.content
        assert again.usage.prompt_tokens_details.cached_tokens > 0

    @check("openai-python: chat, async, 16 at once")
    def _():
        async def go():
            async with openai.AsyncOpenAI(base_url=base + "/v1", api_key=a.key) as c:
                return await asyncio.gather(*[c.chat.completions.create(**say, temperature=0) for _ in range(16)])
        texts = {r.choices[0].message.content for r in asyncio.run(go())}
        assert len(texts) == 1, texts

    @check("openai-python: streaming with usage")
    def _():
        whole = client.chat.completions.create(**say, temperature=0).choices[0].message.content
        chunks = list(client.chat.completions.create(**say, temperature=0, stream=True, stream_options={"include_usage": True}))
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens > 0
        assert chunks[-2].choices[0].finish_reason in ("stop", "length")
        assert all(c.choices[0].finish_reason is None for c in chunks[:-2])
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole

    @check("openai-python: n, seed, stop, logit_bias")
    def _():
        r = client.chat.completions.create(**say, n=3, seed=7, temperature=1.5)
        s = client.chat.completions.create(**say, n=3, seed=7, temperature=1.5)
        assert [c.message.content for c in r.choices] == [c.message.content for c in s.choices] and len(r.choices) == 3
        text = client.chat.completions.create(**say, temperature=0).choices[0].message.content
        cut = client.chat.completions.create(**say, temperature=0, stop=[text[1:3]])
        assert cut.choices[0].message.content == text[:text.index(text[1:3])] and cut.choices[0].finish_reason == "stop"
        forced = client.completions.create(model=model, prompt="a", max_tokens=3, logit_bias={"40": 100}, temperature=0, logprobs=0)
        assert len(set(forced.choices[0].logprobs.tokens)) == 1

    @check("openai-python: logprobs with bytes")
    def _():
        r = client.chat.completions.create(**say, temperature=0, logprobs=True, top_logprobs=5)
        content = r.choices[0].logprobs.content
        assert b"".join(bytes(t.bytes) for t in content).decode() == r.choices[0].message.content
        assert all(len(t.top_logprobs) == 5 and t.logprob <= 0 for t in content)

    @check("openai-python: structured output (pydantic parse)")
    def _():
        r = client.chat.completions.parse(**{**say, "max_tokens": 200}, response_format=Move, temperature=0)
        assert isinstance(r.choices[0].message.parsed, Move)
        shape = {"type": "object", "properties": {"action": {"enum": ["wait", "walk"]}}, "required": ["action"],
                 "additionalProperties": False}
        r = client.chat.completions.create(**{**say, "max_tokens": 60}, response_format={
            "type": "json_schema", "json_schema": {"name": "move", "strict": True, "schema": shape}})
        assert json.loads(r.choices[0].message.content)["action"] in ("wait", "walk")

    @check("openai-python: images as data URI")
    def _():
        parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": data_uri(png()), "detail": "low"}}]
        plain = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "What?"}], max_tokens=4)
        r = client.chat.completions.create(model=model, messages=[{"role": "user", "content": parts}], max_tokens=4)
        assert r.usage.prompt_tokens > plain.usage.prompt_tokens

    @check("openai-python: errors have their classes")
    def _():
        def fails(kind, field, **change):
            try:
                client.chat.completions.create(**{**say, **change})
            except kind as e:
                assert field in str(e), (field, str(e))
                return
            raise AssertionError(f"no {kind.__name__} for {change}")
        fails(openai.BadRequestError, "temperature", temperature=-1)
        fails(openai.BadRequestError, "n", n=1000)
        fails(openai.BadRequestError, "json_object", response_format={"type": "json_object"})
        fails(openai.BadRequestError, "patternProperties", response_format={"type": "json_schema", "json_schema": {
            "name": "x", "schema": {"type": "object", "patternProperties": {}, "properties": {}}}})
        fails(openai.NotFoundError, "no-such-model", model="no-such-model")
        for url in ("file:///etc/passwd", "http://127.0.0.1/x.png", "data:image/png;base64,####", "data:image/png;base64,AAAA"):
            fails(openai.BadRequestError, "messages[0].content[0]",
                  messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}])

    @check("openai-python: completions, echo and token ids")
    def _():
        r = client.completions.create(model=model, prompt=[1, 2, 3, 4], max_tokens=1, echo=True, logprobs=1, temperature=0)
        l = r.choices[0].logprobs
        assert l.token_logprobs[0] is None and len(l.tokens) == 5 and len(l.top_logprobs) == 5
        text = "".join(c.choices[0].text for c in client.completions.create(model=model, prompt="abc", max_tokens=8, temperature=0, stream=True))
        assert text == client.completions.create(model=model, prompt="abc", max_tokens=8, temperature=0).choices[0].text

    @check("openai-python: embeddings (base64 and float)")
    def _():
        r = client.embeddings.create(model=model, input=["one", "two"])
        f = client.embeddings.create(model=model, input=["one", "two"], encoding_format="float")
        assert abs(math.fsum(x * x for x in r.data[0].embedding) - 1) < 1e-4
        assert max(abs(x - y) for x, y in zip(r.data[1].embedding, f.data[1].embedding)) < 1e-6

    @check("curl: health, models, metrics, HEAD, OPTIONS")
    def _():
        assert json.loads(curl(base + "/health").stdout) == {"status": "ok"}
        assert "pmd_generated_tokens_total" in curl(base + "/metrics").stdout
        assert "200 OK" in curl("-I", base + "/v1/models").stdout
        assert "204 No Content" in curl("-i", "-X", "OPTIONS", base + "/v1/models").stdout

    @check("curl: chat over HTTP/1.0, HTTP/1.1, --http2, chunked body, Expect")
    def _():
        body = json.dumps({**say, "temperature": 0, "stream": True})
        texts = []
        for extra in (["--http1.0"], ["--http1.1"], ["--http2"], ["-H", "Transfer-Encoding: chunked"], ["-H", "Expect: 100-continue"]):
            r = curl("-N", *extra, "-d", body, base + "/v1/chat/completions")
            assert r.returncode == 0 and r.stdout.rstrip().endswith("data: [DONE]"), r
            texts.append(r.stdout.count("data: "))
        assert len(set(texts)) == 1

    @check("curl: tokenize and detokenize")
    def _():
        ids = json.loads(curl("-d", '{"content":"walk east"}', base + "/tokenize").stdout)["tokens"]
        assert json.loads(curl("-d", json.dumps({"tokens": ids}), base + "/detokenize").stdout)["content"] == "walk east"

    @check("lm-eval: local-completions, loglikelihood")
    def _():
        from lm_eval.api.instance import Instance
        from lm_eval.models.openai_completions import LocalCompletionsAPI

        lm = LocalCompletionsAPI(base_url=base + "/v1/completions", model=model, tokenizer=a.tokenizer, tokenizer_backend="huggingface",
                                 tokenized_requests=True, num_concurrent=1, max_retries=1, batch_size=1)
        pairs = [("walk ", "east"), ("walk ", "west then wait"), ("The floor", " is dark")]
        requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
        out = lm.loglikelihood(requests)
        assert len(out) == 3 and all(x < 0 for x, _ in out)
        # the same, computed by hand from the server's own tokens and echo
        ids = json.loads(curl("-d", '{"content":"walk east"}', base + "/tokenize").stdout)["tokens"]
        start = len(lm.tok_encode("walk"))  # lm-eval moves the space to the continuation
        l = client.completions.create(model=model, prompt=ids, max_tokens=1, echo=True, logprobs=1, temperature=0).choices[0].logprobs
        assert ids == lm.tok_encode("walk east") and abs(sum(l.token_logprobs[start:len(ids)]) - out[0][0]) < 1e-3

    @check("lm-eval: command line, a multiple-choice task from local files")
    def _():
        if not a.tokenizer:
            raise ImportError("--tokenizer DIR is needed")
        with tempfile.TemporaryDirectory() as d:
            rows = [{"q": f"Question {i}: ", "choices": ["walk", "eat", "wait"], "gold": i % 3} for i in range(6)]
            open(d + "/rows.jsonl", "w").write("\n".join(map(json.dumps, rows)))
            open(d + "/moves.yaml", "w").write(
                f"task: moves\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {d}/rows.jsonl\ntest_split: test\n"
                "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: choices\ndoc_to_target: gold\nmetric_list:\n  - metric: acc\n")
            r = subprocess.run([sys.executable, "-m", "lm_eval", "--model", "local-completions", "--include_path", d, "--tasks", "moves", "--model_args",
                                f"model={model},base_url={base}/v1/completions,tokenizer={a.tokenizer},num_concurrent=4,max_retries=1"],
                               capture_output=True, text=True, timeout=240, env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": d})
            assert r.returncode == 0 and "|acc" in r.stdout, (r.stdout[-500:], r.stderr[-1500:])

    @check("guidellm: benchmark run, no failed request")
    def _():
        if not (a.tokenizer and shutil.which("guidellm", path=os.path.dirname(sys.executable))):
            raise ImportError("guidellm or --tokenizer DIR is missing")
        with tempfile.TemporaryDirectory() as d:
            r = subprocess.run([os.path.dirname(sys.executable) + "/guidellm", "run", "--backend", f"kind=openai_http,target={base},model={model}",
                                "--profile", "kind=concurrent,streams=4", "--constraint", "kind=max_requests,count=20", "--tokenizer",
                                f"kind=hf_auto,model={a.tokenizer}", "--data", "kind=synthetic_text,prompt_tokens=64,output_tokens=16",
                                "--output", f"kind=json,path={d}/out.json", "--disable-console"],
                               capture_output=True, text=True, timeout=240, env={**os.environ, "HF_HUB_OFFLINE": "1"})
            assert r.returncode == 0, (r.stdout[-800:], r.stderr[-1500:])
            totals = json.load(open(d + "/out.json"))["benchmarks"][0]["metrics"]["request_totals"]
            assert totals["successful"] == 20 and totals["errored"] == 0, totals

    @check("lm-eval: local-completions, generate_until")
    def _():
        from lm_eval.api.instance import Instance
        from lm_eval.models.openai_completions import LocalCompletionsAPI
        lm = LocalCompletionsAPI(base_url=base + "/v1/completions", model=model, tokenizer_backend=None, tokenized_requests=False,
                                 num_concurrent=1, max_retries=1, batch_size=1)
        out = lm.generate_until([Instance("generate_until", {}, ("walk", {"until": ["\n"], "max_gen_toks": 6}), 0)])
        assert len(out) == 1 and isinstance(out[0], str)

    failed = 0
    from importlib.metadata import version, PackageNotFoundError
    for package in ("openai", "lm_eval", "guidellm", "pydantic"):
        try:
            print(package, version(package))
        except PackageNotFoundError:
            print(package, "not installed")
    print(curl("--version").stdout.split(" lib")[0], "\nmodel", model)
    for name, f in results:
        try:
            f()
            print(f"pass  {name}")
        except ImportError as e:
            print(f"n.a.  {name}: {e}")
        except Exception as e:
            failed += 1
            print(f"FAIL  {name}: {type(e).__name__}: {str(e)[:400]}")
    print(f"{len(results) - failed} of {len(results)} without failure")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
