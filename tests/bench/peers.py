# SPDX-License-Identifier: LGPL-2.1-or-later
"""peers.py DIR THREADS: the works of the bench in PyTorch, on the weights and inputs in DIR.

A word a line on stdin: "hello", "precision f32|bf16" (bf16: autocast), "open WORK", "first" (one pass whose result is written to WORK.out.f32, not timed by the bench),
"run". The answer is "ok WALL CPU", seconds of the pass, or "no REASON".
"""
import inspect
import os
import sys
import time

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

folder = sys.argv[1]
torch.set_num_threads(int(sys.argv[2]))
torch.set_flush_denormal(True)
torch.set_grad_enabled(False)
ACT = torch.float32


def weights(network):
    return {k: v.float() for k, v in load_file(f"{folder}/{network}.safetensors").items()}


def array(name, *shape):
    return torch.from_numpy(np.fromfile(f"{folder}/{name}.f32", np.float32)).reshape(*shape)


def rotate(x, table, out=None):
    y = torch.view_as_real(torch.view_as_complex(x.float().view(*x.shape[:-1], -1, 2)) * table[:, None]).flatten(-2)
    return y.to(x.dtype) if out is None else out.copy_(y)


class Dit:
    """Layers of a block: ring and condition keys lie side by side, so that nothing is joined in a pass."""
    D, HEADS, LAYERS, FRAME, SLOT = 1536, 12, 4, 256, 6

    def __init__(self):
        self.w = {k: v.to(ACT) if v.dim() > 1 and "modulation" not in k else v for k, v in weights("dit").items()}
        self.x0, self.e0 = array("dit.x", -1, self.D), array("dit.e0", 6, self.D)
        self.rope, self.rope_sink = (torch.view_as_complex(array(n, -1, self.D // self.HEADS // 2, 2)) for n in ("dit.rope", "dit.rope_sink"))
        keys = lambda name, i: array(f"dit.{name}{i}", -1, self.HEADS, self.D // self.HEADS).to(ACT)
        self.k = [torch.cat([keys("ring_k", i), keys("sink_k", i)]) for i in range(self.LAYERS)]
        self.v = [torch.cat([keys("ring_v", i), keys("sink_v", i)]) for i in range(self.LAYERS)]
        self.sink_k = [keys("sink_k", i) for i in range(self.LAYERS)]
        self.text = [(keys("text_k", i), keys("text_v", i)) for i in range(self.LAYERS)]

    def linear(self, x, name):
        return F.linear(x, self.w[name + ".weight"], self.w[name + ".bias"])

    def heads(self, x):
        return x.view(-1, self.HEADS, self.D // self.HEADS)

    def attention(self, q, k, v):
        q, k, v = (t.transpose(0, 1)[None] for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).reshape(-1, self.D)

    def project(self, u, name, norm):
        return self.heads(F.rms_norm(self.linear(u, name), (self.D,), self.w[norm + ".weight"], 1e-6))

    def layer(self, x, i):
        b, n, ring = f"blocks.{i}.", 3 * self.FRAME, 12 * self.FRAME
        m, at = self.w[b + "modulation"].view(6, -1) + self.e0, self.SLOT * self.FRAME
        u = F.layer_norm(x, (self.D,), eps=1e-6) * (1 + m[1]) + m[0]
        q = rotate(self.project(u, b + "self_attn.q", b + "self_attn.norm_q"), self.rope)
        rotate(self.project(u, b + "self_attn.k", b + "self_attn.norm_k"), self.rope, self.k[i][at:at + n])
        self.v[i][at:at + n] = self.heads(self.linear(u, b + "self_attn.v"))
        rotate(self.sink_k[i], self.rope_sink, self.k[i][ring:])
        x = x + m[2] * self.linear(self.attention(q, self.k[i], self.v[i]), b + "self_attn.o")
        u = F.layer_norm(x, (self.D,), self.w[b + "norm3.weight"], self.w[b + "norm3.bias"], 1e-6)
        q = self.project(u, b + "cross_attn.q", b + "cross_attn.norm_q")
        x = x + self.linear(self.attention(q, *self.text[i]), b + "cross_attn.o")
        u = F.layer_norm(x, (self.D,), eps=1e-6) * (1 + m[4]) + m[3]
        return x + m[5] * self.linear(F.gelu(self.linear(u, b + "ffn.0"), approximate="tanh"), b + "ffn.2")

    def __call__(self):
        x = self.x0
        for i in range(self.LAYERS):
            x = self.layer(x, i)
        return x


def wan_vae():
    from diffusers import AutoencoderKLWan
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
    vae = AutoencoderKLWan().eval()
    w = convert_wan_vae_to_diffusers({k: v for k, v in weights("vae").items()})
    vae.load_state_dict({k: v.reshape(vae.state_dict()[k].shape) for k, v in w.items()})
    return vae, torch.tensor(vae.config.latents_mean).view(-1, 1, 1, 1), torch.tensor(vae.config.latents_std).view(-1, 1, 1, 1)


class VaeDecode:
    """The class decodes whole clips; its own caches, kept from call to call, make it a stream."""

    def __init__(self):
        self.vae, mean, std = wan_vae()
        self.z = array("vae.z", 3, 16, 32, 32).transpose(0, 1) * std + mean
        self.first = "first_chunk" in inspect.signature(self.vae.decoder.forward).parameters
        self.vae.clear_cache()
        self.decode(array("vae.z0", 2, 16, 32, 32).transpose(0, 1) * std + mean, True)

    def decode(self, z, first):
        x, out = self.vae.post_quant_conv(z[None]), []
        for t in range(x.shape[2]):
            self.vae._conv_idx = [0]
            more = {"first_chunk": first and t == 0} if self.first else {}
            out.append(self.vae.decoder(x[:, :, t:t + 1], feat_cache=self.vae._feat_map, feat_idx=self.vae._conv_idx, **more))
        return torch.cat(out, 2).clamp_(-1, 1)

    def __call__(self):
        return self.decode(self.z, False)[0].permute(1, 2, 3, 0)


class VaeEncode:
    def __init__(self):
        self.vae, self.mean, self.std = wan_vae()
        self.px = array("vae.still", 1, 256, 256, 3).permute(3, 0, 1, 2)[None].repeat(1, 1, 73, 1, 1)

    def __call__(self):
        z = self.vae.encode(self.px).latent_dist.mode()[0]
        return ((z - self.mean) / self.std).transpose(0, 1)


class Wav2Vec2:
    def __init__(self):
        from transformers import Wav2Vec2Config, Wav2Vec2Model
        config = Wav2Vec2Config(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, conv_bias=True,
                                feat_extract_norm="layer", do_stable_layer_norm=True, num_conv_pos_embeddings=128,
                                num_conv_pos_embedding_groups=16, attn_implementation="sdpa")
        self.net = Wav2Vec2Model(config).eval()
        have, pos = self.net.state_dict(), "encoder.pos_conv_embed.conv."
        w = {}
        for k, v in weights("wav2vec2").items():
            k = k.removeprefix("wav2vec2.")
            k = k.replace(pos + "weight_g", pos + "parametrizations.weight.original0").replace(pos + "weight_v", pos + "parametrizations.weight.original1")
            w[k] = v.reshape(have[k].shape)
        self.net.load_state_dict(w, strict=False)
        self.pcm = array("wav2vec2.pcm", 1, -1)

    def __call__(self):
        return self.net(self.pcm, output_hidden_states=True).last_hidden_state


class Umt5:
    NAMES = {"attn.q": "0.SelfAttention.q", "attn.k": "0.SelfAttention.k", "attn.v": "0.SelfAttention.v", "attn.o": "0.SelfAttention.o",
             "norm1": "0.layer_norm", "norm2": "1.layer_norm", "ffn.gate.0": "1.DenseReluDense.wi_0", "ffn.fc1": "1.DenseReluDense.wi_1",
             "ffn.fc2": "1.DenseReluDense.wo", "pos_embedding.embedding": "0.SelfAttention.relative_attention_bias"}

    def __init__(self):
        from transformers import UMT5Config, UMT5EncoderModel
        config = UMT5Config(vocab_size=512, d_model=4096, d_kv=64, d_ff=10240, num_layers=2, num_heads=64, dropout_rate=0,
                            feed_forward_proj="gated-gelu")
        self.net = UMT5EncoderModel(config).eval()
        w = {}
        for k, v in weights("umt5").items():
            if k.startswith("blocks."):
                _, i, k = k.split(".", 2)
                w[f"encoder.block.{i}.layer.{self.NAMES[k.removesuffix('.weight')]}.weight"] = v
            elif k == "norm.weight":
                w["encoder.final_layer_norm.weight"] = v
            else:
                w["shared.weight"] = w["encoder.embed_tokens.weight"] = v
        self.net.load_state_dict(w, strict=False)
        self.ids = torch.tensor([[i * 7 % 500 for i in range(128)]])

    def __call__(self):
        return self.net(self.ids).last_hidden_state


WORKS = {"dit": Dit, "vae_decode": VaeDecode, "vae_encode": VaeEncode, "wav2vec2": Wav2Vec2, "umt5": Umt5}


def main():
    global ACT
    name = work = None
    for line in sys.stdin:
        wall = cpu = 0.0
        try:
            word, *rest = line.split()
            if word == "precision":
                ACT = torch.bfloat16 if rest[0] == "bf16" else torch.float32
            elif word == "open":
                name, work = rest[0], None
                with torch.autocast("cpu", torch.bfloat16, enabled=ACT == torch.bfloat16):
                    work = WORKS[name]()
            elif word != "hello":
                wall, cpu = time.perf_counter(), time.process_time()
                with torch.autocast("cpu", torch.bfloat16, enabled=ACT == torch.bfloat16):
                    result = work()
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                if word == "first":
                    result.float().contiguous().numpy().tofile(f"{folder}/{name}.out.f32")
            print(f"ok {wall} {cpu}", flush=True)
        except Exception as e:
            print("no", type(e).__name__, str(e).replace("\n", " ")[:800], flush=True)


main()
