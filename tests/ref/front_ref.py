# SPDX-License-Identifier: LGPL-2.1-or-later
"""Parity data for what stands in front of the transformer: umT5, wav2vec2, feature rows, text cleaning, tokenizer.

    python3 tests/ref/front_ref.py tests/gold/parity

Independent of this project's C and of the original's code: transformers' UMT5EncoderModel and Wav2Vec2Model, ftfy,
sentencepiece, torch's interpolation, at sizes, head counts and layer counts of their own, with seeded weights. The set is laid
out as tests/parity wants it; sizes in golden_config.json are merged with what is there. Stored differently on purpose: umT5 as
bf16 safetensors, wav2vec2 as f16 without prefix and with torch's new spelling of the weight norm (the arithmetic is float32
on the rounded weights).

Made with transformers 4.51.3, torch 2.15.0, ftfy 6.3.1, sentencepiece 0.2.3, safetensors 0.8.0, numpy 2.4.
"""
import html
import io
import json
import math
import os
import re
import sys

import ftfy
import numpy as np
import sentencepiece
import torch
from safetensors.torch import save_file
from transformers import UMT5Config, UMT5EncoderModel, Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

WAV2VEC2 = "ckpt/wav2vec2-large-xlsr-53-english"
CLIP = 48


def path(root, name):
    p = os.path.join(root, name)
    os.makedirs(os.path.dirname(p), exist_ok=True)
    return p


def write_json(root, name, value):
    with open(path(root, name), "w") as f:
        f.write(json.dumps(value).replace("}, {", "},\n{").replace("]], ", "]],\n") + "\n")


def seed_weights(model, seed, dtype):
    """Values of a trained model's order of magnitude, rounded to the storage type; nothing is zero."""
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            z = torch.randn(p.shape, generator=gen)
            if "norm" in name and name.endswith("weight"):
                z = 1 + 0.2 * z
            elif "relative_attention_bias" in name:
                z = 0.7 * z
            elif "original0" in name:
                z = 0.5 + z.abs()
            elif p.dim() > 1 and "shared" not in name and "embed_tokens" not in name:
                z = z / math.sqrt(p[0].numel())
            elif name.endswith("bias"):
                z = 0.1 * z
            p.copy_(z.to(dtype).float())
    return model.eval().float()


# ---- umT5 ------------------------------------------------------------------------------------------------------------

T5_NAMES = {
    "layer.0.layer_norm.weight": "norm1.weight",
    "layer.0.SelfAttention.q.weight": "attn.q.weight",
    "layer.0.SelfAttention.k.weight": "attn.k.weight",
    "layer.0.SelfAttention.v.weight": "attn.v.weight",
    "layer.0.SelfAttention.o.weight": "attn.o.weight",
    "layer.0.SelfAttention.relative_attention_bias.weight": "pos_embedding.embedding.weight",
    "layer.1.layer_norm.weight": "norm2.weight",
    "layer.1.DenseReluDense.wi_0.weight": "ffn.gate.0.weight",
    "layer.1.DenseReluDense.wi_1.weight": "ffn.fc1.weight",
    "layer.1.DenseReluDense.wo.weight": "ffn.fc2.weight",
}


def t5_name(name):
    if name == "shared.weight":
        return "token_embedding.weight"
    if name == "encoder.final_layer_norm.weight":
        return "norm.weight"
    layer, rest = re.fullmatch(r"encoder\.block\.(\d+)\.(.*)", name).groups()
    return "blocks.%s.%s" % (layer, T5_NAMES[rest])


def make_t5(root, vocab):
    cfg = UMT5Config(vocab_size=vocab, d_model=48, d_kv=12, num_heads=5, d_ff=72, num_layers=4, relative_attention_num_buckets=32,
                     relative_attention_max_distance=128, feed_forward_proj="gated-gelu", layer_norm_epsilon=1e-6, dropout_rate=0.0)
    model = seed_weights(UMT5EncoderModel(cfg), 11, torch.bfloat16)
    save_file({t5_name(n): p.detach().to(torch.bfloat16).clone() for n, p in model.named_parameters()},
              path(root, "ckpt/models_t5_umt5-xxl-enc-bf16.safetensors"))
    gen = torch.Generator().manual_seed(12)
    out = {}
    for name, total, real in (("short", 24, 9), ("full", 24, 24), ("one", 24, 1), ("long", 200, 187)):
        ids = torch.randint(2, vocab, (1, total), generator=gen)
        ids[0, real - 1] = 1
        ids[0, real:] = 0
        mask = (torch.arange(total) < real).long()[None]
        with torch.no_grad():
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        out.update({f"in.{name}.ids": ids, f"in.{name}.mask": mask, f"out.{name}.hidden": hidden,
                    f"out.{name}.context": hidden[0, :real]})
    rel = torch.arange(-600, 601)
    bucket = model.encoder.block[0].layer[0].SelfAttention._relative_position_bucket(rel)
    out.update({"in.relpos": rel, "out.relpos_bucket": bucket})
    save_file({k: v.contiguous().clone() for k, v in out.items()}, path(root, "t5.safetensors"))
    return {"vocab_size": vocab, "dim": 48, "dim_attn": 60, "dim_ffn": 72, "num_heads": 5, "num_layers": 4, "num_buckets": 32}


# ---- wav2vec2 and feature rows ---------------------------------------------------------------------------------------

def interpolate(hidden):
    """[layers, T, D] at 50 Hz -> [layers, len, D] at 30 Hz, ends aligned."""
    n = int(hidden.shape[1] / float(50) * 30)
    return torch.nn.functional.interpolate(hidden.transpose(1, 2), size=n, mode="linear", align_corners=True).transpose(1, 2)


def frame_rows(rows, fps, clip):
    """Which 30 Hz row feeds each video frame (-1: none), and the number of clips."""
    clips = int(rows / (clip * (30 / fps))) + 1
    nb = clips * clip
    duration = nb / fps
    index = np.round(np.linspace(0, duration, nb, endpoint=False) * 30).astype(int)
    index = np.clip(index, 0, math.ceil(duration * 30) - 1)
    return [int(i) if i < rows else -1 for i in index], clips


def pick(rows30):
    """[layers, len, D] -> [1, layers, D, frames]"""
    index, clips = frame_rows(rows30.shape[1], 25, CLIP)
    out = torch.zeros(1, rows30.shape[0], rows30.shape[2], len(index))
    for i, row in enumerate(index):
        if row >= 0:
            out[0, :, :, i] = rows30[:, row]
    return out, clips


def waves():
    rng = np.random.default_rng(21)
    t = np.arange(21000) / 16000
    vowel = sum(np.sin(2 * np.pi * f * t * (1 + 0.02 * np.sin(5 * t))) / f for f in (140, 280, 560, 1120, 2240)) * 40
    syllables = vowel * (0.5 - 0.5 * np.cos(2 * np.pi * 4 * t)) + 0.01 * rng.standard_normal(t.size)
    click = np.zeros(6000)
    click[4000:4020] = 0.8
    return {"syllables": syllables, "noise": 0.2 * rng.standard_normal(7333), "click": click, "least": rng.standard_normal(400),
            "shifted": 0.1 * rng.standard_normal(5001) - 0.4}


def make_wav2vec2(root):
    cfg = Wav2Vec2Config(hidden_size=40, num_hidden_layers=12, num_attention_heads=5, intermediate_size=56,
                         conv_dim=[8, 12, 16, 12, 16, 20, 24], num_conv_pos_embeddings=64, num_conv_pos_embedding_groups=5,
                         feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True, vocab_size=33, layerdrop=0.0)
    cfg._attn_implementation = "eager"
    model = seed_weights(Wav2Vec2Model(cfg), 22, torch.float16)
    save_file({n: p.detach().to(torch.float16).clone() for n, p in model.named_parameters()},
              path(root, WAV2VEC2 + "/model.safetensors"))
    with open(path(root, WAV2VEC2 + "/config.json"), "w") as f:
        f.write(cfg.to_json_string(use_diff=False))
    extractor = Wav2Vec2FeatureExtractor(feature_size=1, sampling_rate=16000, do_normalize=True, return_attention_mask=True)
    extractor.save_pretrained(path(root, WAV2VEC2))
    out = {}
    for name, wave in waves().items():
        wave = wave.astype(np.float32)
        x = extractor(wave, sampling_rate=16000, return_tensors="pt").input_values
        with torch.no_grad():
            hidden = torch.stack(model(x, output_hidden_states=True).hidden_states)[:, 0]
        shown = [0, 1, 6, 11, 12] if name != "click" else range(13)
        out.update({f"in.{name}.wave": torch.from_numpy(wave), f"out.{name}.normalized": x[0],
                    f"out.{name}.hidden": hidden[list(shown)]})
        if name in ("syllables", "noise"):
            out[f"out.{name}.features25"] = pick(interpolate(hidden))[0][:, ::3]
    save_file({k: v.contiguous().clone() for k, v in out.items()}, path(root, "wav2vec2.safetensors"))
    hidden = torch.randn(7, 131, 24, generator=torch.Generator().manual_seed(23))
    rows = interpolate(hidden)
    picked, clips = pick(rows)
    save_file({"in.hidden_50fps": hidden, "out.feat_30fps": rows.contiguous(), "out.audio_emb": picked,
               "out.num_clips": torch.tensor([clips])}, path(root, "audio_features.safetensors"))


def make_functions(root):
    buckets = []
    for rows in (1, 30, 58, 231):
        for fps, clip in ((25, CLIP), (25, 12), (16, 80), (24, 12), (30, 48)):
            index, clips = frame_rows(rows, fps, clip)
            buckets.append({"feature_frames": rows, "fps": fps, "batch_frames": clip, "m": 0, "num_clips": clips, "index": index})
    gen = torch.Generator().manual_seed(24)
    examples = []
    for n in (3, 26, 61):
        x = torch.randn(1, n, 3, generator=gen)
        examples.append({"input_fps": 50, "output_fps": 30, "input": x[0].tolist(), "output": interpolate(x)[0].tolist()})
    lengths = [[n, int(n / float(50) * 30)] for n in (1, 2, 49, 205, 410, 820, 845, 1615, 1616, 30000)]
    write_json(root, "audio_functions.json", {"video_rate": 30, "bucket": buckets, "interp_length_50_to_30": lengths,
                                              "linear_interpolation": examples})


# ---- text ------------------------------------------------------------------------------------------------------------

SENTENCES = """A woman in a red coat speaks to the camera.
The man laughs, then looks away from the window.
Soft light falls on her face while she talks about the weather.
An old teacher reads a letter aloud in a quiet room.
Der Mann spricht \u00fcber das gro\u00dfe Haus und lacht.
Elle parle \u00e0 la cam\u00e9ra, la lumi\u00e8re est tr\u00e8s douce.
\u042f \u0433\u043e\u0432\u043e\u0440\u044e \u0441 \u043a\u0430\u043c\u0435\u0440\u043e\u0439.
\u5973\u4eba\u5bf9\u7740\u955c\u5934\u8bf4\u8bdd\uff0c\u5fae\u7b11\u3002
He says: "No, that is not the way we did it in 1999!"
News at ten: rain in the north, sun in the south, wind everywhere.""".split("\n")

PROMPTS = [
    "A woman speaks to the camera.", "", " \t \n ", "  two   spaces\r\n\r\nand lines\x0bhere\u2028there ",
    "Tom &amp; Jerry &lt;3", "&amp;amp;lt;b&amp;amp;gt;", "&lt;b&gt; &amp;ldquo;x&amp;rdquo;",
    "<b>&ldquo;kept curly&rdquo;</b>", "&ldquo;made straight&rdquo;", "a <\n&ldquo;after a tag&rdquo;",
    "&EACUTE;TUDE &SZLIG; &eacute &notit; &AMP;", "&#72;&#x69; &#150; &#0; &#xD800; &#59; &#1;",
    "\u2018single\u2019 \u201cdouble\u201d \u201elow\u201f \u02bc", "\ufb00 \ufb03 \ufb05 \u0149 \u01c4 \u0132",
    "\uff21\uff22\uff01 \uff76\uff9e \uffe3\u3000\uffa1", "e\u0301 A\u030a q\u0307\u0323 \u1100\u1161\u11a8",
    "bell\x07 \x1b[1;31mred\x1b[0m \ufeffbom \u206a\ufffc.", "dots\x85 and \x93quotes\x94",
    "zero\u200bwidth \u200d joiner", "emoji \U0001f469\u200d\U0001f680 face \U0001f600",
    "\u5973\u4eba\u5fae\u7b11\u3002 \u0410\u0411\u0412 \u05d0\u05d1", "literal </s> and <unk> and <0x41>", "x" * 700,
    "the man speaks to the window " * 120, "\u00a0\u2003\u202fwide\u205f\u1680spaces\u00a0",
]


def clean(text):
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text.strip()).strip()


def train(root, name, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(SENTENCES * 4), model_writer=model, model_type="unigram",
                                             pad_id=0, eos_id=1, bos_id=2, unk_id=3, num_threads=1, minloglevel=2,
                                             hard_vocab_limit=False, **options)
    with open(path(root, name), "wb") as f:
        f.write(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def make_tokenizer(root):
    small = train(root, "ckpt/google/umt5-xxl/spiece.model", vocab_size=180, normalization_rule_name="nmt_nfkc",
                  character_coverage=0.985)
    fallback = train(root, "tokenizer/byte_fallback.model", vocab_size=400, normalization_rule_name="identity", byte_fallback=True,
                     remove_extra_whitespaces=False)
    cases = []
    for prompt in PROMPTS:
        cleaned = clean(prompt)
        ids = {k: (m.encode(cleaned)[:511] + [1]) for k, m in (("small", small), ("byte_fallback", fallback))}
        cases.append({"prompt": prompt, "cleaned": cleaned, **ids})
    write_json(root, "tokenizer/cases.json", {"source": "tests/ref/front_ref.py", "cases": cases})
    return small.get_piece_size()


def main(root):
    torch.manual_seed(0)
    config = {}
    if os.path.exists(os.path.join(root, "golden_config.json")):
        with open(os.path.join(root, "golden_config.json")) as f:
            config = json.load(f)
    vocab = make_tokenizer(root)
    config.update({"t5": make_t5(root, vocab + 12), "infer_frames": CLIP, "fps": 25})
    make_wav2vec2(root)
    make_functions(root)
    write_json(root, "golden_config.json", config)


if __name__ == "__main__":
    main(sys.argv[1])
