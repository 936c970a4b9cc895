# SPDX-License-Identifier: LGPL-2.1-or-later
"""Wan 2.1's causal video VAE at any base width, whole-clip form (equal to any chunking): [B,3,T,H,W], T = 1 + 4k.

Module names are those of the published file, so state_dict() is what export.py writes. Traps: the first frame bypasses the
temporal convolutions; F.normalize over channels is five times slower here than x * rsqrt(sum).
"""
import torch
import torch.nn as nn
import torch.nn.functional as F


class Causal(nn.Conv3d):
    def __init__(self, i, o, k=3):
        super().__init__(i, o, k)

    def forward(self, x):
        kt, p = self.kernel_size[0], self.kernel_size[1] // 2
        if kt == 1:
            return F.conv3d(x, self.weight, self.bias)
        if x.shape[2] == 1:                                  # only the newest tap sees data
            return F.conv2d(x[:, :, 0], self.weight[:, :, -1], self.bias, padding=p).unsqueeze(2)
        return F.conv3d(F.pad(x, (0, 0, 0, 0, kt - 1, 0)), self.weight, self.bias, padding=(0, p, p))


class Norm(nn.Module):
    def __init__(self, c, dims=3):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(c, *([1] * dims)))
        self.scale = c ** .5

    def forward(self, x):
        gain = (self.gamma * self.scale).to(x.dtype)         # in bf16 arithmetic everything stays bf16: a third of the encoder's time
        return x * torch.rsqrt(x.square().sum(1, keepdim=True).clamp_min(1e-24)) * gain


class Res(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.residual = nn.Sequential(Norm(i), nn.SiLU(), Causal(i, o), Norm(o), nn.SiLU(), nn.Dropout(0), Causal(o, o))
        self.shortcut = Causal(i, o, 1) if i != o else nn.Identity()
        nn.init.normal_(self.residual[6].weight, std=1e-3)   # starts as the identity
        nn.init.zeros_(self.residual[6].bias)

    def forward(self, x):
        return self.residual(x) + self.shortcut(x)


class Attn(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm, self.to_qkv, self.proj = Norm(c, 2), nn.Conv2d(c, 3 * c, 1), nn.Conv2d(c, c, 1)
        nn.init.normal_(self.proj.weight, std=1e-3)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x):
        b, c, t, h, w = x.shape
        y = x.transpose(1, 2).reshape(b * t, c, h, w)
        q, k, v = self.to_qkv(self.norm(y)).reshape(b * t, 3, c, h * w).transpose(2, 3).unbind(1)
        o = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0].transpose(1, 2).reshape(b * t, c, h, w)
        return x + self.proj(o).reshape(b, t, c, h, w).transpose(1, 2)


def per_frame(f, x):
    b, c, t, h, w = x.shape
    y = f(x.transpose(1, 2).reshape(b * t, c, h, w))
    return y.reshape(b, t, *y.shape[1:]).transpose(1, 2)


class Down(nn.Module):
    def __init__(self, c, time):
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(c, c, 3, stride=2))
        self.time_conv = nn.Conv3d(c, c, (3, 1, 1), stride=(2, 1, 1)) if time else None
        if time:                                             # starts as the mean of two frames
            nn.init.normal_(self.time_conv.weight, std=.02)
            with torch.no_grad():
                self.time_conv.weight[:, :, 1:, 0, 0] += .5 * torch.eye(c)[:, :, None]

    def forward(self, x):
        x = per_frame(self.resample, x)
        if self.time_conv is not None and x.shape[2] > 1:
            x = torch.cat([x[:, :, :1], self.time_conv(x)], 2)
        return x


class Up(nn.Module):
    def __init__(self, c, time):
        super().__init__()
        self.resample = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(c, c // 2, 3, padding=1))
        self.time_conv = nn.Conv3d(c, 2 * c, (3, 1, 1)) if time else None
        if time:                                             # starts as a repetition
            nn.init.normal_(self.time_conv.weight, std=.02)
            with torch.no_grad():
                self.time_conv.weight[:, :, 2, 0, 0] += torch.cat([torch.eye(c)] * 2)

    def forward(self, x):
        if self.time_conv is not None and x.shape[2] > 1:
            y = self.time_conv(F.pad(x[:, :, 1:], (0, 0, 0, 0, 2, 0)))
            b, c, t, h, w = y.shape
            y = y.reshape(b, 2, c // 2, t, h, w).permute(0, 2, 3, 1, 4, 5).reshape(b, c // 2, 2 * t, h, w)
            x = torch.cat([x[:, :, :1], y], 2)
        return per_frame(self.resample, x)


class Encoder(nn.Module):
    def __init__(self, d, z=16):
        super().__init__()
        a, b, c = d, 2 * d, 4 * d
        self.conv1 = Causal(3, a)
        self.downsamples = nn.Sequential(Res(a, a), Res(a, a), Down(a, False), Res(a, b), Res(b, b), Down(b, True),
                                         Res(b, c), Res(c, c), Down(c, True), Res(c, c), Res(c, c))
        self.middle = nn.Sequential(Res(c, c), Attn(c), Res(c, c))
        self.head = nn.Sequential(Norm(c), nn.SiLU(), Causal(c, 2 * z))

    def forward(self, x):
        return self.head(self.middle(self.downsamples(self.conv1(x))))


class Decoder(nn.Module):
    def __init__(self, d, z=16):
        super().__init__()
        a, b, c = d, 2 * d, 4 * d
        self.conv1 = Causal(z, c)
        self.middle = nn.Sequential(Res(c, c), Attn(c), Res(c, c))
        self.upsamples = nn.Sequential(Res(c, c), Res(c, c), Res(c, c), Up(c, True), Res(b, c), Res(c, c), Res(c, c), Up(c, True),
                                       Res(b, b), Res(b, b), Res(b, b), Up(b, False), Res(a, a), Res(a, a), Res(a, a))
        self.head = nn.Sequential(Norm(a), nn.SiLU(), Causal(a, 3))

    def forward(self, x):
        return self.head(self.upsamples(self.middle(self.conv1(x))))


BIAS, LEVEL = 6, 4.                                          # residual stream: colours, their negatives, a constant


@torch.no_grad()
def keep_colours(m):
    """An untrained network that already carries the mean colour of every 8x8 square from picture to picture.

    Only x / |x| passes a norm, so a network must first learn to keep how bright a large area is, and does so slowly: after 1300 steps
    that was three quarters of the squared error of long clips. Here the stream carries, through the shortcuts and the resampling
    filters, the colours, their negatives, and a constant that outweighs the rest: (x, LEVEL) / |(x, LEVEL)| keeps x, and
    silu(u) - silu(-u) = u takes it through the heads.
    """
    n = BIAS + 1

    def pass_on(w, bias, taps):
        """w [out, in, ...]: channel i < n of out is that of in at the taps {place: weight}; the others do not see the constant"""
        w[:, BIAS] = 0
        w[:n], bias[:n] = 0, 0
        for at, k in taps.items():
            for i in range(n):
                w[(i, i) + at] = k

    def enter(conv):
        w = conv.weight
        w[:n], conv.bias[:n] = 0, 0
        for i in range(3):
            w[i, i, -1, 1, 1], w[3 + i, i, -1, 1, 1] = 1, -1
        conv.bias[BIAS] = LEVEL

    def leave(head):
        head[0].gamma.fill_(LEVEL / head[0].scale)
        w = head[2].weight
        w[:3], head[2].bias[:3] = 0, 0
        for i in range(3):
            w[i, i, -1, 1, 1], w[i, 3 + i, -1, 1, 1] = 1, -1

    for part in (m.encoder, m.decoder):
        enter(part.conv1)
        leave(part.head)
        for x in part.modules():
            if isinstance(x, Res):
                x.residual[0].gamma.fill_(LEVEL / x.residual[0].scale)
                x.residual[0].gamma[BIAS] = .1
                if isinstance(x.shortcut, Causal):
                    pass_on(x.shortcut.weight, x.shortcut.bias, {(0, 0, 0): 1})
            if isinstance(x, Down):                          # the mean of four
                pass_on(x.resample[1].weight, x.resample[1].bias, {(a, b): .25 for a in (0, 1) for b in (0, 1)})
            if isinstance(x, Up):                            # of repeated pixels: bilinear
                pass_on(x.resample[1].weight, x.resample[1].bias,
                        {(a, b): (1 + (a == 1)) * (1 + (b == 1)) / 16 for a in range(3) for b in range(3)})
            if isinstance(x, (Down, Up)) and x.time_conv is not None:
                w, bias, c = x.time_conv.weight, x.time_conv.bias, x.time_conv.in_channels
                for a in range(0, len(w), c):
                    pass_on(w[a:a + c], bias[a:a + c], {(t, 0, 0): .5 for t in (1, 2)} if isinstance(x, Down) else {(2, 0, 0): 1})
    for conv in (m.conv1, m.conv2):
        conv.weight.normal_(0, .05)
        conv.bias.zero_()
        conv.weight[:, :, 0, 0, 0] += torch.eye(len(conv.weight))
    m.conv1.bias[len(m.conv1.bias) // 2:] = -4                # log of the variance
    return m


class VAE(nn.Module):
    """moments/render work on raw latents; encode/decode on normalised ones. mean and std are not part of the published file:
    export.py folds them, with the published constants, into conv1 and conv2."""

    def __init__(self, d=16, z=16):
        super().__init__()
        self.encoder, self.decoder = Encoder(d, z), Decoder(d, z)
        self.conv1, self.conv2 = Causal(2 * z, 2 * z, 1), Causal(z, z, 1)
        self.register_buffer("mean", torch.zeros(z))
        self.register_buffer("std", torch.ones(z))

    def moments(self, x):
        return self.conv1(self.encoder(x)).chunk(2, 1)

    def render(self, z):
        return self.decoder(self.conv2(z))

    def encode(self, x):
        return (self.moments(x)[0] - self.mean.view(1, -1, 1, 1, 1)) / self.std.view(1, -1, 1, 1, 1)

    def decode(self, z):
        return self.render(z * self.std.view(1, -1, 1, 1, 1) + self.mean.view(1, -1, 1, 1, 1)).clamp(-1, 1)

    def channels_last(self):
        """2.6 times faster on a CPU."""
        for p in self.parameters():
            if p.dim() == 5:
                p.data = p.data.contiguous(memory_format=torch.channels_last_3d)
            if p.dim() == 4:
                p.data = p.data.contiguous(memory_format=torch.channels_last)
        return self
