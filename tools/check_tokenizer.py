#!/usr/bin/env python3
"""Compares pmd-agent's tokenizer with Hugging Face `tokenizers` on many varied strings, ids and decoded text.

    python tools/check_tokenizer.py DIR [--program build/pmd-agent] [--count 120000] [--record FILE.md]

DIR holds a tokenizer.json. Strings: every assigned code point in small contexts, words of many scripts, emoji sequences,
decomposed and composed accents, control characters, white space of all kinds, numbers, code, special tokens whole and broken,
random mixtures of all of them; then a fifth more of combining marks, jamo and decomposing characters. Exit status 1 on any difference. Needs the package `tokenizers`.
"""
import argparse
import datetime
import json
import random
import subprocess
import sys
import unicodedata

import tokenizers

WORDS = """the of and to in I'm don't we'LL they'Ve IT'S he'd Hello world return function class def foo_bar x1 3.14159 1234567890 0xFF
straße naïve café coöperate Ångström ﬁn İstanbul ſtrange ǅ ñandú Æsir Þór Łódź čeština Ελληνικά άέή русский язык українська ἀρχή
עברית שָׁלוֹם العربية مُحَمَّد فارسی हिन्दी कि़ताब বাংলা தமிழ் తెలుగు ಕನ್ನಡ മലയാളം සිංහල ไทยภาษา ພາສາລາວ မြန်မာ ქართული հայերեն አማርኛ ភាសាខ្មែរ
日本語のテキスト 東京都 ひらがな カタカナ ﾊﾝｶｸ がぎぐ が ぱ 中文字符 漢字 繁體 简体 한국어 문장 각 가 각 𠮷野家 ㍿ ① Ⅷ ½ ² ₃ ㎏ １２３ ٣٤٥ ६७८
Tiếng Việt Tiếng Việt đồng Ǻ Ǻ Å Å ẛ̣ ẛ̣ q̣̇ q̣̇ ᾳ΄ Ω Ω K""".split()
PIECES = ["\n", "\r\n", "\t", " ", "  ", "   ", "\u00a0", "\u2003", "\u200b", "\u3000", "\u0085", "\u2028", "\u180e", "\ufeff", "\u200d", "\x00", "\x01",
          "\x1b[0m", "\x7f", "\x0b", "\x0c", "'", "''s", "'S", "'ſ", "\u2019s", "->", "//", "/* */", "!=", "===", "...", "…", "—", "\"", "\\", "\\n", "{", "}", "();", "<", ">",
          "<|", "|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|image_pad|>", "<|im_start", "im_end|>", "<think>", "</think>", "<tool_call>",
          "<|im_<|im_end|>", "<<|im_end|>>", "👍", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "❤️", "☃", "½", "²", "e\u0301", "a\u0300\u0315", "\u0301", "\u0344",
          "\u0f73", "\u0958", "\u212b", "\u1100\u1161\u11a8", "\uac00\u11a8", "\u3099", "\u304b\u3099", "\U0001d15e", "\ufb1d", "\u2126", "\ud7a3"]


def strings(count, seed=1):
    rng = random.Random(seed)
    assigned = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF and unicodedata.category(chr(c)) not in ("Cn", "Co")]
    common = [c for c in assigned if c < 0x3100]
    fixed = list(WORDS) + list(PIECES) + ["", " " * 500, "a" * 3000, "ab" * 2000, "\n" * 300, "中" * 700, "!?" * 400, "1" * 100, " \n" * 200, "aaaa " * 300]
    fixed += ["x%sy z%s %s" % (c, c, c) for c in PIECES]
    yield from fixed
    left = count - len(fixed)
    contexts = ["%s", "a%sb", " %s ", "1%s2", "%s%s", ".%s", "%s\u0301", "\n%s x"]
    for i in range(left // 3):  # single characters of everywhere in small contexts
        c = chr(assigned[(i * 7919) % len(assigned)] if i % 2 else rng.choice(common))
        yield contexts[i % 8].replace("%s", c)
    for _ in range(left // 3):  # sentences
        yield "".join(rng.choice(WORDS) + rng.choice(["", " ", " ", " ", ", ", ".\n", rng.choice(PIECES)]) for _ in range(rng.randrange(1, 14)))
    while True:  # mixtures
        yield "".join(rng.choice((lambda: rng.choice(PIECES), lambda: rng.choice(WORDS), lambda: chr(rng.choice(assigned)), lambda: chr(rng.choice(common)),
                                  lambda: chr(rng.randrange(128)), lambda: str(rng.randrange(10 ** rng.randrange(1, 9)))))()
                      for _ in range(rng.randrange(1, 25)))


def tricky(count, seed=2):
    """Sequences of marks, jamo and characters that decompose: what normalisation is about."""
    rng = random.Random(seed)
    marks = [chr(c) for c in range(0x110000) if unicodedata.combining(chr(c)) or unicodedata.decomposition(chr(c)) and not unicodedata.decomposition(chr(c)).startswith("<")]
    jamo = [chr(c) for c in range(0x1100, 0x1200)] + [chr(0xAC00 + 28 * k) for k in range(0, 399, 7)] + [chr(0xAC01), "\uac02"]
    letters = list("aeiouAEIOUcCnNsSzZ") + [chr(c) for c in (0x915, 0x9a1, 0xb95, 0xbc6, 0xbbe, 0x1025, 0x304b, 0x30ab, 0x11099, 0x110ba, 0x3b1, 0x3c9, 0x627, 0x653, 0x5d0, 0xdd9)]
    for _ in range(count):
        yield "".join(rng.choice(rng.choice((marks, marks, jamo, letters))) for _ in range(rng.randrange(1, 9)))


def run(program, folder, flags, lines):
    done = subprocess.run([program, "tokenize", "--model", folder, "--json"] + flags, input="\n".join(lines) + "\n", capture_output=True, text=True)
    if done.returncode:
        sys.exit("failed: " + done.stderr)
    out = done.stdout.split("\n")[:-1]
    if len(out) != len(lines):
        sys.exit("%d lines in, %d out" % (len(lines), len(out)))
    return [json.loads(line) for line in out]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("folder")
    p.add_argument("--program", default="build/pmd-agent")
    p.add_argument("--count", type=int, default=120000)
    p.add_argument("--record")
    a = p.parse_args()
    texts = []
    for s in strings(a.count):
        if len(texts) == a.count:
            break
        texts.append(s)
    texts += tricky(a.count // 5)
    reference = tokenizers.Tokenizer.from_file(a.folder + "/tokenizer.json")
    want = [e.ids for e in reference.encode_batch(texts)]
    got = run(a.program, a.folder, [], [json.dumps(s) for s in texts])
    bad = [i for i in range(len(texts)) if want[i] != got[i]]
    for i in bad[:20]:
        print("ids differ:", ascii(texts[i]), "\n  want", want[i], "\n  got ", got[i])
    # Decoding: what tokenizers gives for the same ids. Single tokens too: cut characters become U+FFFD there.
    back = run(a.program, a.folder, ["--decode"], [json.dumps(ids) for ids in want])
    bad_back = [i for i, ids in enumerate(want) if ids and reference.decode(ids, skip_special_tokens=False) != back[i]]
    for i in bad_back[:10]:
        print("text differs:", want[i], "\n  want", ascii(reference.decode(want[i], skip_special_tokens=False)), "\n  got ", ascii(back[i]))
    tokens = sum(map(len, want))
    print("%d strings, %d tokens, %d characters: %d differ in ids, %d in decoded text (tokenizers %s)"
          % (len(texts), tokens, sum(map(len, texts)), len(bad), len(bad_back), tokenizers.__version__))
    if a.record:
        with open(a.record, "w") as f:
            f.write("# Tokenizer parity with Hugging Face tokenizers\n\nDate %s, tokenizers %s, Python Unicode %s.\n"
                    "Command: `python tools/check_tokenizer.py DIR --count %d`, DIR: the Qwen3 tokenizer (vocabulary and merges of Qwen3-VL).\n\n"
                    "| strings | characters | tokens | ids differ | decoded text differs |\n|---|---|---|---|---|\n| %d | %d | %d | %d | %d |\n"
                    % (datetime.date.today(), tokenizers.__version__, unicodedata.unidata_version, a.count, len(texts), sum(map(len, texts)), tokens, len(bad), len(bad_back)))
    return 1 if bad or bad_back else 0


if __name__ == "__main__":
    sys.exit(main())
