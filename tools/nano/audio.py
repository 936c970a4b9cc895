# SPDX-License-Identifier: LGPL-2.1-or-later
"""wav2vec2 (stable layer norm) at toy width; module names are those of the published file. Two heads that are not exported teach
it: the viseme class and the eight motion curves, at 50 Hz from the last hidden state. Frame k is centred on sample 320 k + 200.
"""
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import motion

CONV = [(10, 5)] + [(3, 2)] * 4 + [(2, 2)] * 2               # kernel, stride
CONFIG = dict(conv_dim=64, hidden=128, layers=4, heads=4, ffn=256, pos=128, groups=16)


class ConvLayer(nn.Module):
    """[B, T, i] -> [B, (T - k) // s + 1, o]. A row of the product is the k samples under the kernel, which lie side by side: with time
    before channels nothing is turned around between layers: a training step takes two thirds of what it takes with Conv1d."""

    def __init__(self, i, o, k, s):
        super().__init__()
        self.conv, self.layer_norm = nn.Conv1d(i, o, k, s), nn.LayerNorm(o)

    def forward(self, x):
        (k,), (s,) = self.conv.kernel_size, self.conv.stride
        x = x.unfold(1, k, s).transpose(2, 3).flatten(2)     # [B, T', k i]
        return F.gelu(self.layer_norm(F.linear(x, self.conv.weight.transpose(1, 2).flatten(1), self.conv.bias)))


class Attention(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(d, d) for _ in range(4))

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = (p(x).view(b, t, self.heads, -1).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d))


class FeedForward(nn.Module):
    def __init__(self, d, f):
        super().__init__()
        self.intermediate_dense, self.output_dense = nn.Linear(d, f), nn.Linear(f, d)

    def forward(self, x):
        return self.output_dense(F.gelu(self.intermediate_dense(x)))


class Layer(nn.Module):
    def __init__(self, d, heads, f):
        super().__init__()
        self.attention, self.layer_norm = Attention(d, heads), nn.LayerNorm(d)
        self.feed_forward, self.final_layer_norm = FeedForward(d, f), nn.LayerNorm(d)

    def forward(self, x):
        x = x + self.attention(self.layer_norm(x))
        return x + self.feed_forward(self.final_layer_norm(x))


class Holder(nn.Module):
    """A name in the tree."""

    def __init__(self, **parts):
        super().__init__()
        for k, v in parts.items():
            setattr(self, k, v)


class Wav2Vec2(nn.Module):
    def __init__(self, conv_dim=64, hidden=128, layers=4, heads=4, ffn=256, pos=128, groups=16):
        super().__init__()
        convs = [ConvLayer(conv_dim if i else 1, conv_dim, k, s) for i, (k, s) in enumerate(CONV)]
        self.feature_extractor = Holder(conv_layers=nn.ModuleList(convs))
        self.feature_projection = Holder(layer_norm=nn.LayerNorm(conv_dim), projection=nn.Linear(conv_dim, hidden))
        self.encoder = Holder(pos_conv_embed=Holder(conv=nn.Conv1d(hidden, hidden, pos, padding=pos // 2, groups=groups)),
                              layers=nn.ModuleList([Layer(hidden, heads, ffn) for _ in range(layers)]), layer_norm=nn.LayerNorm(hidden))
        self.classes, self.curves = nn.Linear(hidden, len(motion.NAMES)), nn.Linear(hidden, 8)

    def forward(self, w):
        """[B, n] normalised sound -> hidden states, layers + 1 times [B, T, hidden]"""
        x = w[..., None]
        for c in self.feature_extractor.conv_layers:
            x = c(x)
        p, e = self.feature_projection, self.encoder
        x = p.projection(p.layer_norm(x))
        x = x + F.gelu(e.pos_conv_embed.conv(x.transpose(1, 2))[..., :-1]).transpose(1, 2)
        states = [x]
        for layer in e.layers:
            x = layer(x)
            states.append(x)
        states[-1] = e.layer_norm(x)
        return states


def normalise(w):
    return ((w - w.mean()) / np.sqrt(w.var() + 1e-7)).astype(np.float32)


def targets(wave, seg, c):
    """-> viseme class [T], curves [T, 8] at 50 Hz"""
    n = (len(wave) - 400) // 320 + 1
    t = (np.arange(n) * 320 + 200) / 16000
    k = np.zeros(n, np.int64)
    for s, e, v in seg:
        k[(t >= s) & (t < e)] = motion.NAMES.index(v)
    at = (np.arange(len(c)) + .5) / 25
    return k, np.stack([np.interp(t, at, c[:, i]) for i in range(8)], 1).astype(np.float32)


@torch.no_grad()
def features(model, wave, nb_frames):
    """The product's rows (doc/model.md): 50 Hz states, 30 Hz row j at 5j/3, frame i takes row (12 i + 5) div 10.
    -> [states, hidden, nb_frames]"""
    blocks = -(-nb_frames // 12)
    x = normalise(wave)
    mean, dev = wave.mean(), np.sqrt(wave.var() + 1e-7)      # of the real samples; the rest is digital silence
    n = 7680 * blocks + 80
    x = np.concatenate([x[:n], np.full(max(0, n - len(x)), -mean / dev, np.float32)])
    h = torch.stack(model(torch.as_tensor(x)[None]))[:, 0]
    p = torch.tensor([(12 * i + 5) // 10 for i in range(nb_frames)], dtype=torch.float64) * 5 / 3
    i0 = p.floor().long().clamp(max=h.shape[1] - 1)
    i1 = (i0 + 1).clamp(max=h.shape[1] - 1)
    f = (p - p.floor()).float()[:, None]
    return (h[:, i0] * (1 - f) + h[:, i1] * f).transpose(1, 2)
