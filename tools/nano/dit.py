# SPDX-License-Identifier: LGPL-2.1-or-later
"""Live Avatar's diffusion transformer at any size, module names as in the published file.

Three ways in: sink() makes the condition keys and values; forward() is training, all blocks of a clip at one time step, attention
looped per block over at most four blocks and the re-rotated sink; step() is one denoise step of one block with its ring. On the
same inputs forward() and step() agree, so teacher-forced training is the streaming computation (tests/nano/test_nano.py).
"""
import torch
import torch.nn as nn
import torch.nn.functional as F

SIGMAS = [1.0, 0.857692301273346, 0.602150559425354, 0.008928571827709675, 0.0]      # four steps, shift 3 applied twice
CONFIG = dict(dim=192, num_heads=3, num_layers=4, ffn_dim=768, audio_inject_layers=[0, 1, 2], audio_dim=128, states=5, text_dim=64,
              text_len=64, freq_dim=64)


class RMS(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


class Attention(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(d, d) for _ in range(4))
        self.norm_q, self.norm_k = RMS(d), RMS(d)

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def qkv(self, x, c=None):
        c = x if c is None else c
        return self.split(self.norm_q(self.q(x))), self.split(self.norm_k(self.k(c))), self.split(self.v(c))

    def join(self, y):
        return self.o(y.transpose(-3, -2).flatten(-2))

    def forward(self, x, c):
        return self.join(F.scaled_dot_product_attention(*self.qkv(x, c)))


class Block(nn.Module):
    def __init__(self, d, heads, f):
        super().__init__()
        self.self_attn, self.cross_attn = Attention(d, heads), Attention(d, heads)
        self.norm3 = nn.LayerNorm(d, 1e-6)
        self.ffn = nn.Sequential(nn.Linear(d, f), nn.GELU("tanh"), nn.Linear(f, d))
        self.modulation = nn.Parameter(torch.randn(1, 6, d) / d ** .5)


class Patch(nn.Module):
    """A strided conv3d as a product: weight [D, C, t, p, p], patches ordered channel, frame, row, column."""

    def __init__(self, c, d, t, p):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(d, c, t, p, p)), nn.Parameter(torch.zeros(d))
        nn.init.normal_(self.weight, std=(c * t * p * p) ** -.5)

    def forward(self, z):
        _, _, t, p, _ = self.weight.shape
        b, c, n, h, w = z.shape
        x = z[..., :h // p * p, :w // p * p].reshape(b, c, n // t, t, h // p, p, w // p, p)
        x = x.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, (n // t) * (h // p) * (w // p), -1)
        return F.linear(x, self.weight.flatten(1), self.bias)


class CausalConv(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.conv = nn.Conv1d(i, o, 3, stride)

    def forward(self, x):
        return self.conv(F.pad(x, (2, 0), mode="replicate"))


class AudioTokens(nn.Module):
    def __init__(self, a, d):
        super().__init__()
        self.padding_tokens = nn.Parameter(torch.randn(1, 1, 1, d) * .02)
        self.conv1_local, self.conv1_global = CausalConv(a, d, 1), CausalConv(a, d // 4, 1)
        self.conv2, self.conv3 = CausalConv(d // 4, d // 2, 2), CausalConv(d // 2, d, 2)
        self.final_linear = nn.Linear(d, d)

    @staticmethod
    def norm(x):
        return F.silu(F.layer_norm(x.transpose(1, 2), x.shape[1:2], eps=1e-6)).transpose(1, 2)

    def trunk(self, x):
        return self.norm(self.conv3(self.norm(self.conv2(self.norm(x))))).transpose(1, 2)


class AudioEncoder(nn.Module):
    def __init__(self, a, d, states):
        super().__init__()
        self.weights = nn.Parameter(torch.full((1, states, 1, 1), .5))
        self.encoder = AudioTokens(a, d)

    def forward(self, a):
        """[B, states, A, 12] -> local [B, 3, 5, D], global [B, 3, D]; one copy of the first frame stands for upstream's 73"""
        e, w = self.encoder, F.silu(self.weights)
        x = (a * w).sum(1) / w.sum()
        x = torch.cat([x[..., :1], x], -1)
        b = x.shape[0]
        loc = e.conv1_local(x)
        loc = e.trunk(loc.reshape(b * 4, -1, loc.shape[-1]))
        loc = loc.reshape(b, 4, 4, -1).transpose(1, 2)[:, 1:]
        glo = e.final_linear(e.trunk(e.conv1_global(x)))[:, 1:]
        return torch.cat([loc, e.padding_tokens.expand(b, 3, 1, -1)], 2), glo


class Holder(nn.Module):
    """A name in the tree."""

    def __init__(self, **parts):
        super().__init__()
        for k, v in parts.items():
            setattr(self, k, v)


def layer_norm(x, eps=1e-6):
    return F.layer_norm(x, x.shape[-1:], eps=eps)


def rotate(x, cs):
    c, s = cs
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * c - b * s, a * s + b * c], -1).flatten(-2)


def grid(frames, rows, cols):
    return [(f, y, x) for f in frames for y in rows for x in cols]


def spread(n, k):
    """k of the positions 0..n-1, ends included, truncated."""
    return [int(i * (n - 1) / (k - 1)) if i < k - 1 else n - 1 for i in range(k)] if k > 1 else [0]


def noisy_positions(f0, h, w):
    return grid(range(f0, f0 + 3), range(h), range(w))


def sink_positions(roll, h, w):
    """h, w: latent size"""
    rows, cols = range(h // 2), range(w // 2)
    return (grid([30 + roll], rows, cols) + grid([-1], rows, cols) + grid([-3], spread(h // 2, h // 4), spread(w // 2, w // 4))
            + grid([-19, -14, -9, -4], spread(h // 2, h // 8), spread(w // 2, w // 8)))


class DiT(nn.Module):
    def __init__(self, dim, num_heads, num_layers, ffn_dim, audio_inject_layers, audio_dim, states, text_dim, text_len, freq_dim):
        super().__init__()
        d = dim
        self.dim, self.freq_dim, self.text_len, self.head_dim, self.inject = d, freq_dim, text_len, d // num_heads, list(audio_inject_layers)
        self.patch_embedding, self.cond_encoder = Patch(16, d, 1, 2), Patch(16, d, 1, 2)
        self.frame_packer = Holder(proj=Patch(16, d, 1, 2), proj_2x=Patch(16, d, 2, 4), proj_4x=Patch(16, d, 4, 8))
        self.trainable_cond_mask = nn.Embedding(3, d)
        self.text_embedding = nn.Sequential(nn.Linear(text_dim, d), nn.GELU("tanh"), nn.Linear(d, d))
        self.time_embedding = nn.Sequential(nn.Linear(freq_dim, d), nn.SiLU(), nn.Linear(d, d))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(d, 6 * d))
        self.blocks = nn.ModuleList([Block(d, num_heads, ffn_dim) for _ in range(num_layers)])
        self.casual_audio_encoder = AudioEncoder(audio_dim, d, states)      # the published name has this spelling
        self.audio_injector = Holder(injector=nn.ModuleList([Attention(d, num_heads) for _ in self.inject]),
                                     injector_adain_layers=nn.ModuleList([Holder(linear=nn.Linear(d, 2 * d)) for _ in self.inject]))
        self.head = Holder(head=nn.Linear(d, 64), modulation=nn.Parameter(torch.randn(1, 2, d) / d ** .5))

    # ---- parts ----------------------------------------------------------------------------------
    def table(self, pos):
        """[(frame, row, column)] -> cos, sin [T, head_dim / 2]"""
        p = self.head_dim // 2
        ph = p // 3
        pf = p - 2 * ph
        pos = torch.as_tensor(pos, dtype=torch.float64)

        def freq(n):
            return 10000. ** (-torch.arange(n, dtype=torch.float64) / n)
        a = torch.cat([pos[:, :1] * freq(pf), pos[:, 1:2] * freq(ph), pos[:, 2:] * freq(ph)], 1)
        return a.cos().float(), a.sin().float()

    def time(self, t):
        """[B] -> e [B, D], E [B, 6, D]"""
        h = self.freq_dim // 2
        a = t.double()[:, None] * 10000. ** (-torch.arange(h, dtype=torch.float64) / h)
        e = self.time_embedding(torch.cat([a.cos(), a.sin()], 1).float())
        return e, self.time_projection(e).view(-1, 6, self.dim)

    def context(self, rows):
        """[B, n, text_dim], rows beyond a prompt's end zero -> [B, text_len, D]; padding rows take part"""
        return self.text_embedding(F.pad(rows, (0, 0, 0, self.text_len - rows.shape[1])))

    def layer(self, b, x, E, ctx, attend):
        """attend(q, k, v) -> y, all [B, NH, T, hd]"""
        m = [u[:, None] for u in (b.modulation + E).unbind(1)]
        x = x + b.self_attn.join(attend(*b.self_attn.qkv(layer_norm(x) * (1 + m[1]) + m[0]))) * m[2]
        x = x + b.cross_attn(b.norm3(x), ctx.expand(len(x), -1, -1))
        return x + b.ffn(layer_norm(x) * (1 + m[4]) + m[3]) * m[5]

    def inject_audio(self, j, x, loc, glo):
        """x [B, T, D]; loc [B, frames, 5, D]; glo [B, frames, D]"""
        b, t, d = x.shape
        n = glo.shape[1]
        xs = x.view(b, n, t // n, d)
        shift, scale = self.audio_injector.injector_adain_layers[j].linear(F.silu(glo)).chunk(2, -1)
        h = layer_norm(xs, 1e-5) * (1 + scale[:, :, None]) + shift[:, :, None]
        return x + self.audio_injector.injector[j](h, loc).reshape(b, t, d)

    def tokens(self, z):
        return self.patch_embedding(z) + self.cond_encoder.bias + self.trainable_cond_mask.weight[0]   # no pose: its bias alone

    def out(self, x, e, t, h, w):
        m = self.head.modulation[0]
        o = self.head.head(layer_norm(x) * (1 + m[1] + e[:, None]) + m[0] + e[:, None])
        return o.reshape(len(o), t, h // 2, w // 2, 2, 2, 16).permute(0, 6, 1, 2, 4, 3, 5).reshape(len(o), 16, t, h, w)

    # ---- passes ---------------------------------------------------------------------------------
    def sink(self, ref, motion, ctx):
        """ref [B,16,1,H,W], motion [B,16,19,H,W], ctx from context() -> per layer (k not rotated, v)"""
        p, mask = self.frame_packer, self.trainable_cond_mask.weight
        x = torch.cat([self.patch_embedding(ref) + mask[1], p.proj(motion[:, :, -1:]) + mask[2], p.proj_2x(motion[:, :, -3:-1]) + mask[2],
                       p.proj_4x(motion[:, :, -19:-3]) + mask[2]], 1)
        E = self.time(torch.zeros(1))[1]
        cs = self.table(sink_positions(0, *ref.shape[-2:]))
        kv = []

        def attend(q, k, v):
            kv.append((k, v))
            return F.scaled_dot_product_attention(rotate(q, cs), rotate(k, cs), v)
        for b in self.blocks:
            x = self.layer(b, x, E, ctx, attend)
        return kv

    def forward(self, z, t, audio, sink, ctx, f0=0, rd=17, window=4):
        """z [B,16,3G,H,W] at time t [B], audio [B,states,A,12G] -> velocity; f0: latent frame index of the first block"""
        bs, _, n, h, w = z.shape
        g, per = n // 3, 3 * h * w // 4
        a = audio.reshape(bs, *audio.shape[1:3], g, 12).permute(0, 3, 1, 2, 4).flatten(0, 1)
        loc, glo = self.casual_audio_encoder(a)
        loc, glo = loc.reshape(bs, n, 5, -1), glo.reshape(bs, n, -1)
        e, E = self.time(t)
        x = self.tokens(z)
        own = self.table([p for i in range(g) for p in noisy_positions(f0 + 3 * i, h // 2, w // 2)])
        cond = [self.table(sink_positions(max(0, f0 + 3 * i - 30 + rd), h, w)) for i in range(g)]
        for i, b in enumerate(self.blocks):
            ck, cv = sink[i]

            def attend(q, k, v):
                q, k, y = rotate(q, own), rotate(k, own), []
                for j in range(g):
                    lo, hi = max(0, j - window + 1) * per, (j + 1) * per
                    y.append(F.scaled_dot_product_attention(q[:, :, j * per:hi], torch.cat([k[:, :, lo:hi], rotate(ck, cond[j])], 2),
                                                            torch.cat([v[:, :, lo:hi], cv], 2)))
                return torch.cat(y, 2)
            x = self.layer(b, x, E, ctx, attend)
            if i in self.inject:
                x = self.inject_audio(self.inject.index(i), x, loc, glo)
        return self.out(x, e, n, h, w)

    def step(self, z, t, loc, glo, sink, ctx, ring, f0, rd):
        """One block, z [B,16,3,H,W]; ring: per layer a list of (k, v), at most four blocks, changed in place"""
        _, _, n, h, w = z.shape
        e, E = self.time(t)
        x = self.tokens(z)
        own = self.table(noisy_positions(f0, h // 2, w // 2))
        cond = self.table(sink_positions(max(0, f0 - 30 + rd), h, w))
        for i, b in enumerate(self.blocks):
            ck, cv = sink[i]

            def attend(q, k, v):
                ring[i].append((rotate(k, own), v))
                del ring[i][:-4]
                return F.scaled_dot_product_attention(rotate(q, own), torch.cat([u[0] for u in ring[i]] + [rotate(ck, cond)], 2),
                                                      torch.cat([u[1] for u in ring[i]] + [cv], 2))
            x = self.layer(b, x, E, ctx, attend)
            if i in self.inject:
                x = self.inject_audio(self.inject.index(i), x, loc, glo)
        return self.out(x, e, n, h, w)

    @torch.no_grad()
    def generate(self, ref, motion, audio, rows, gen, sigmas=SIGMAS, refresh=True):
        """audio [B,states,A,12G] -> latents [B,16,3G,H,W]: a ring per step; from block 4 on the sink's reference is the first
        generated latent"""
        ctx = self.context(rows)
        sink = self.sink(ref, motion, ctx)
        rings = [[[] for _ in self.blocks] for _ in sigmas[1:]]
        out = []
        for g in range(audio.shape[-1] // 12):
            if g == 4 and refresh:
                sink = self.sink(out[0][:, :, :1], motion, ctx)
            loc, glo = self.casual_audio_encoder(audio[..., 12 * g:12 * g + 12])
            x = torch.randn(len(ref), 16, 3, *ref.shape[-2:], generator=gen)
            rd = 4 + int(torch.randint(27, (1,), generator=gen))
            for i in range(len(sigmas) - 1):
                t = torch.full((len(ref),), 1000 * sigmas[i])
                x = x + (sigmas[i + 1] - sigmas[i]) * self.step(x, t, loc, glo, sink, ctx, rings[i], 3 * g, rd)
            out.append(x)
        return torch.cat(out, 2)


@torch.no_grad()
def initialise(m):
    """Small outputs, and two heads of every layer that start as positions: head 0 looks at its own row and column in every frame,
    head 1 at those of the sink alone. Copying the picture then works from the first steps."""
    for n, p in m.named_parameters():
        if p.dim() == 2 and "mask" not in n:
            nn.init.normal_(p, std=p.shape[1] ** -.5 * (.5 if n.endswith("o.weight") or "ffn.2" in n else 1))
        elif n.endswith("bias"):
            nn.init.zeros_(p)
    mask = m.trainable_cond_mask.weight
    nn.init.normal_(mask, std=.02)
    m.head.head.weight *= .1
    m.time_projection[1].weight *= .1
    for a in m.audio_injector.injector_adain_layers:
        a.linear.weight *= .1
    p = m.head_dim // 2
    ph = p // 3
    pf = p - 2 * ph
    mask[0, 0], mask[1:, 0] = -2., 2.
    for b in m.blocks:
        a = b.self_attn
        b.modulation[0, [2, 5]] += .5
        for h in (0, 1):
            for lin, norm in ((a.q, a.norm_q), (a.k, a.norm_k)):
                lin.weight[h * m.head_dim:(h + 1) * m.head_dim] *= .3
                for axis in (pf, pf + ph):
                    for i, gain in enumerate((7., 5., 3.)):  # the highest frequencies of rows and columns
                        c = h * m.head_dim + 2 * (axis + i)
                        lin.weight[c] *= .1
                        lin.bias[c] = 1.
                        norm.weight[c] = gain
        c = m.head_dim + 2 * (pf - 1)                        # the slowest frame frequency carries "is sink"
        a.q.weight[c], a.q.bias[c], a.norm_q.weight[c] = 0, 1., 3.
        a.k.weight[c], a.k.weight[c, 0], a.norm_k.weight[c] = 0, 1., 3.
    return m
