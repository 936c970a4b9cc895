# SPDX-License-Identifier: LGPL-2.1-or-later
"""A tiny VAE with seeded random weights and what diffusers' AutoencoderKLWan makes of it.

    pip install torch diffusers safetensors numpy
    python tests/ref/vae_ref.py [tests/gold/parity]

Writes ckpt/Wan2.1_VAE.pth (the original's names), vae.safetensors and vae_stages.safetensors, which tests/parity/vae.c
reads. Everything is computed in float64 and rounded to float32 at the end.
"""
import collections
import math
import pathlib
import re
import sys

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from safetensors.numpy import save_file

WIDTH = 5               # odd, unlike any published file
H, W = 32, 24           # pixels
FRAMES = 13
LATENTS = 10


RENAMES = [                                         # in this order: the residual blocks' conv1 before the top level's
    (r"mid_block\.resnets\.0", "middle.0"),
    (r"mid_block\.attentions\.0", "middle.1"),
    (r"mid_block\.resnets\.1", "middle.2"),
    (r"down_blocks", "downsamples"),
    (r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"upsamples.{4 * int(m[1]) + int(m[2])}"),
    (r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"upsamples.{4 * int(m[1]) + 3}"),
    (r"\.norm1\.", ".residual.0."),
    (r"\.conv1\.", ".residual.2."),
    (r"\.norm2\.", ".residual.3."),
    (r"\.conv2\.", ".residual.6."),
    (r"conv_shortcut", "shortcut"),
    (r"conv_in", "conv1"),
    (r"norm_out", "head.0"),
    (r"conv_out", "head.2"),
    (r"post_quant_conv", "conv2"),
    (r"quant_conv", "conv1"),
]


def original_name(name):
    """The name that Wan's own code gives to a parameter of diffusers' model."""
    for pattern, to in RENAMES:
        name = re.sub(pattern, to, name)
    return name


def make_model():
    torch.manual_seed(20)
    vae = AutoencoderKLWan(base_dim=WIDTH).double().eval()
    with torch.no_grad():
        for name, p in vae.named_parameters():
            if name.endswith("gamma"):
                value = 1 + 0.25 * torch.randn(p.shape)
            elif name.endswith("bias"):
                value = 0.1 * torch.randn(p.shape)
            else:
                value = torch.randn(p.shape) / math.sqrt(p[0].numel())
            p.copy_(value)                                          # an f32 value: the file holds it exactly
    return vae


def make_inputs():
    rng = np.random.default_rng(21)
    t, y, x = np.meshgrid(np.arange(FRAMES), np.arange(H), np.arange(W), indexing="ij")
    wave = [np.sin(0.5 * t + 0.3 * y + 0.2 * x * (c + 1)) for c in range(3)]
    video = 127.5 + 70 * np.stack(wave, -1) + 30 * rng.standard_normal((FRAMES, H, W, 3))
    return video.clip(0, 255).astype(np.uint8), rng.standard_normal((16, LATENTS, H // 8, W // 8)).astype(np.float32)


class Watch:
    """Keeps the results of named modules, numbered by call."""

    def __init__(self):
        self.seen, self.calls = {}, collections.Counter()

    def on(self, module, side, box):
        def hook(_module, _inputs, out):
            self.seen[f"out.chunk{self.calls[side + box]}.{side}.{box}"] = out.detach()
            self.calls[side + box] += 1
        module.register_forward_hook(hook)


def watch(vae):
    w = Watch()
    w.on(vae.post_quant_conv, "dec", "post_quant_conv2")
    for side, net in ("enc", vae.encoder), ("dec", vae.decoder):
        w.on(net.conv_in, side, "conv1")
        w.on(net.mid_block.resnets[0], side, "middle0_res")
        w.on(net.mid_block.attentions[0], side, "middle1_attn")
        w.on(net.mid_block.resnets[1], side, "middle2_res")
        w.on(net.conv_out, side, "head")
    for k in 1, 2, 4, 5, 7, 8, 10:
        w.on(vae.encoder.down_blocks[k], "enc", f"downsamples{k}")
    for i, block in enumerate(vae.decoder.up_blocks):
        w.on(block.resnets[2], "dec", f"upsamples{4 * i + 2}_res")
        if block.upsamplers is not None:
            w.on(block.upsamplers[0], "dec", f"upsamples{4 * i + 3}_upsample")
    return w


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/gold/parity")
    (root / "ckpt").mkdir(parents=True, exist_ok=True)
    vae = make_model()
    state = collections.OrderedDict((original_name(k), v.float().clone()) for k, v in vae.state_dict().items())
    torch.save(state, root / "ckpt" / "Wan2.1_VAE.pth")

    mean = torch.tensor(vae.config.latents_mean, dtype=torch.float64).view(1, 16, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std, dtype=torch.float64).view(1, 16, 1, 1, 1)
    video, z = make_inputs()
    pixels = torch.from_numpy(video).double().permute(3, 0, 1, 2)[None] / 255 * 2 - 1
    latents = torch.from_numpy(z).double()[None]

    def encode(x):
        return ((vae.encode(x).latent_dist.mode() - mean) / std)[0]

    def decode(x):
        return vae.decode(x * std + mean).sample[0]

    out = {"in.video_u8": video, f"in.latents{LATENTS}": z,
           "in.latent_mean": mean.flatten().float().numpy(), "in.latent_std": std.flatten().float().numpy()}
    stages = {}
    with torch.no_grad():
        for n in 1, 5, FRAMES:
            out[f"out.encode{n}"] = encode(pixels[:, :, :n])
        out["out.encode9_static"] = encode(pixels[:, :, :1].repeat(1, 1, 9, 1, 1))
        out["out.decode1"] = decode(latents[:, :, :1])
        out[f"out.decode{LATENTS}"] = decode(latents)
        w = watch(vae)
        encode(pixels[:, :, :5])
        decode(latents[:, :, :2])
        stages.update(w.seen)
    # diffusers has no streaming decoder; that pieces equal the whole is what the original promises
    out["out.stream_decode_piece_lengths"] = np.array([1] + [12] * ((LATENTS - 1) // 3), np.int64)
    out["out.stream_prime7_piece_lengths"] = np.array([25] + [12] * ((LATENTS - 7) // 3), np.int64)
    out["out.stream_vs_onego_maxabs"] = out["out.stream_prime7_vs_onego_maxabs"] = np.zeros(1, np.float32)

    def plain(tensors):
        return {k: np.ascontiguousarray(v.float().numpy() if torch.is_tensor(v) else v) for k, v in tensors.items()}

    save_file(plain(out), root / "vae.safetensors")
    save_file(plain(stages), root / "vae_stages.safetensors")
    config = root / "golden_config.json"
    if not config.exists():
        config.write_text("{}\n")
    for k, v in sorted({**plain(out), **plain(stages)}.items()):
        print(f"{k:44} {str(list(v.shape)):24} rms {np.sqrt(np.mean(np.square(v.astype(np.float64)))):.3f}")


main()
