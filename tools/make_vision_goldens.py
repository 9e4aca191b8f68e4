#!/usr/bin/env python3
"""Reference data of the vision room: transformers' processors, torchvision's uint8 bicubic and Pillow's, in tests/golden/vision/.

The source pictures come from a formula that tests/test_image.c repeats, so that only sizes and checksums are committed:
cases.txt holds lines `resize KIND sh sw dh dw seed CRC ADLER`, `size h w H W`, `image h w seed t gh gw CRC ADLER`,
`video n h w seed t gh gw CRC ADLER` and `decode FILE w h CRC ADLER MAXDIFF`; checksums are zlib's over the bytes of the result
(uint8 pixels, or fp32 pixel values). Small whole arrays: small_*.bin.

Usage: make_vision_goldens.py [FOLDER]     (needs torch, torchvision, transformers, Pillow, numpy)
"""
import io, random, sys, zlib
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
import transformers
from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional as F
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor, smart_resize
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

out = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/golden/vision")
out.mkdir(parents=True, exist_ok=True)


def picture(h, w, seed):
    """Tiles of noise, of a one-pixel checkerboard and of a smooth ramp: (h, w, 3) uint8."""
    y, x, c = np.meshgrid(np.arange(h, dtype=np.uint32), np.arange(w, dtype=np.uint32), np.arange(3, dtype=np.uint32), indexing="ij")
    v = (x * np.uint32(73856093)) ^ (y * np.uint32(19349663)) ^ (c * np.uint32(83492791)) ^ np.uint32(seed * 2654435761 & 0xFFFFFFFF)
    v ^= v >> np.uint32(13)
    v *= np.uint32(0x5BD1E995)
    v ^= v >> np.uint32(15)
    kind = (x // np.uint32(16) + y // np.uint32(16) + np.uint32(seed)) % np.uint32(3)
    checker = ((x ^ y) & np.uint32(1)) * np.uint32(255)
    ramp = (x * np.uint32(3) + y * np.uint32(2) + c * np.uint32(50)) & np.uint32(255)
    return np.where(kind == 0, v & np.uint32(255), np.where(kind == 1, checker, ramp)).astype(np.uint8)


def sums(a):
    b = np.ascontiguousarray(a).tobytes()
    return f"{zlib.crc32(b):08x} {zlib.adler32(b):08x}"


def resize(kind, a, dh, dw):
    if kind == "pillow":
        # Pillow up to 12 makes the horizontal pass first; 13 picks the order by cost. One axis at a time fixes the order.
        sh, sw = a.shape[:2]
        return np.asarray(Image.fromarray(a).resize((dw, sh), Image.BICUBIC).resize((dw, dh), Image.BICUBIC))
    t = torch.from_numpy(a).permute(2, 0, 1).contiguous()
    t = F.resize(t, [dh, dw], interpolation=F.InterpolationMode.BICUBIC, antialias=True)
    return t.permute(1, 2, 0).contiguous().numpy()


lines = []
rng = random.Random(20)
pairs = [(160, 240, 224, 320), (240, 160, 320, 224), (1, 1, 256, 256), (1, 1, 1, 7), (5, 900, 32, 3424), (900, 5, 3424, 32),
         (1080, 1920, 1088, 1920), (64, 64, 256, 256), (10, 10, 256, 256), (3, 2, 1, 1), (2, 3, 5, 4), (1, 400, 1, 100),
         (768, 1024, 160, 224), (333, 517, 64, 96), (1000, 1000, 32, 32), (17, 4000, 32, 64), (100, 100, 100, 250),
         (100, 100, 250, 100), (31, 33, 32, 32), (7, 5, 8, 1), (224, 320, 160, 240), (255, 257, 256, 256), (1, 9, 200, 300)]
while len(pairs) < 160:
    big = rng.choice([8, 40, 150, 400])
    pairs.append(tuple(rng.randint(1, big) for _ in range(4)))
for n, (sh, sw, dh, dw) in enumerate(pairs):
    a = picture(sh, sw, n)
    for kind in "torchvision", "pillow":
        if kind == "torchvision" and min(dh, dw, sh, sw) == 1:
            continue  # torch 2.15 itself fails on some of these (an internal assertion about channels)
        lines.append(f"resize {kind} {sh} {sw} {dh} {dw} {n} {sums(resize(kind, a, dh, dw))}")
for kind in "torchvision", "pillow":
    (out / f"small_{kind}_13x9_to_20x31.bin").write_bytes(resize(kind, picture(13, 9, 5), 20, 31).tobytes())

for n in range(600):
    big = rng.choice([40, 300, 2000, 9000])
    h, w = rng.randint(1, big), rng.randint(1, big)
    if max(h, w) / min(h, w) > 200:
        continue
    H, W = smart_resize(h, w, 32, 65536, 16777216)
    lines.append(f"size {h} {w} {H} {W}")

processor = Qwen2VLImageProcessor(patch_size=16, temporal_patch_size=2, merge_size=2, image_mean=[0.5] * 3, image_std=[0.5] * 3,
                                  size={"shortest_edge": 65536, "longest_edge": 16777216})
for n, (h, w) in enumerate([(160, 240), (320, 480), (1, 1), (5, 900), (240, 160), (77, 301), (300, 300), (640, 960)]):
    r = processor(images=[Image.fromarray(picture(h, w, n))], return_tensors="pt")
    t, gh, gw = r["image_grid_thw"][0].tolist()
    v = r["pixel_values"].numpy()
    assert v.dtype == np.float32
    lines.append(f"image {h} {w} {n} {t} {gh} {gw} {sums(v)}")

video = Qwen3VLVideoProcessor(patch_size=16, temporal_patch_size=2, merge_size=2, image_mean=[0.5] * 3, image_std=[0.5] * 3,
                              size={"shortest_edge": 4096, "longest_edge": 25165824}, cap_pixels_per_frame=False)
for k, (n, h, w) in enumerate([(6, 160, 240), (2, 64, 64), (5, 100, 70), (3, 20, 50), (7, 333, 200), (2, 9, 11)]):
    frames = np.stack([picture(h, w, 100 * k + i) for i in range(n)])
    r = video(videos=[torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()], do_sample_frames=False, return_tensors="pt")
    t, gh, gw = r["video_grid_thw"][0].tolist()
    lines.append(f"video {n} {h} {w} {100 * k} {t} {gh} {gw} {sums(r['pixel_values_videos'].numpy())}")


def save(name, image, maxdiff=0, **options):
    image.save(out / name, **options)
    check(name, maxdiff)


def check(name, maxdiff=0):
    im = ImageOps.exif_transpose(Image.open(out / name)).convert("RGB")
    a = np.asarray(im)
    lines.append(f"decode {name} {im.width} {im.height} {sums(a)} {maxdiff}")
    if maxdiff:
        (out / (name + ".rgb")).write_bytes(a.tobytes())


rgb = Image.fromarray(picture(19, 33, 7))
alpha = Image.fromarray(picture(19, 33, 8)[:, :, 0])
save("rgb.png", rgb)
rgba = rgb.copy()
rgba.putalpha(alpha)
save("rgba.png", rgba)
grey = rgb.convert("L")
save("grey.png", grey)
grey_alpha = grey.convert("LA")
grey_alpha.putalpha(alpha)
save("grey_alpha.png", grey_alpha)
save("bits1.png", grey.convert("1"))
palette = rgb.quantize(16)
save("palette4.png", palette, bits=4)
save("palette_transparent.png", rgb.quantize(200), transparency=3)
save("grey16.png", Image.fromarray(picture(19, 33, 9)[:, :, 0].astype(np.uint16) * 3))


def png(name, depth, colour, rows, interlace=0):
    """A PNG that Pillow cannot write: 16-bit colour, 2-bit grey."""
    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
    head = (33).to_bytes(4, "big") + (19).to_bytes(4, "big") + bytes([depth, colour, 0, 0, interlace])
    (out / name).write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    check(name)


noise = picture(19, 33 * 2, 11)
png("rgb16.png", 16, 2, b"".join(b"\0" + noise[y].tobytes() for y in range(19)))
png("grey2.png", 2, 0, b"".join(b"\0" + noise[y, :9, 0].tobytes() for y in range(19)))
adam7 = b""
p = picture(19, 33, 12)
for x0, y0, dx, dy in [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]:
    for y in range(y0, 19, dy):
        adam7 += b"\0" + p[y, x0::dx].tobytes()
png("interlaced.png", 8, 2, adam7, 1)
for k in range(1, 9):
    exif = Image.Exif()
    exif[0x0112] = k
    save(f"orient{k}.png", Image.fromarray(picture(5, 8, 30 + k)), exif=exif)
exif = Image.Exif()
exif[0x0112] = 6
smooth = Image.fromarray(picture(8, 12, 1)).resize((36, 24), Image.BICUBIC)
save("rgb420.jpg", smooth, 2, quality=85)
save("rgb444.jpg", smooth, 2, quality=92, subsampling=0)
save("progressive.jpg", smooth, 2, quality=80, progressive=True)
save("grey.jpg", smooth.convert("L"), 2, quality=85)
save("cmyk.jpg", smooth.convert("CMYK"), 2, quality=90)
save("orient6.jpg", smooth, 2, quality=85, exif=exif)

versions = f"transformers {transformers.__version__} torch {torch.__version__} torchvision {torchvision.__version__} Pillow {PIL.__version__}"
(out / "cases.txt").write_text(f"# made by tools/make_vision_goldens.py with {versions}\n" + "\n".join(lines) + "\n")
print(f"{len(lines)} cases, {versions}")
