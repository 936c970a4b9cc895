# SPDX-License-Identifier: LGPL-2.1-or-later
"""Parity data for the diffusion transformer: an independent implementation in NumPy, in float64.

    python3 tests/ref/dit_ref.py tests/gold/parity          (NumPy alone is needed; made with 2.4.6)

Written from the published description of the network (tokens, positions, roundings of the tables), not from this project's C
nor from the original's code, at sizes that differ from every other set: heads of 24 channels, latents whose sides are not
divisible by 4 and 8, three actors, three denoising steps, one shard of bf16 weights, LoRA of rank 2. Text and audio widths are
those of the other networks of this set, so that `ckpt` is a whole model folder. Results are rounded to float32 at the end.
"""
import json
import os
import re
import struct
import sys

import numpy as np

D, HEADS, LAYERS, FFN = 48, 2, 3, 80
HD = D // HEADS
INJECT = [0, 2]
FREQ, TEXT_LEN, TOKENS = 16, 9, 3
H, W = 10, 12                           # latents
TH, TW = H // 2, W // 2
N = TH * TW                             # tokens of a frame
STEPS, BLOCKS, SHIFT = 3, 6, 3
ACTORS = 3
EPS = 1e-6
RANK, ALPHA = 2, 1.0

rng = np.random.default_rng(2023)


# ---- files ---------------------------------------------------------------------------------------------------------

def round_bf16(x):
    u = np.ascontiguousarray(x, np.float32).view(np.uint32)
    u = u + 0x7FFF + (u >> 16 & 1)
    return (u & 0xFFFF0000).astype(np.uint32).view(np.float32)


def save(path, tensors, bf16=False):
    head, body, at = {}, [], 0
    for name, x in tensors.items():
        x = np.asarray(x)
        if np.issubdtype(x.dtype, np.integer):
            kind, data = "I64", x.astype("<i8").tobytes()
        elif bf16:
            kind, data = "BF16", (round_bf16(x).view(np.uint32) >> 16).astype("<u2").tobytes()
        else:
            kind, data = "F32", x.astype("<f4").tobytes()
        head[name] = {"dtype": kind, "shape": list(x.shape), "data_offsets": [at, at + len(data)]}
        body.append(data)
        at += len(data)
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(body))


def random(*shape):
    """Standard normal values that float32 holds exactly."""
    return rng.standard_normal(shape).astype(np.float32).astype(np.float64)


# ---- weights -------------------------------------------------------------------------------------------------------

def make_weights(text_dim, audio_dim, states):
    shapes = {"trainable_cond_mask.weight": (3, D), "head.modulation": (1, 2, D),
              "casual_audio_encoder.weights": (1, states, 1, 1), "casual_audio_encoder.encoder.padding_tokens": (1, 1, 1, D)}

    def linear(name, out, *rest):
        shapes[name + ".weight"] = (out, *rest)
        shapes[name + ".bias"] = (out,)

    def attention(name):
        for part in "qkvo":
            linear(f"{name}.{part}", D, D)
        for part in "qk":
            shapes[f"{name}.norm_{part}.weight"] = (D,)

    for name, patch in (("patch_embedding", (1, 2, 2)), ("cond_encoder", (1, 2, 2)), ("frame_packer.proj", (1, 2, 2)),
                        ("frame_packer.proj_2x", (2, 4, 4)), ("frame_packer.proj_4x", (4, 8, 8))):
        linear(name, D, 16, *patch)
    linear("text_embedding.0", D, text_dim)
    linear("text_embedding.2", D, D)
    linear("time_embedding.0", D, FREQ)
    linear("time_embedding.2", D, D)
    linear("time_projection.1", 6 * D, D)
    linear("head.head", 64, D)
    encoder = "casual_audio_encoder.encoder."
    linear(encoder + "conv1_local.conv", D // 4 * TOKENS, audio_dim, 3)
    linear(encoder + "conv1_global.conv", D // 4, audio_dim, 3)
    linear(encoder + "conv2.conv", D // 2, D // 4, 3)
    linear(encoder + "conv3.conv", D, D // 2, 3)
    linear(encoder + "final_linear", D, D)
    for i in range(LAYERS):
        shapes[f"blocks.{i}.modulation"] = (1, 6, D)
        attention(f"blocks.{i}.self_attn")
        attention(f"blocks.{i}.cross_attn")
        shapes[f"blocks.{i}.norm3.weight"] = shapes[f"blocks.{i}.norm3.bias"] = (D,)
        linear(f"blocks.{i}.ffn.0", FFN, D)
        linear(f"blocks.{i}.ffn.2", D, FFN)
    for j in range(len(INJECT)):
        attention(f"audio_injector.injector.{j}")
        linear(f"audio_injector.injector_adain_layers.{j}.linear", 2 * D, D)

    weights = {}
    for name, shape in shapes.items():
        x = random(*shape)
        if "norm" in name and name.endswith("weight"):
            x = 1 + 0.3 * x
        elif name.endswith("bias"):
            x *= 0.2
        elif name.endswith("weight") and "mask" not in name:
            x /= np.sqrt(np.prod(shape[1:]))
        else:
            x *= 0.5
        weights[name] = round_bf16(x).astype(np.float64)
    return weights


# ---- operations ----------------------------------------------------------------------------------------------------

def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3)))


def layer_norm(x, eps=EPS):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)


def attend(q, k, v):
    """Unmasked, [M, D] each, split into heads here."""
    q, k, v = (a.reshape(len(a), HEADS, HD).transpose(1, 0, 2) for a in (q, k, v))
    s = q @ k.transpose(0, 2, 1) / np.sqrt(HD)
    p = np.exp(s - s.max(-1, keepdims=True))
    return (p / p.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(q.shape[1], D)


def patches(x, t, s):
    """[C, T, h, w] -> [tokens, C t s s], tokens by frame, row, column; what does not fill a patch is dropped."""
    c, frames, h, w = x.shape
    x = x[:, :frames // t * t, :h // s * s, :w // s * s].reshape(c, frames // t, t, h // s, s, w // s, s)
    return x.transpose(1, 3, 5, 0, 2, 4, 6).reshape(-1, c * t * s * s)


def half(x):
    return x.astype(np.float32).astype(np.float16).astype(np.float64)


def table(frames, rows, columns, rounded=True):
    """Angles of all (frame, row, column), as complex numbers [tokens, HD / 2]."""
    pairs = HD // 2
    side = pairs // 3
    parts = []
    for axis, (positions, size) in enumerate(((frames, pairs - 2 * side), (rows, side), (columns, side))):
        a = np.outer(np.asarray(positions, np.float64), 10000.0 ** (-np.arange(size) / size))
        shape = [1, 1, 1, size]
        shape[axis] = len(positions)
        parts.append(np.broadcast_to(a.reshape(shape), (len(frames), len(rows), len(columns), size)))
    a = np.concatenate(parts, -1).reshape(-1, pairs)
    c, s = np.cos(a), np.sin(a)
    return half(c) + 1j * half(s) if rounded else c + 1j * s


def spread(count, size):
    return np.trunc(np.linspace(0, size - 1, count))


def sink_table(roll, h=H, w=W, rounded=True):
    th, tw = h // 2, w // 2
    return np.concatenate([
        table([30 + roll], np.arange(th), np.arange(tw), rounded),
        table([-1], np.arange(th), np.arange(tw), rounded),
        table([-3], spread(h // 4, th), spread(w // 4, tw), rounded),
        table([-19, -14, -9, -4], spread(h // 8, th), spread(w // 8, tw), rounded)])


def block_table(f, rounded=True):
    return table(np.arange(f, f + 3), np.arange(TH), np.arange(TW), rounded)


def rotate(x, angles):
    z = x.reshape(len(x), HEADS, HD // 2, 2)
    z = (z[..., 0] + 1j * z[..., 1]) * angles[:, None]
    return np.stack([z.real, z.imag], -1).reshape(len(x), D)


def pairs_of(angles):
    return np.stack([angles.real, angles.imag], -1)


# ---- the network ---------------------------------------------------------------------------------------------------

class Net:
    def __init__(self, weights, context):
        self.w = weights
        x = np.zeros((TEXT_LEN, context.shape[1]))
        x[:len(context)] = context
        self.text = self.linear("text_embedding.2", gelu(self.linear("text_embedding.0", x)))

    def linear(self, name, x):
        w = self.w[name + ".weight"]
        return x @ w.reshape(len(w), -1).T + self.w[name + ".bias"]

    def rms(self, name, x):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * self.w[name + ".weight"]

    def query(self, name, part, x):
        return self.rms(f"{name}.norm_{part}", self.linear(f"{name}.{part}", x))

    def sinusoid(self, t):
        a = float(t) * 10000.0 ** (-np.arange(FREQ // 2) / (FREQ // 2))
        return np.concatenate([np.cos(a), np.sin(a)])

    def time(self, t):
        e = self.linear("time_embedding.2", silu(self.linear("time_embedding.0", self.sinusoid(t))))
        return e, self.linear("time_projection.1", silu(e)).reshape(6, D)

    def conv(self, name, x, stride):
        """Causal convolution over time [T, C], the first row repeated in front."""
        w, b = self.w[name + ".conv.weight"], self.w[name + ".conv.bias"]
        x = np.concatenate([x[:1], x[:1], x])
        return np.stack([np.einsum("kc,ock->o", x[t:t + 3], w) + b for t in range(0, len(x) - 2, stride)])

    def encode_audio(self, a):
        """[states, C, T] -> local [T', TOKENS + 1, D], global [T', D]."""
        root = "casual_audio_encoder."
        mix = silu(self.w[root + "weights"].reshape(-1))
        x = np.einsum("sct,s->tc", a, mix) / mix.sum()
        root += "encoder."

        def trunk(y):
            y = self.conv(root + "conv2", silu(layer_norm(y)), 2)
            return silu(layer_norm(self.conv(root + "conv3", silu(layer_norm(y)), 2)))

        local = self.conv(root + "conv1_local", x, 1)
        local = [trunk(local[:, i * (D // 4):(i + 1) * (D // 4)]) for i in range(TOKENS)]
        pad = np.broadcast_to(self.w[root + "padding_tokens"].reshape(D), local[0].shape)
        return np.stack(local + [pad], 1), self.linear(root + "final_linear", trunk(self.conv(root + "conv1_global", x, 1)))

    def block_audio(self, a):
        """12 rows of a block, [states, C, 12]: 73 copies of the first in front, the last three results."""
        local, glob = self.encode_audio(np.concatenate([np.repeat(a[..., :1], 73, -1), a], -1))
        return local[-3:], glob[-3:]

    def pack(self, motion):
        x = np.zeros((16, 19, *motion.shape[2:]))
        last = motion[:, -19:]
        x[:, 19 - last.shape[1]:] = last
        return [self.linear("frame_packer.proj", patches(x[:, 18:], 1, 2)),
                self.linear("frame_packer.proj_2x", patches(x[:, 16:18], 2, 4)),
                self.linear("frame_packer.proj_4x", patches(x[:, :16], 4, 8))]

    def layer(self, i, x, e0, angles, attention, seen=None):
        """attention(q, k, v) gets the rotated query and what the keys come from."""
        name = f"blocks.{i}."
        m = self.w[name + "modulation"].reshape(6, D) + e0
        a = layer_norm(x) * (1 + m[1]) + m[0]
        q = rotate(self.query(name + "self_attn", "q", a), angles)
        y = attention(q, self.query(name + "self_attn", "k", a), self.linear(name + "self_attn.v", a))
        x = x + self.linear(name + "self_attn.o", y) * m[2]
        c = layer_norm(x) * self.w[name + "norm3.weight"] + self.w[name + "norm3.bias"]
        y = attend(self.query(name + "cross_attn", "q", c), self.query(name + "cross_attn", "k", self.text),
                   self.linear(name + "cross_attn.v", self.text))
        x = x + self.linear(name + "cross_attn.o", y)
        f = layer_norm(x) * (1 + m[4]) + m[3]
        x = x + self.linear(name + "ffn.2", gelu(self.linear(name + "ffn.0", f))) * m[5]
        if seen is not None:
            seen.append(x)
        return x

    def inject(self, i, x, audio, mask):
        """audio: (local, global) of each actor; mask [actors, 3, N] or None."""
        j = INJECT.index(i)
        name = f"audio_injector.injector.{j}"
        out = x.copy()
        for a, (local, glob) in enumerate(audio):
            for f in range(3):
                rows = slice(f * N, (f + 1) * N)
                shift, scale = np.split(self.linear(f"audio_injector.injector_adain_layers.{j}.linear", silu(glob[f])), 2)
                u = layer_norm(x[rows], 1e-5) * (1 + scale) + shift
                y = attend(self.query(name, "q", u), self.query(name, "k", local[f]), self.linear(name + ".v", local[f]))
                y = self.linear(name + ".o", y)
                out[rows] += y if mask is None else y * mask[a, f][:, None]
        return out

    def embed_sink(self, ref, motion):
        mask = self.w["trainable_cond_mask.weight"]
        return np.concatenate([self.linear("patch_embedding", patches(ref, 1, 2)) + mask[1],
                               np.concatenate(self.pack(motion)) + mask[2]])

    def sink_layer(self, i, x, e0, angles, keys, seen=None):
        def attention(q, k, v):
            keys.append((k, v))
            return attend(q, rotate(k, angles), v)
        return self.layer(i, x, e0, angles, attention, seen)

    def sink(self, ref, motion, seen=None):
        x, keys = self.embed_sink(ref, motion), []
        e0 = self.time(0)[1]
        for i in range(LAYERS):
            x = self.sink_layer(i, x, e0, sink_table(0), keys, seen)
        return keys

    def block_layer(self, i, x, e0, f, distance, sink, ring, seen=None):
        """ring: dict frame -> (rotated keys, values) of the last 12 latent frames, of this layer."""
        cond = sink_table(max(0, f - (30 - distance)))

        def attention(q, k, v):
            k = rotate(k, block_table(f))
            for j in range(3):
                ring[f + j] = k[j * N:(j + 1) * N], v[j * N:(j + 1) * N]
            for old in [frame for frame in ring if frame < f + 3 - 12]:
                del ring[old]
            keys = [ring[frame][0] for frame in sorted(ring)] + [rotate(sink[i][0], cond)]
            values = [ring[frame][1] for frame in sorted(ring)] + [sink[i][1]]
            return attend(q, np.concatenate(keys), np.concatenate(values))
        return self.layer(i, x, e0, block_table(f), attention, seen)

    def embed_block(self, x, pose):
        return (self.linear("patch_embedding", patches(x, 1, 2)) + self.linear("cond_encoder", patches(pose, 1, 2))
                + self.w["trainable_cond_mask.weight"][0])

    def block(self, x, t, f, distance, audio, sink, rings, pose=None, mask=None, seen=None):
        e, e0 = self.time(t)
        y = self.embed_block(x, np.zeros_like(x) if pose is None else pose)
        if seen is not None:
            seen["layer_in_0"] = y[None]
        for i in range(LAYERS):
            y = self.block_layer(i, y, e0, f, distance, sink, rings[i])
            if seen is not None:
                seen[f"layer_{i}_after_block"] = y[None]
            if i in INJECT:
                y = self.inject(i, y, audio, mask)
                if seen is not None:
                    seen[f"layer_{i}_after_audio"] = y[None]
        m = self.w["head.modulation"].reshape(2, D) + e
        o = self.linear("head.head", layer_norm(y) * (1 + m[1]) + m[0])
        return o.reshape(3, TH, TW, 2, 2, 16).transpose(5, 0, 1, 3, 2, 4).reshape(16, 3, H, W)


def schedule(steps, shift):
    u = np.float32(0.001)
    least = float(np.float32(shift) * u / (1 + (np.float32(shift) - 1) * u))
    u = np.linspace(1000.0, least * 1000.0, steps) / 1000
    sigma = np.append((shift * u / (1 + (shift - 1) * u)).astype(np.float32), np.float32(0))
    return sigma[:-1] * np.float32(1000), sigma


# ---- cases ---------------------------------------------------------------------------------------------------------

def heads(x):
    return x.reshape(1, len(x), HEADS, HD)


def write_parts(root, net):
    """rope, audio_encoder, frame_packer, time_embedding."""
    odd = (10, 14)
    rows = [0, 1, 5, 30, 1023]
    out = {"in.table_rows": np.array(rows), "out.table_exact": pairs_of(np.stack([table([p], [p], [p], False)[0] for p in rows]))}
    for f in (9, 600):
        out[f"out.noisy_start{f}_fp16"] = pairs_of(block_table(f))
        out[f"out.noisy_start{f}_exact"] = pairs_of(block_table(f, False))
    for roll in (0, 11):
        out[f"out.cond_rollout{roll}_fp16"] = pairs_of(sink_table(roll))
        out[f"out.cond_rollout{roll}_exact"] = pairs_of(sink_table(roll, rounded=False))
    out["out.motion_oddsize_fp16"] = pairs_of(sink_table(0, *odd)[odd[0] // 2 * (odd[1] // 2):])
    x = random(3 * N, D)
    out["in.apply_x"], out["out.apply_y_start9"] = heads(x), heads(rotate(x, block_table(9)))
    save(f"{root}/rope.safetensors", out)

    out = {}
    states = net.w["casual_audio_encoder.weights"].size
    channels = net.w["casual_audio_encoder.encoder.conv1_local.conv.weight"].shape[1]
    for t in (1, 10, 21):
        a = random(1, states, channels, t)
        local, glob = net.encode_audio(a[0])
        out[f"in.t{t}.audio"], out[f"out.t{t}.local"], out[f"out.t{t}.global"] = a, local[None], glob[None, :, None]
    a = random(1, states, channels, 12)
    local, glob = net.block_audio(a[0])
    out["in.dit_block.audio12"], out["out.dit_block.local"], out["out.dit_block.global"] = a, local[None], glob[None, :, None]
    save(f"{root}/audio_encoder.safetensors", out)

    out = {}
    for name, frames, (h, w) in (("full", 19, (8, 8)), ("short", 2, (H, W)), ("long", 20, (8, 10)), ("oddsize", 19, odd)):
        motion = random(16, frames, h, w)
        tokens = net.pack(motion)
        out[f"in.{name}.motion_latents"], out[f"out.{name}.tokens"] = motion, np.concatenate(tokens)[None]
        out[f"out.{name}.bucket_lengths"] = np.array([len(t) for t in tokens])
        out[f"out.{name}.rope_fp16"] = pairs_of(sink_table(0, h, w)[h // 2 * (w // 2):])
    save(f"{root}/frame_packer.safetensors", out)

    t = np.array([1000, 751.12109375, 8.928571701049805, 0, 3.5], np.float32)
    e, e0 = zip(*(net.time(x) for x in t))
    save(f"{root}/time_embedding.safetensors", {"in.t": t, "out.sinusoid": np.stack([net.sinusoid(x) for x in t]),
                                                 "out.e": np.stack(e), "out.e0": np.stack(e0)})


def make_inputs(root, text_dim, audio_dim, states):
    t, sigma = schedule(STEPS, SHIFT)
    s = {"noise": random(2, 16, 12, H, W), "context": random(5, text_dim), "ref_latents": random(1, 16, 1, H, W),
         "motion_latents": random(1, 16, 19, H, W), "audio_emb": random(1, states, audio_dim, 12 * BLOCKS),
         "timesteps": t, "sigmas": sigma, "motion_latents_clip1": random(1, 16, 19, H, W),
         "relative_dist_fixed": np.full((BLOCKS, STEPS), 25),
         "relative_dist_varied": rng.integers(4, 31, (BLOCKS, STEPS))}
    save(f"{root}/sampling_inputs.safetensors", {"in." + k: v for k, v in s.items()})
    return s


def audio_of(net, s, b):
    return [net.block_audio(s["audio_emb"][0, ..., 12 * b:12 * b + 12])]


def noise_of(s, b):
    return s["noise"][b // 4, :, 3 * (b % 4):3 * (b % 4) + 3]


def write_forward(root, net, s):
    out = {"in.relative_dist": np.array([21]), "in.timesteps": s["timesteps"], "in.cond_states_nonzero": random(1, 16, 3, H, W)}
    out["out.text_embedding"] = net.text[None]
    tokens = net.linear("patch_embedding", patches(noise_of(s, 0), 1, 2))
    out["out.patch_embedding_block0"] = tokens.reshape(3, TH, TW, D).transpose(3, 0, 1, 2)[None]
    layers = []
    sink = net.sink(s["ref_latents"][0], s["motion_latents"][0], layers)
    out["out.sink.layer_in_0"] = net.embed_sink(s["ref_latents"][0], s["motion_latents"][0])[None]
    out["out.sink.rope_fp16"] = pairs_of(sink_table(0))
    for i in range(LAYERS):
        out[f"out.sink.layer_out_{i}"] = layers[i][None]
        out[f"out.sink.cond_k_{i}"], out[f"out.sink.cond_v_{i}"] = heads(sink[i][0]), heads(sink[i][1])
    rings = [[{} for _ in range(LAYERS)] for _ in range(STEPS)]
    for b in range(2):
        for i in range(STEPS):
            seen = {} if b == i == 0 else None
            v = net.block(noise_of(s, b), s["timesteps"][i], 3 * b, 21, audio_of(net, s, b), sink, rings[i], seen=seen)
            out[f"out.block{b}.step{i}.velocity"] = v
            for name, x in (seen or {}).items():
                out[f"out.block0.step0.{name}"] = x
    last = rings[0][LAYERS - 1]
    out[f"out.block1.step0.cache_k_{LAYERS - 1}"] = heads(np.concatenate([last[f][0] for f in sorted(last)]))
    out[f"out.block1.step0.cache_v_{LAYERS - 1}"] = heads(np.concatenate([last[f][1] for f in sorted(last)]))
    empty = [{} for _ in range(LAYERS)]
    out["out.pose.block0.step1.velocity"] = net.block(noise_of(s, 0), s["timesteps"][1], 0, 21, audio_of(net, s, 0), sink, empty,
                                                      pose=out["in.cond_states_nonzero"][0])
    save(f"{root}/dit_forward.safetensors", out)


def write_actors(root, net, s):
    states, channels = s["audio_emb"].shape[1:3]
    audio, mask = random(ACTORS, states, channels, 12), (rng.random((ACTORS, 12, TH, TW, 1)) < 0.6).astype(np.float64)
    sink = net.sink(s["ref_latents"][0], s["motion_latents"][0])
    v = net.block(noise_of(s, 0), 500.0, 0, 9, [net.block_audio(a) for a in audio], sink, [{} for _ in range(LAYERS)],
                  mask=mask[:, :3].reshape(ACTORS, 3, N))
    save(f"{root}/dit_two_speakers.safetensors", {"in.relative_dist": np.array([9]), "in.timestep": np.array([500.0]),
                                                   "in.audio_two": audio, "in.mask": mask, "out.velocity": v})


def write_layer(root, net, s):
    """Layer 1 alone as block 5 (the ring has wrapped) with a full ring; a sink; the last injection."""
    i, f, roll = 1, 15, 4
    text, e0, zero = random(TEXT_LEN, D), random(6, D) * 0.5, random(6, D) * 0.5
    x, x_sink, xi = random(3 * N, D), random(len(sink_table(0)), D), random(3 * N, D)
    slots_k, slots_v = random(12 * N, D), random(12 * N, D)
    cond_k, cond_v = random(len(sink_table(0)), D), random(len(sink_table(0)), D)
    local, glob = random(3, TOKENS + 1, D), random(3, D)
    alone = Net(net.w, s["context"])
    alone.text = text
    # slot j of the ring holds frame 12 + j when that has been written before frame 15, else frame j
    ring = {(12 + j if j < 3 else j): (slots_k[j * N:(j + 1) * N], slots_v[j * N:(j + 1) * N]) for j in range(12)}
    y = alone.block_layer(i, x, e0, f, roll + 30 - f, {i: (cond_k, cond_v)}, ring)
    after = [ring[12 + j if j < 6 else j] for j in range(12)]
    keys = []
    y_sink = alone.sink_layer(i, x_sink, zero, sink_table(0), keys)
    save(f"{root}/transformer_block.safetensors", {
        "in.layer_index": np.array([i]), "in.current_start": np.array([f * N]), "in.original_seq_len": np.array([3 * N]),
        "in.stream.x": x[None], "in.stream.e0": e0, "in.zero.e0": zero, "in.context_embedded": text[None],
        "in.stream.cache_before.k": heads(slots_k), "in.stream.cache_before.v": heads(slots_v),
        "in.stream.cache_before.cond_k": heads(cond_k), "in.stream.cache_before.cond_v": heads(cond_v),
        "in.stream.rope_fp16": pairs_of(block_table(f)), "in.stream.rope_cond_fp16": pairs_of(sink_table(roll)),
        "out.stream.y": y[None], "out.stream.cache_after.k": heads(np.concatenate([k for k, _ in after])),
        "out.stream.cache_after.v": heads(np.concatenate([v for _, v in after])),
        "in.inject.audio_global": glob[None, :, None], "in.inject.audio_local": local[None], "in.inject.x": xi[None],
        "in.inject.layer_index": np.array(INJECT[-1:]), "out.inject.y": net.inject(INJECT[-1], xi, [(local, glob)], None)[None],
        "in.sink.x": x_sink[None], "in.sink.rope_fp16": pairs_of(sink_table(0)), "out.sink.y": y_sink[None],
        "out.sink.cache_after.cond_k": heads(keys[0][0]), "out.sink.cache_after.cond_v": heads(keys[0][1])})


def sample(net, s, blocks, steps, distances, refresh, new_motion=False):
    t, sigma = schedule(steps, SHIFT)
    rings = [[{} for _ in range(LAYERS)] for _ in range(steps)]
    sink = net.sink(s["ref_latents"][0], s["motion_latents"][0])
    result = []
    for b in range(blocks):
        if b == 4 and refresh:
            sink = net.sink(result[0][-1][:, :1], s["motion_latents_clip1" if new_motion else "motion_latents"][0])
        x, audio = noise_of(s, b), audio_of(net, s, b)
        result.append([])
        for i in range(steps):
            x = x + float(sigma[i + 1] - sigma[i]) * net.block(x, t[i], 3 * b, distances[b][i], audio, sink, rings[i])
            result[b].append(x)
    return np.array(result)


def write_sampling(root, net, s):
    fixed = np.full((BLOCKS, 100), 25)
    runs = {"tpp_varied": (s["relative_dist_varied"], True, False), "online_varied": (s["relative_dist_varied"], True, True),
            "norefresh_fixed": (fixed, False, False)}
    for name, (distances, refresh, new_motion) in runs.items():
        r = sample(net, s, BLOCKS, STEPS, distances, refresh, new_motion)
        out = {"out.latents_last_step": r[:, -1]}
        if refresh:
            out["out.ref_latents_clip1"] = r[0, -1][None, :, :1]
        save(f"{root}/sampling_{name}.safetensors", out)
    save(f"{root}/sampling_5steps.safetensors", {"out.latents": sample(net, s, 1, 5, fixed, False)})


def write_lora(root, net, s):
    targets = [n[:-len(".weight")] for n in net.w if re.search(r"\.(q|k|v|o|ffn\.0|ffn\.2)\.weight$", n)]
    lora, merged = {}, dict(net.w)
    for name in targets:
        out, inn = net.w[name + ".weight"].shape
        # few bits: the sums are exact in float32 in any order, so that no order decides how a merged weight rounds to bf16
        a, b = np.round(random(RANK, inn) * 300) / 1024, np.round(random(out, RANK) * 5) / 16
        lora[name + ".lora_A.default.weight"], lora[name + ".lora_B.default.weight"] = a, b
        merged[name + ".weight"] = net.w[name + ".weight"] + ALPHA / RANK * b @ a
    save(f"{root}/lora/liveavatar.safetensors", lora)
    save(f"{root}/lora/liveavatar_prefixed_bf16.safetensors", {"base_model.model." + k: v for k, v in lora.items()}, bf16=True)
    low = {k: round_bf16(v).astype(np.float64) for k, v in lora.items()}
    shown, result = ["blocks.1.self_attn.k", "blocks.0.ffn.0", "audio_injector.injector.0.o"], {}
    for name in shown:
        result[f"out.after_plain.{name}.weight"] = merged[name + ".weight"]
    for name in shown[:1]:
        delta = low[name + ".lora_B.default.weight"] @ low[name + ".lora_A.default.weight"]
        result[f"out.after_prefixed.{name}.weight"] = net.w[name + ".weight"] + ALPHA / RANK * delta
    # a bf16 checkpoint keeps its storage: the merged weight is rounded once
    other = Net({k: round_bf16(v).astype(np.float64) for k, v in merged.items()}, s["context"])
    sink = other.sink(s["ref_latents"][0], s["motion_latents"][0])
    result["out.block0.step0.velocity_merged"] = other.block(noise_of(s, 0), s["timesteps"][0], 0, 25, audio_of(other, s, 0), sink,
                                                              [{} for _ in range(LAYERS)])
    save(f"{root}/lora_merge.safetensors", result)


def write_config(root, text_dim, audio_dim):
    dit = {"_class_name": "WanModel_S2V", "adain_mode": "attn_norm", "add_last_motion": True, "audio_dim": audio_dim,
           "audio_inject_layers": INJECT, "cond_dim": 16, "dim": D, "enable_adain": True, "enable_framepack": True,
           "enable_motioner": False, "enable_tsm": False, "eps": EPS, "ffn_dim": FFN, "framepack_drop_mode": "padd",
           "freq_dim": FREQ, "in_dim": 16, "model_type": "s2v", "num_audio_token": TOKENS, "num_heads": HEADS, "num_layers": LAYERS,
           "out_dim": 16,
           "text_dim": text_dim, "text_len": TEXT_LEN, "zero_timestep": True}
    with open(f"{root}/ckpt/config.json", "w") as f:
        json.dump(dit, f, indent=1)
    path = f"{root}/golden_config.json"
    config = json.load(open(path)) if os.path.exists(path) else {}
    config.update({"dit": dit, "latent": [H, W], "tokens_per_frame": N, "kv_ring_tokens": 12 * N, "sampling_blocks": BLOCKS,
                   "num_frames_per_block": 3, "motion_latents": 19, "lora": {"rank": RANK, "alpha": ALPHA, "scale": ALPHA / RANK}})
    with open(path, "w") as f:
        f.write(json.dumps(config) + "\n")
    entries = []
    for steps, shift in ((1, 3), (3, 3), (4, 3), (7, 3), (4, 1), (6, 2.5)):
        t, sigma = schedule(steps, shift)
        entries.append({"steps": steps, "shift": shift, "timesteps": t.tolist(), "sigmas": sigma.tolist()})
    with open(f"{root}/schedule.json", "w") as f:
        json.dump({"flow_match_euler": entries}, f, indent=1)


def other_sizes(root):
    """Widths of the text and audio networks of this set."""
    config = json.load(open(f"{root}/golden_config.json"))
    speech = json.load(open(f"{root}/ckpt/wav2vec2-large-xlsr-53-english/config.json"))
    return config["t5"]["dim"], speech["hidden_size"], speech["num_hidden_layers"] + 1


def main():
    root = sys.argv[1]
    sizes = other_sizes(root)
    weights = make_weights(*sizes)
    save(f"{root}/ckpt/diffusion_pytorch_model.safetensors", weights, bf16=True)
    write_config(root, *sizes[:2])
    s = make_inputs(root, *sizes)
    net = Net(weights, s["context"])
    write_parts(root, net)
    write_forward(root, net, s)
    write_actors(root, net, s)
    write_layer(root, net, s)
    write_sampling(root, net, s)
    write_lora(root, net, s)


if __name__ == "__main__":
    main()
