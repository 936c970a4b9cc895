# SPDX-License-Identifier: LGPL-2.1-or-later
"""Trained networks -> a model folder in the layout of the published checkpoints (doc/model.md), bf16.

    export.py --vae vae.pt --audio audio.pt --dit dit.pt --tokenizer spiece.model --out model/nano

The published latent mean and deviation are constants of the engine, so the VAE's own statistics are folded, together with these
constants, into its 1x1x1 convolutions: (mu - MEAN) / STD is then of unit size. The LoRA holds the eight strongest directions of every
adapted matrix, with scale 0.5; the base lacks them, so base alone does not work and base + LoRA is the trained model.
"""
import argparse
import json
import os
import shutil
from collections import OrderedDict

import torch
from safetensors.torch import save_file

import audio
import dit
import parallel
import text

MEAN = torch.tensor([-.7571, -.7089, -.9113, .1075, -.1745, .9653, -.1517, 1.5508, .4134, -.0715, .5517, -.3632, -.1922, -.9497, .2503, -.2921])
STD = torch.tensor([2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160])
RANK, SCALE = 8, .5
DIT = ["diffusion_pytorch_model-00001-of-00002.safetensors", "diffusion_pytorch_model-00002-of-00002.safetensors",
       "diffusion_pytorch_model.safetensors.index.json", "liveavatar.safetensors", "models_t5_umt5-xxl-enc-bf16.pth"]


def bf16(t):
    return t.detach().to(torch.bfloat16).contiguous().clone()


def fold(sd):
    """VAE state -> the same function with the published constants in the place of its buffers"""
    sd = dict(sd)
    mean, std = sd.pop("mean"), sd.pop("std")
    w, b = sd["conv1.weight"].clone(), sd["conv1.bias"].clone()
    k = STD / std
    w[:16] *= k.view(-1, 1, 1, 1, 1)
    b[:16] = (b[:16] - mean) * k + MEAN
    sd["conv1.weight"], sd["conv1.bias"] = w, b
    w2 = sd["conv2.weight"]
    sd["conv2.bias"] = sd["conv2.bias"] + w2[:, :, 0, 0, 0] @ (mean - MEAN / k)
    sd["conv2.weight"] = w2 / k.view(1, -1, 1, 1, 1)
    return sd


def adapted(name):
    """Every linear named q, k, v, o, ffn.0, ffn.2."""
    m = name.removesuffix(".weight")
    return name.endswith(".weight") and m.startswith(("blocks.", "audio_injector.injector.")) and m.endswith((".q", ".k", ".v", ".o", ".ffn.0", ".ffn.2"))


def split(w):
    """w -> base, A [r, in], B [out, r] in bf16 with base + SCALE * B A = w, but for the rounding of base"""
    u, s, v = torch.linalg.svd(w.float(), full_matrices=False)
    r = (s[:RANK] / SCALE).sqrt()
    a, b = bf16(r[:, None] * v[:RANK]), bf16(u[:, :RANK] * r)
    return bf16(w - SCALE * (b.float() @ a.float())), a, b


def write_dit(sd, out):
    base, lora = OrderedDict(), {}
    for n in sorted(sd):
        if adapted(n):
            base[n], lora["A"], lora["B"] = split(sd[n])
            m = "base_model.model." + n.removesuffix(".weight")
            lora[m + ".lora_A.default.weight"], lora[m + ".lora_B.default.weight"] = lora.pop("A"), lora.pop("B")
        else:
            base[n] = bf16(sd[n])
    total = sum(t.numel() * 2 for t in base.values())
    shards, size = [{}, {}], 0
    for n, t in base.items():
        shards[size * 2 >= total][n] = t
        size += t.numel() * 2
    names = DIT[:2]
    for f, s in zip(names, shards):
        save_file(s, f"{out}/{f}", metadata={"format": "pt"})
    index = {"metadata": {"total_size": total}, "weight_map": {n: names[n in shards[1]] for n in sorted(base)}}
    write_json(index, f"{out}/{DIT[2]}")
    save_file(lora, f"{out}/{DIT[3]}", metadata={"format": "pt"})


def write_json(x, path):
    with open(path, "w") as f:
        json.dump(x, f, indent=2, sort_keys=True)
        f.write("\n")


def dit_config():
    c = dict(dit.CONFIG)
    c.pop("states")
    return dict(c, _class_name="WanModel_S2V", _diffusers_version="0.35.0", adain_mode="attn_norm", add_last_motion=True, cond_dim=16,
                enable_adain=True, enable_framepack=True, enable_motioner=False, enable_tsm=False, eps=1e-6, framepack_drop_mode="padd",
                in_dim=16, model_type="s2v", motion_token_num=1024, num_audio_token=4, out_dim=16, trainable_token_pos_emb=False,
                zero_init=True, zero_timestep=True)


def write_audio(sd, out):
    c, t = audio.CONFIG, {}
    for n, w in sd.items():
        if n.startswith("curves."):
            continue                                         # taught the encoder, says nothing to the DiT
        if n == "encoder.pos_conv_embed.conv.weight":        # stored with weight norm over the taps
            t["wav2vec2.encoder.pos_conv_embed.conv.weight_g"] = bf16(w.norm(dim=(0, 1), keepdim=True))
            t["wav2vec2.encoder.pos_conv_embed.conv.weight_v"] = bf16(w)
        else:                                                # the letters' head of the published file is the viseme head here
            t[n.replace("classes.", "lm_head.") if n.startswith("classes.") else "wav2vec2." + n] = bf16(w)
    t["wav2vec2.masked_spec_embed"] = bf16(torch.rand(c["hidden"], generator=torch.Generator().manual_seed(0)))   # of pre-training; unused
    os.makedirs(out, exist_ok=True)
    save_file(t, f"{out}/model.safetensors", metadata={"format": "pt"})
    write_json(dict(
        model_type="wav2vec2", architectures=["Wav2Vec2ForCTC"], hidden_size=c["hidden"], num_hidden_layers=c["layers"],
        num_attention_heads=c["heads"], intermediate_size=c["ffn"], conv_dim=[c["conv_dim"]] * 7, conv_kernel=[k for k, _ in audio.CONV],
        conv_stride=[s for _, s in audio.CONV], conv_bias=True, num_feat_extract_layers=7, feat_extract_norm="layer",
        feat_extract_activation="gelu", do_stable_layer_norm=True, num_conv_pos_embeddings=c["pos"], num_conv_pos_embedding_groups=c["groups"],
        layer_norm_eps=1e-5, hidden_act="gelu", vocab_size=len(sd["classes.bias"]), pad_token_id=0, bos_token_id=1, eos_token_id=2,
        transformers_version="4.51.3"), f"{out}/config.json")
    write_json(dict(do_normalize=True, feature_extractor_type="Wav2Vec2FeatureExtractor", feature_size=1, padding_side="right",
                    padding_value=0.0, return_attention_mask=True, sampling_rate=16000), f"{out}/preprocessor_config.json")


def taken_over(path, name, out):
    """path is a model folder, not a checkpoint: its part goes on as it is."""
    if os.path.isdir(path) and not os.path.samefile(path, out):
        if os.path.isdir(f"{path}/{name}"):
            shutil.copytree(f"{path}/{name}", f"{out}/{name}", dirs_exist_ok=True)
        else:
            shutil.copyfile(f"{path}/{name}", f"{out}/{name}")
    return os.path.isdir(path)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for n, d in (("vae", "vae.pt"), ("audio", "audio.pt"), ("dit", "dit.pt"), ("tokenizer", "spiece.model")):
        p.add_argument("--" + n, default="build/nano/" + d)
    p.add_argument("--out", default="model/nano")
    o = p.parse_args()
    os.makedirs(o.out + "/google/umt5-xxl", exist_ok=True)
    if not taken_over(o.vae, "Wan2.1_VAE.pth", o.out):
        v = fold(parallel.load(o.vae)["m"])
        torch.save(OrderedDict((n, bf16(t)) for n, t in v.items()), o.out + "/Wan2.1_VAE.pth")
    if not all([taken_over(o.dit, name, o.out) for name in DIT]):
        m = parallel.load(o.dit)["m"]
        write_dit({n[4:]: t for n, t in m.items() if n.startswith("dit.")}, o.out)
        torch.save(OrderedDict((n[3:], bf16(t)) for n, t in m.items() if n.startswith("t5.")), f"{o.out}/{DIT[-1]}")
    folder = "wav2vec2-large-xlsr-53-english"
    if not taken_over(o.audio, folder, o.out):
        write_audio(parallel.load(o.audio)["m"], f"{o.out}/{folder}")
    if not os.path.exists(spiece := o.out + "/google/umt5-xxl/spiece.model") or not os.path.samefile(o.tokenizer, spiece):
        shutil.copyfile(o.tokenizer, spiece)
    write_json(dit_config(), o.out + "/config.json")
    write_json(dict(name="nano", size="128x128", prompt=text.DEFAULT, steps=4, lora="required", motion=7), o.out + "/avatar.json")
    for d, _, fs in os.walk(o.out):
        for f in fs:
            os.chmod(os.path.join(d, f), 0o644)
    size = sum(os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk(o.out) for f in fs)
    print(f"{o.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
