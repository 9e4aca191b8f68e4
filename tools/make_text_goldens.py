#!/usr/bin/env python3
"""Writes tests/golden/text: a small tokenizer and what Hugging Face makes of many strings and conversations with it.

    python tools/make_text_goldens.py      (needs tokenizers and jinja2)

  tokenizer.json           byte-level BPE of about 1,900 pieces with Qwen3-VL's split pattern, normaliser and added tokens;
                           merges as pairs, UTF-8 as it is
  escaped/tokenizer.json   the same content as the Qwen-VL files spell it: merges as strings, \\uXXXX escapes
  strings.jsonl            {"text", "ids"}: tokenizers' answer
  chat.jsonl               {"format", "options", "messages", "ids"}: templates rendered by Jinja, pads expanded as the processor does

The Jinja templates below are written from the behaviour in the fact sheet (section 6), not copied.
"""
import itertools
import json
import os
import random

import jinja2
import jinja2.sandbox
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from check_tokenizer import PIECES, WORDS, strings

SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPECIAL = ["endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start", "box_end", "quad_start", "quad_end", "vision_start",
           "vision_end", "vision_pad", "image_pad", "video_pad"]
ORDINARY = ["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
            "<tool_response>", "</tool_response>", "<think>", "</think>"]

CONTENT = """{%- macro content(m) -%}{%- if m.content is string -%}{{- m.content -}}{%- else -%}{%- for c in m.content -%}
{%- if c.type == 'image' -%}{%- set n.image = n.image + 1 -%}{%- if add_vision_id -%}Picture {{ n.image }}: {% endif -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif c.type == 'video' -%}{%- set n.video = n.video + 1 -%}{%- if add_vision_id -%}Video {{ n.video }}: {% endif -%}<|vision_start|><|video_pad|><|vision_end|>
{%- else -%}{{- c.text -}}{%- endif -%}{%- endfor -%}{%- endif -%}{%- endmacro -%}
{%- set n = namespace(image=0, video=0) -%}"""
TOOLS = r"""{%- if tools -%}{{- '<|im_start|>system\n' -}}{%- if messages[0].role == 'system' -%}{{- content(messages[0]) + '\n\n' -}}{%- endif -%}
{{- '# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>' -}}
{%- for t in tools -%}{{- '\n' -}}{{- t | tojson -}}{%- endfor -%}
{{- '\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n' -}}
{%- elif messages[0].role == 'system' -%}{{- '<|im_start|>system\n' + content(messages[0]) + '<|im_end|>\n' -}}{%- endif -%}"""
RESULT = r"""{%- elif m.role == 'tool' -%}{%- if loop.first or messages[loop.index0 - 1].role != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}
{{- '\n<tool_response>\n' + content(m) + '\n</tool_response>' -}}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' -%}{{- '<|im_end|>\n' -}}{%- endif -%}{%- endif -%}{%- endfor -%}"""
INSTRUCT = CONTENT + TOOLS + r"""{%- for m in messages -%}
{%- if m.role in ['user', 'assistant'] -%}{{- '<|im_start|>' + m.role + '\n' + content(m) + '<|im_end|>\n' -}}""" + RESULT + r"""
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"""
THINKING = CONTENT + TOOLS + r"""{%- set q = namespace(last=messages|length - 1, open=true) -%}
{%- for m in messages[::-1] -%}{%- if q.open and m.role == 'user' -%}{%- set c = content(m) -%}
{%- if not (c.startswith('<tool_response>') and c.endswith('</tool_response>')) -%}{%- set q.open = false -%}{%- set q.last = messages|length - 1 - loop.index0 -%}
{%- endif -%}{%- endif -%}{%- endfor -%}{%- set n.image = 0 -%}{%- set n.video = 0 -%}
{%- for m in messages -%}
{%- if m.role == 'user' or (m.role == 'system' and not loop.first) -%}{{- '<|im_start|>' + m.role + '\n' + content(m) + '<|im_end|>\n' -}}
{%- elif m.role == 'assistant' -%}{%- set c = content(m) -%}{%- set r = '' -%}
{%- if m.reasoning_content is string -%}{%- set r = m.reasoning_content -%}
{%- elif '</think>' in c -%}{%- set r = c.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') -%}{%- set c = c.split('</think>')[-1].lstrip('\n') -%}{%- endif -%}
{{- '<|im_start|>assistant\n' -}}
{%- if loop.index0 > q.last and (loop.last or r) -%}{{- '<think>\n' + r.strip('\n') + '\n</think>\n\n' + c.lstrip('\n') -}}{%- else -%}{{- c -}}{%- endif -%}{{- '<|im_end|>\n' -}}""" + RESULT + r"""
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n<think>\n' -}}{%- endif -%}"""


def build():
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    rng = random.Random(5)
    text = [s for _, s in zip(range(4000), strings(12000, 3))] + [" ".join(rng.choice(WORDS) for _ in range(20)) for _ in range(2000)]
    text += ['{"action":"walk_north","reason":"the stairs are near","n":%d}' % i for i in range(300)] * 3
    text = [s for s in text if len(s) < 400]
    trainer = trainers.BpeTrainer(vocab_size=1900, min_frequency=2, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    t.train_from_iterator(text, trainer)
    t.add_special_tokens([AddedToken("<|%s|>" % s, special=True, normalized=False) for s in SPECIAL])
    t.add_tokens([AddedToken(s, special=False, normalized=False) for s in ORDINARY])
    return t


def conversation(rng):
    def text():
        words = [rng.choice(WORDS + [p for p in PIECES if "<" not in p and ">" not in p and "|" not in p and p.isprintable()]) for _ in range(rng.randrange(0, 9))]
        return rng.choice(["", "", "\n", " ", "\n\n"]) + rng.choice(["", " ", " ", "\n"]).join(words) + rng.choice(["", "", "\n", " "])

    def parts():
        out = []
        for _ in range(rng.randrange(1, 4)):
            kind = rng.choice(["text", "text", "image", "video"])
            if kind == "text":
                out.append({"type": "text", "text": text()})
            elif kind == "image":
                out.append({"type": "image", "tokens": rng.randrange(1, 7)})
            else:
                out.append({"type": "video", "tokens": rng.randrange(1, 4), "seconds": [round(rng.random() * 99, 3) for _ in range(rng.randrange(1, 4))]})
        return out
    messages = []
    if rng.random() < 0.4:
        messages.append({"role": "system", "content": text()})
    for _ in range(rng.randrange(1, 6)):
        role = rng.choice(["user", "user", "assistant", "assistant", "tool", "tool", "system"])
        m = {"role": role, "content": text()}
        if role == "user":
            m["content"] = rng.choice([text(), parts(), parts()])
        if role == "assistant":
            style = rng.randrange(6)
            if style == 0:
                m["reasoning_content"] = text()
            elif style == 1:
                m["content"] = rng.choice(["<think>\n", ""]) + text() + "\n</think>\n\n" + text()
            elif style == 2:
                m["content"] = text() + '\n<tool_call>\n{"name": "look", "arguments": {"at": "x"}}\n</tool_call>'
        messages.append(m)
    options = {"add_generation_prompt": rng.random() < 0.7, "add_vision_id": rng.random() < 0.2}
    if rng.random() < 0.25:
        options["tools"] = [{"type": "function", "function": {"name": "move", "description": "geh \u00fcber \"das\"\n\t\b\x01\x7f 日本", "parameters": {
            "type": "object", "properties": {"steps": {"type": "integer", "minimum": -3}, "p": {"default": rng.choice([0.1, 1.0, 1e-7, 1e16, 123456.789, 1e22, -2.5e-5])}},
            "required": ["steps"], "x": [True, None, []], "y": {}}}}][:rng.randrange(0, 2) + 1]
    return messages, options


def render(environment, template, messages, options):
    out = environment.from_string(template).render(messages=messages, **options)
    for m in messages:  # pads, in order of appearance
        if isinstance(m["content"], str):
            continue
        for c in m["content"]:
            if c["type"] == "image":
                out = out.replace("<|image_pad|>", "\0" * c["tokens"], 1)
            elif c["type"] == "video":
                groups = "".join("<%.1f seconds><|vision_start|>%s<|vision_end|>" % (s, "\1" * c["tokens"]) for s in c["seconds"])
                out = out.replace("<|vision_start|><|video_pad|><|vision_end|>", groups, 1)
    return out.replace("\0", "<|image_pad|>").replace("\1", "<|video_pad|>")


def main():
    here = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tests", "golden", "text")
    os.makedirs(os.path.join(here, "escaped"), exist_ok=True)
    t = build()
    document = json.loads(t.to_str())
    with open(os.path.join(here, "tokenizer.json"), "w") as f:
        json.dump(document, f, ensure_ascii=False)
    document["model"]["merges"] = [a + " " + b for a, b in document["model"]["merges"]]
    document["model"].pop("ignore_merges", None)
    with open(os.path.join(here, "escaped", "tokenizer.json"), "w") as f:
        json.dump(document, f, ensure_ascii=True, indent=1)
    texts = [s for _, s in zip(range(1500), strings(4500, 9))]
    texts += list(itertools.islice(strings(6000, 11), 3900, 5400))
    with open(os.path.join(here, "strings.jsonl"), "w") as f:
        for s in texts:
            f.write(json.dumps({"text": s, "ids": t.encode(s).ids}, separators=(",", ":")) + "\n")
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda v: json.dumps(v, ensure_ascii=False)
    rng = random.Random(8)
    with open(os.path.join(here, "chat.jsonl"), "w") as f:
        for i in range(240):
            messages, options = conversation(rng)
            if "tools" in options:  # spaced otherwise than the template will
                options["tools_json"] = json.dumps(options["tools"], separators=(" ,", ":"), indent=rng.choice([None, 1]), ensure_ascii=rng.random() < 0.5)
            text = render(environment, THINKING if i % 2 else INSTRUCT, messages, options)
            f.write(json.dumps({"format": "thinking" if i % 2 else "instruct", "options": options, "messages": messages, "ids": t.encode(text).ids}, separators=(",", ":")) + "\n")
    for name, template in (("instruct", INSTRUCT), ("thinking", THINKING)):
        os.makedirs(os.path.join(here, name), exist_ok=True)
        with open(os.path.join(here, name, "chat_template.jinja"), "w") as f:
            f.write(template)
    with open(os.path.join(here, "VERSIONS"), "w") as f:
        f.write("tokenizers %s, jinja2 %s\n" % (tokenizers.__version__, jinja2.__version__))


if __name__ == "__main__":
    main()
