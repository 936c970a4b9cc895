# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a prompt can ask for, a SentencePiece model that reads it, and umT5 at toy width (names of the published file).

Three moods and three gazes, in a handful of phrasings within free text; whatever else is said means neutral. Left and right
are the picture's.
"""
import io
import math
import random

import torch
import torch.nn as nn

import speech

CONFIG = dict(vocab=512, dim=64, heads=4, ffn=128, layers=2)
PIECES = 512
MOOD = {0: ["", "", "neutral", "calm", "with a neutral expression", "serious", "relaxed"],
        1: ["smiling", "with a smile", "happy", "who is smiling", "cheerful", "with a big smile", "smiling happily", "joyful", "who smiles"],
        -1: ["sad", "with a sad face", "unhappy", "who is sad", "looking sad", "gloomy", "sorrowful", "with a sad expression"]}
GAZE = {0: ["", "", "", "looking at the camera", "looking straight ahead"],
        -1: ["looking left", "looking to the left", "who looks left", "with eyes to the left", "gazing left", "glancing to the left"],
        1: ["looking right", "looking to the right", "who looks right", "with eyes to the right", "gazing right", "glancing to the right"]}
WHO = ["a person", "a man", "a woman", "someone", "a young woman", "an old man", "a friendly man", "a portrait of a person", "a talking head",
       "a woman with long hair", "a man with glasses", "the speaker", "a girl", "a boy", "a lady", "a bearded man"]
DOES = ["", "speaking", "talking", "is speaking", "speaks to the camera", "talking about the weather", "explains something", "tells a story",
        "reads the news", "is speaking clearly"]
WHERE = ["", "", "", "in front of a wall", "in a studio", "in soft light", "in the kitchen", "outdoors", "with a plain background", "at home"]
DEFAULT = "A person is speaking."


def prompt(rng, mood, gaze):
    """One of many ways to ask for it; one neutral prompt in five says something else, or nothing."""
    if not mood and not gaze and rng.random() < .2:
        return " ".join(rng.choice(speech.words()) for _ in range(rng.randint(0, 8)))
    parts = [rng.choice(MOOD[mood]), rng.choice(GAZE[gaze])]
    who, does, where = rng.choice(WHO), rng.choice(DOES), rng.choice(WHERE)
    if rng.random() < .5:
        rng.shuffle(parts)
    form = rng.randrange(4)
    if form == 0:
        t = [who, *parts, does, where]
    elif form == 1:
        t = [who, does, *parts, where]
    elif form == 2:
        t = parts
    else:
        t = [who, does, where, *parts]
    sep = rng.choice([" ", " ", ", "])
    t = sep.join(x for x in t if x)
    if rng.random() < .6:
        t = t[:1].upper() + t[1:]
    return t + rng.choice(["", ".", "."]) if t else DEFAULT


def train_tokenizer(path):
    """Unigram pieces with byte fallback, ids as umT5's: 0 pad, 1 end, 2 begin, 3 unknown."""
    import sentencepiece as spm
    rng = random.Random(11)
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter([prompt(rng, rng.choice([0, 0, 1, -1]), rng.choice([0, 0, 1, -1])) for _ in range(20000)]), model_writer=model, vocab_size=PIECES, model_type="unigram",
        byte_fallback=True, pad_id=0, eos_id=1, bos_id=2, unk_id=3, normalization_rule_name="identity", num_threads=1,
        hard_vocab_limit=True, character_coverage=1.0, minloglevel=2)
    with open(path, "wb") as f:
        f.write(model.getvalue())


def ids(sp, text, limit):
    t = sp.encode(" ".join(text.split()))[:limit - 1]
    return t + [1]


class Norm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


class Attention(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(d, d, bias=False) for _ in range(4))


class FeedForward(nn.Module):
    def __init__(self, d, f):
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(d, f, bias=False), nn.GELU("tanh"))
        self.fc1, self.fc2 = nn.Linear(d, f, bias=False), nn.Linear(f, d, bias=False)

    def forward(self, x):
        return self.fc2(self.fc1(x) * self.gate(x))


class Positions(nn.Module):
    def __init__(self, heads):
        super().__init__()
        self.embedding = nn.Embedding(32, heads)


class Block(nn.Module):
    def __init__(self, d, heads, f):
        super().__init__()
        self.heads = heads
        self.norm1, self.attn, self.norm2, self.ffn, self.pos_embedding = Norm(d), Attention(d), Norm(d), FeedForward(d, f), Positions(heads)


def bucket(n):
    """Relative position buckets [query, key]."""
    rel = torch.arange(n)[None] - torch.arange(n)[:, None]
    d = rel.abs()
    far = (8 + (torch.log(d.float().clamp(min=1) / 8) / math.log(16) * 8).long()).clamp(max=15)
    return torch.where(rel > 0, 16, 0) + torch.where(d < 8, d, far)


class T5(nn.Module):
    def __init__(self, vocab, dim, heads, ffn, layers):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab, dim)
        self.blocks = nn.ModuleList([Block(dim, heads, ffn) for _ in range(layers)])
        self.norm = Norm(dim)

    def forward(self, tokens, mask):
        """tokens, mask [B, n] -> [B, n, dim], rows beyond the mask zero. Scores are not scaled."""
        x = self.token_embedding(tokens)
        b, n, d = x.shape
        for blk in self.blocks:
            u, a = blk.norm1(x), blk.attn
            q, k, v = (p(u).view(b, n, blk.heads, -1).transpose(1, 2) for p in (a.q, a.k, a.v))
            bias = blk.pos_embedding.embedding(bucket(n)).permute(2, 0, 1)[None]
            s = (q @ k.transpose(-1, -2) + bias).masked_fill(~mask[:, None, None], torch.finfo(x.dtype).min)
            x = x + a.o((s.softmax(-1) @ v).transpose(1, 2).reshape(b, n, d))
            x = x + blk.ffn(blk.norm2(x))
        return self.norm(x) * mask[..., None]


def initialise_t5(m):
    for n, p in m.named_parameters():
        if p.dim() == 2:
            nn.init.normal_(p, std=p.shape[1] ** -.5 * (.3 if ".q." in n or ".k." in n else .7))
    nn.init.normal_(m.token_embedding.weight, std=1.)
    for b in m.blocks:
        nn.init.normal_(b.pos_embedding.embedding.weight, std=.2)
    return m


def batch(sp, texts, limit):
    t = [ids(sp, x, limit) for x in texts]
    n = max(len(x) for x in t)
    return torch.tensor([x + [0] * (n - len(x)) for x in t]), torch.tensor([[1] * len(x) + [0] * (n - len(x)) for x in t], dtype=torch.bool)
