# SPDX-License-Identifier: LGPL-2.1-or-later
"""peer.py OUT.json: the published model's shapes in PyTorch on the same GPU, bf16: its own linear, SDPA, conv3d. For tests/gpu/check.sh.

A forward is 40 layers of the products and attentions of one block at one step at 704x384; a decode is the decoder's convolutions of
12 frames. What stands between them (norms, positions, gates) is left out, in PyTorch's favour.
"""
import json
import sys

import torch
import torch.nn.functional as F

N, SINK, RING, TEXT, D, HEADS, FFN, LAYERS = 3168, 2640, 12672, 512, 5120, 40, 13824, 40
torch.set_grad_enabled(False)


def median_ms(run, reps=9):
    times = []
    for i in range(reps + 2):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        run()
        b.record()
        torch.cuda.synchronize()
        if i >= 2:
            times.append(a.elapsed_time(b))
    return sorted(times)[reps // 2]


def bf16(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * 0.02


def forward():
    """One layer after another with the same weights: 40 of them would not be read faster."""
    x = bf16(N, D)
    square = [(bf16(D, D), bf16(D)) for _ in range(6)]
    up, down = (bf16(FFN, D), bf16(FFN)), (bf16(D, FFN), bf16(D))
    heads = lambda t: t.view(1, -1, HEADS, D // HEADS).transpose(1, 2)
    keys, values = heads(bf16(SINK + RING, D)), heads(bf16(SINK + RING, D))
    text_k, text_v = heads(bf16(TEXT, D)), heads(bf16(TEXT, D))
    rows = lambda t: t.transpose(1, 2).reshape(-1, D)

    def run():
        for _ in range(LAYERS):
            q = F.linear(x, *square[0])
            F.linear(x, *square[1])
            F.linear(x, *square[2])
            y = F.linear(rows(F.scaled_dot_product_attention(heads(q), keys, values)), *square[3])
            q = F.linear(y, *square[4])
            y = F.linear(rows(F.scaled_dot_product_attention(heads(q), text_k, text_v)), *square[5])
            F.linear(F.gelu(F.linear(y, *up), approximate="tanh"), *down)
    return median_ms(run)


def decode():
    """(channels in, out, frames, height, width, how often) of the decoder's 3x3x3 convolutions for three latents."""
    shapes = [(16, 384, 3, 48, 88, 1), (384, 384, 3, 48, 88, 10), (384, 384, 6, 96, 176, 6), (192, 384, 6, 96, 176, 1),
              (192, 192, 12, 192, 352, 6), (96, 96, 12, 384, 704, 6), (96, 3, 12, 384, 704, 1)]
    work = []
    for cin, cout, t, h, w, nb in shapes:
        x = torch.randn(1, cin, t + 2, h, w, device="cuda", dtype=torch.bfloat16).to(memory_format=torch.channels_last_3d)
        k = torch.randn(cout, cin, 3, 3, 3, device="cuda", dtype=torch.bfloat16).to(memory_format=torch.channels_last_3d)
        work += [(x, k)] * nb

    def run():
        for x, k in work:
            F.conv3d(x, k, padding=(0, 1, 1))
    return median_ms(run, 5)


f, d = forward(), decode()
json.dump({"torch": torch.__version__, "forward_ms": f, "decode_ms": d, "fps": 12e3 / (4 * f + d)}, open(sys.argv[1], "w"))
print(f, d)
