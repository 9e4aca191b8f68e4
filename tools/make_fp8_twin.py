#!/usr/bin/env python3
"""Reference of FP8 linear layers with quantised activations: OUR OWN torch twin of the algorithm that transformers and vLLM run in Triton
(dynamic e4m3 activations per row and group of 128, weights e4m3 in blocks of 128 x 128), not their code.

Inputs come from a formula that tests/test_ops.c repeats. Writes tests/golden/ops/fp8_twin.txt: for every case a line
`rows in out seed CRC_OF_E4M3_BYTES CRC_OF_FACTORS` and then rows * out results as %a floats (accumulated in double, rounded once).

Usage: make_fp8_twin.py [FOLDER]     (needs torch, numpy)
"""
import sys, zlib
from pathlib import Path

import numpy as np
import torch

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/golden/ops")
folder.mkdir(parents=True, exist_ok=True)


def noise(n, seed):
    i = np.arange(n, dtype=np.uint32)
    v = i * np.uint32(2654435761) + np.uint32(seed * 40503 & 0xFFFFFFFF)
    v ^= v >> np.uint32(15)
    v *= np.uint32(0x2C1B3C6D)
    v ^= v >> np.uint32(12)
    return v


lines = [f"# made by tools/make_fp8_twin.py with torch {torch.__version__}: our own twin of the Triton algorithm"]
for case, (rows, n, out) in enumerate([(3, 256, 5), (2, 200, 4), (1, 128, 130), (4, 2048, 3), (7, 72, 6)]):
    groups = -(-n // 128)
    x = ((noise(rows * n, case) & np.uint32(0xFFFF)).astype(np.float32) - 32768) / 8192
    x[::37] *= 50
    if n > 128:
        x[:128] = 0  # one group of zeros: vLLM's guard
    x = torch.from_numpy(x.reshape(rows, n)).to(torch.bfloat16).float()
    w = (noise(out * n, case + 100) & np.uint32(0xFF)).astype(np.uint8)
    w[(w & 0x7F) == 0x7F] ^= 1
    weight = torch.from_numpy(w).view(torch.float8_e4m3fn).double().reshape(out, n)
    blocks = -(-out // 128)
    scale = ((noise(blocks * groups, case + 200) % np.uint32(1000) + 1).astype(np.float32) / np.float32(65536)).reshape(blocks, groups)
    y = torch.zeros(rows, out, dtype=torch.float64)
    q_all, s_all = [], []
    for g in range(groups):
        part = x[:, g * 128 : (g + 1) * 128]
        s = part.abs().amax(1, keepdim=True).clamp(min=1e-10) / 448.0
        q = (part / s).clamp(-448, 448).to(torch.float8_e4m3fn)
        q_all.append(q.view(torch.uint8))
        s_all.append(s)
        dot = q.double() @ weight[:, g * 128 : (g + 1) * 128].T
        y += dot * s.double() * torch.from_numpy(scale[np.arange(out) // 128, g]).double()
    q_bytes = torch.cat(q_all, 1).contiguous().numpy().tobytes()
    s_bytes = torch.cat(s_all, 1).contiguous().numpy().tobytes()
    lines.append(f"{rows} {n} {out} {case} {zlib.crc32(q_bytes):08x} {zlib.crc32(s_bytes):08x}")
    lines.append(" ".join(float(v).hex() for v in y.float().flatten()))
(folder / "fp8_twin.txt").write_text("\n".join(lines) + "\n")
print(len(lines) // 2, "cases")
