# SPDX-License-Identifier: LGPL-2.1-or-later
"""A model folder read back from its files, and the product's path in PyTorch: portrait + speech -> frames.

    model.py --model model/nano --face face.png --wav hello.wav [--prompt TEXT] -o out.mp4

The noise comes from torch's generator, not from the engine's (kernels/base/philox.h); everything else is the product's semantics.
"""
import argparse
import json
import os

import numpy as np
import sentencepiece
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file

import audio
import dit
import export
import parallel
import text
import vae


class Nano:
    def __init__(self, folder):
        def js(f):
            with open(f"{folder}/{f}") as h:
                return json.load(h)
        c, meta = js("config.json"), js("avatar.json")
        self.size, self.prompt = tuple(int(x) for x in meta["size"].split("x")), meta["prompt"]
        sd = {}
        for f in sorted(set(js("diffusion_pytorch_model.safetensors.index.json")["weight_map"].values())):
            sd.update(load_file(f"{folder}/{f}"))
        lora = load_file(folder + "/liveavatar.safetensors")
        for n in sd:
            a = f"base_model.model.{n.removesuffix('.weight')}.lora_A.default.weight"
            if a in lora:
                sd[n] = (sd[n].float() + export.SCALE * lora.pop(a.replace("lora_A", "lora_B")).float() @ lora.pop(a).float()).to(torch.bfloat16)
        assert not lora, "LoRA names that match nothing"
        wav = "wav2vec2-large-xlsr-53-english"
        aud = {n.removeprefix("wav2vec2.").replace("lm_head.", "classes."): t.float() for n, t in load_file(f"{folder}/{wav}/model.safetensors").items()}
        g, v = aud.pop("encoder.pos_conv_embed.conv.weight_g"), aud.pop("encoder.pos_conv_embed.conv.weight_v")
        aud["encoder.pos_conv_embed.conv.weight"] = g * v / v.norm(dim=(0, 1), keepdim=True)
        w = js(wav + "/config.json")
        self.audio = audio.Wav2Vec2(w["conv_dim"][0], w["hidden_size"], w["num_hidden_layers"], w["num_attention_heads"],
                                    w["intermediate_size"], w["num_conv_pos_embeddings"], w["num_conv_pos_embedding_groups"])
        bad = self.audio.load_state_dict({n: t for n, t in aud.items() if n != "masked_spec_embed"}, strict=False)
        assert not bad.unexpected_keys and all(n.startswith("curves.") for n in bad.missing_keys), bad
        keys = ("dim", "num_heads", "num_layers", "ffn_dim", "audio_inject_layers", "audio_dim", "text_dim", "text_len", "freq_dim")
        self.dit = dit.DiT(**{k: c[k] for k in keys}, states=w["num_hidden_layers"] + 1)
        self.dit.load_state_dict({n: t.float() for n, t in sd.items()})
        t5 = torch.load(folder + "/models_t5_umt5-xxl-enc-bf16.pth")
        rows, dim = t5["token_embedding.weight"].shape
        self.t5 = text.T5(rows, dim, t5["blocks.0.pos_embedding.embedding.weight"].shape[1], len(t5["blocks.0.ffn.fc1.weight"]),
                          1 + max(int(n.split(".")[1]) for n in t5 if n.startswith("blocks.")))
        self.t5.load_state_dict({n: t.float() for n, t in t5.items()})
        self.spm = sentencepiece.SentencePieceProcessor(model_file=folder + "/google/umt5-xxl/spiece.model")
        v = torch.load(folder + "/Wan2.1_VAE.pth")
        self.vae = vae.VAE(v["decoder.conv1.weight"].shape[0] // 4)
        self.vae.load_state_dict({**{n: t.float() for n, t in v.items()}, "mean": export.MEAN, "std": export.STD})
        self.vae.channels_last()
        for m in (self.audio, self.dit, self.t5, self.vae):
            m.eval()

    def picture(self, path):
        """The product's crop and resize -> f32 [3, H, W] in [-1, 1]"""
        w, h = self.size
        im = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        s = max(w / im.width, h / im.height)
        bw, bh = w / s, h / s
        x, y = (im.width - bw) / 2, (im.height - bh) / 2
        im = im.resize((w, h), Image.BILINEAR, box=(x, y, x + bw, y + bh))
        return torch.from_numpy(np.array(im)).permute(2, 0, 1).float() / 127.5 - 1

    @torch.no_grad()
    def still(self, pictures):
        """[B,3,H,W] -> reference latent [B,16,1,h,w] (one frame), motion latents [B,16,19,h,w] (73 frames)"""
        x = pictures[:, :, None]
        return self.vae.encode(x), torch.cat([self.vae.encode(p.expand(-1, -1, 73, -1, -1)) for p in x.split(1)])

    @torch.no_grad()
    def decode(self, motion, z):
        """Latents [1,16,T,h,w] after the first seven motion latents -> frames [4T, H, W, 3] in 0..1. In pieces that reach 40 latents
        back, which is all that the decoder sees."""
        z = torch.cat([motion[:, :, :7], z], 2)
        out = []
        for a in range(7, z.shape[2], 24):
            lo = max(0, a - 40)
            y = self.vae.decode(z[:, :, lo:a + 24].contiguous(memory_format=torch.channels_last_3d))[0, :, 4 * (a - lo) - 3:]
            out.append((y.permute(1, 2, 3, 0) + 1) / 2)
        return torch.cat(out).numpy()

    @torch.no_grad()
    def latents(self, pictures, waves, prompts, seed=0):
        """All of one length -> motion latents, generated latents [B,16,3G,h,w]"""
        ref, motion = self.still(pictures)
        n = -(-len(waves[0]) // 640)
        a = torch.stack([audio.features(self.audio, w, -(-n // 12) * 12) for w in waves])
        rows = self.t5(*text.batch(self.spm, prompts, self.dit.text_len))
        return motion, self.dit.generate(ref, motion, a, rows, torch.Generator().manual_seed(seed))

    def talk(self, pictures, waves, prompts=None, seed=0):
        """-> list of frames [n, H, W, 3] in 0..1, one list entry per picture"""
        motion, z = self.latents(pictures, waves, prompts or [self.prompt] * len(waves), seed)
        n = -(-len(waves[0]) // 640)
        return [self.decode(motion[i:i + 1], z[i:i + 1])[:n] for i in range(len(waves))]


def load_vae(path):
    """A checkpoint, or a model folder."""
    if os.path.isdir(path):
        return Nano(path).vae
    d = parallel.load(path)
    m = vae.VAE(d["width"])
    m.load_state_dict(d["m"])
    return m.channels_last().eval()


def load_audio(path):
    if os.path.isdir(path):
        return Nano(path).audio
    m = audio.Wav2Vec2(**audio.CONFIG)
    m.load_state_dict(parallel.load(path)["m"])
    return m.eval()


def write_video(path, frames, wave):
    """[n,H,W,3] in 0..1 and 16 kHz sound -> mp4"""
    import av
    with av.open(path, "w") as c:
        v = c.add_stream("libx264", rate=25, options={"crf": "16"})
        v.width, v.height, v.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        s = c.add_stream("aac", rate=16000, layout="mono")
        for f in frames:
            c.mux(v.encode(av.VideoFrame.from_ndarray((f * 255).round().clip(0, 255).astype(np.uint8), "rgb24")))
        a = av.AudioFrame.from_ndarray((wave.clip(-1, 1) * 32767).astype(np.int16)[None], "s16", "mono")
        a.sample_rate = 16000
        c.mux(s.encode(a))
        c.mux(v.encode(None))
        c.mux(s.encode(None))


def main():
    import speech
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", default="model/nano")
    p.add_argument("--face", required=True)
    p.add_argument("--wav", required=True)
    p.add_argument("--prompt")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("-o", "--output", default="out.mp4")
    o = p.parse_args()
    m, w = Nano(o.model), speech.read(o.wav)
    write_video(o.output, m.talk(m.picture(o.face)[None], [w], [o.prompt] if o.prompt else None, o.seed)[0], w)


if __name__ == "__main__":
    main()
