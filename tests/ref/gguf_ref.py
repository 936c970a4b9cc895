# SPDX-License-Identifier: LGPL-2.1-or-later
"""GGUF files by the package that defines the format, and what that package makes of their blocks.

    pip install gguf numpy safetensors
    python tests/ref/gguf_ref.py [tests/gold/gguf]

Writes, for tests/unit/ckpt_gguf.c and as seeds of tests/fuzz/gguf.c,
  blocks.gguf          a tensor of every type that is read: random bytes as blocks, with scales of ordinary size; a vocabulary among the keys
  blocks.safetensors   the same, as gguf.dequantize() widens them to f32
  names.gguf           a few tensors as others name them: llama.cpp's umT5, a transformer with a prefix, a kernel that lost a dimension
"""
import pathlib
import sys

import gguf
import numpy as np
from safetensors.numpy import save_file

ROWS = 3
TYPES = "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K".split()
HALVES = {"Q8_0": [0], "Q4_0": [0], "Q5_0": [0], "Q4_1": [0, 2], "Q5_1": [0, 2], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2],
          "Q5_K": [0, 2], "Q6_K": [208]}               # where a block has its f16 scales


def blocks(rng, name):
    kind = gguf.GGMLQuantizationType[name]
    values, size = gguf.GGML_QUANT_SIZES[kind]
    if name in ("F32", "F16", "BF16"):
        plain = rng.standard_normal((ROWS, 40)).astype(np.float32)
        return gguf.quantize(plain, kind), kind
    nb = 2 if values == 256 else 5
    raw = rng.integers(0, 256, (ROWS, nb, size), dtype=np.uint8)
    for at in HALVES[name]:
        scale = (rng.standard_normal((ROWS, nb, 1)) * 0.01).astype(np.float16)
        raw[..., at:at + 2] = scale.view(np.uint8)
    return raw.reshape(ROWS, nb * size), kind


def add(writer, name, array):
    writer.add_tensor(name, array.astype(np.float32))


def main(out):
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(18)
    writer = gguf.GGUFWriter(out / "blocks.gguf", "wan")
    writer.add_array("tokenizer.ggml.tokens", ["<pad>", "</s>", "a", "\u2581the"])
    writer.add_array("tokenizer.ggml.scores", [0.0, -1.5, 2.0])
    writer.add_uint32("wan.block_count", 2)
    wide = {}
    for name in TYPES:
        raw, kind = blocks(rng, name)
        key = "a." + name.lower()
        writer.add_tensor(key, raw, raw_dtype=kind)
        wide[key] = np.ascontiguousarray(gguf.dequantize(raw, kind).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(wide, out / "blocks.safetensors")

    writer = gguf.GGUFWriter(out / "names.gguf", "t5encoder")
    add(writer, "token_embd.weight", rng.standard_normal((4, 8)))
    for name in "attn_q attn_k attn_v attn_o attn_norm attn_rel_b ffn_norm ffn_gate ffn_up ffn_down".split():
        add(writer, f"enc.blk.11.{name}.weight", rng.standard_normal(8))
    add(writer, "enc.output_norm.weight", rng.standard_normal(8))
    add(writer, "model.diffusion_model.blocks.0.ffn.0.bias", rng.standard_normal(8))
    add(writer, "model.diffusion_model.patch_embedding.weight", rng.standard_normal((16 * 6, 1, 2, 2)))
    add(writer, "cond_encoder.weight", rng.standard_normal((6, 16, 1, 2, 2)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/gold/gguf"))
