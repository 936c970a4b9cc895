#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tests of tools/nano.   python3 tests/nano/test_nano.py     (in the environment of tools/nano/nano.sh)"""
import os
import sys
import unittest

import numpy as np
import torch

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../tools/nano"))

import audio  # noqa: E402
import dit  # noqa: E402
import export  # noqa: E402
import face  # noqa: E402
import measure  # noqa: E402
import motion  # noqa: E402
import speech  # noqa: E402
import text  # noqa: E402
import vae  # noqa: E402


class Face(unittest.TestCase):
    def test_seed_makes_the_picture(self):
        a, b = (face.draw(face.identity(5), size) for size in (face.NEUTRAL, face.NEUTRAL))
        self.assertTrue((a == b).all())
        self.assertFalse((a == face.draw(face.identity(6))).all())

    def test_any_size(self):
        self.assertEqual(face.draw(face.identity(1), face.NEUTRAL, 80, 120).shape, (120, 80, 3))

    def test_the_cavity_grows_with_the_opening(self):
        f = face.identity(3)
        x = measure.pictures(f, [[o] + [0] * 9 for o in (0, .3, .6, 1)])
        self.assertTrue((np.diff(measure.opening(x, face.mouth_box(f))) > 5).all())


class Speech(unittest.TestCase):
    def test_lips_close_on_p_b_m_and_open_on_a(self):
        w, seg = speech.espeak("mama papa", "en-us")
        c = motion.curves(w, seg)
        for s, e, v in seg:
            at = min(len(c) - 1, int((s + e) / 2 * 25))
            if v == "PBM":
                self.assertLess(c[at, 0], .35)
            if v == "AA" and e - s > .08:
                self.assertGreater(c[at, 0], .5)

    def test_silence_is_a_closed_mouth(self):
        c = motion.curves(np.zeros(16000, np.float32), [])
        self.assertEqual(np.abs(c[:, 0]).max(), 0)

    def test_rows_follow_the_products_clock(self):
        class Ramp(torch.nn.Module):
            def forward(self, w):
                t = (w.shape[1] - 400) // 320 + 1
                return [torch.arange(t, dtype=torch.float32)[None, :, None]]
        got = audio.features(Ramp(), np.ones(640 * 24, np.float32), 24)[0, 0]
        want = [(12 * i + 5) // 10 * 5 / 3 for i in range(24)]
        self.assertLess(np.abs(got.numpy() - want).max(), 1e-4)


class Measures(unittest.TestCase):
    def setUp(self):
        w, seg = speech.espeak("These days a chicken leg is a rare dish, my mother said.", "en-us")
        self.f, self.c = face.identity(face.HELD_OUT + 1), motion.express(motion.curves(w, seg))
        self.x = measure.pictures(self.f, self.c)

    def test_the_truth_is_perfect(self):
        r = measure.measure(self.x, self.f, self.c)
        self.assertGreater(r["r_open"], .98)
        self.assertGreater(r["opening"], .93)
        self.assertEqual(r["lag"], 0)
        self.assertAlmostEqual(r["sharp_mouth"], 1)

    def test_a_shift_is_found(self):
        self.assertEqual(measure.measure(np.roll(self.x, 3, 0), self.f, self.c)["lag"], 3)

    def test_a_still_scores_nothing(self):
        r = measure.measure(self.x[:1].repeat(len(self.x), 0), self.f, self.c)
        self.assertEqual((r["opening"], r["r_width"]), (0, 0))


class Networks(unittest.TestCase):
    def test_training_pass_is_the_streaming_pass(self):
        torch.manual_seed(0)
        c = dict(dit.CONFIG, dim=96, ffn_dim=192, num_layers=2, audio_inject_layers=[0])
        m, g = dit.initialise(dit.DiT(**c)).eval(), 5
        z, a = torch.randn(1, 16, 3 * g, 16, 16), torch.randn(1, 5, c["audio_dim"], 12 * g)
        t = torch.full((1,), 602.15)
        with torch.no_grad():
            ctx = m.context(torch.randn(1, 4, c["text_dim"]))
            sink, ring = m.sink(torch.randn(1, 16, 1, 16, 16), torch.randn(1, 16, 19, 16, 16), ctx), [[] for _ in m.blocks]
            whole = m(z, t, a, sink, ctx, rd=9)
            parts = [m.step(z[:, :, 3 * i:3 * i + 3], t, *m.casual_audio_encoder(a[..., 12 * i:12 * i + 12]), sink, ctx, ring, 3 * i, 9)
                     for i in range(g)]
        self.assertLess((whole - torch.cat(parts, 2)).abs().max(), 1e-4)

    def test_folding_keeps_the_vae(self):
        torch.manual_seed(0)
        m = vae.VAE(4)
        m.mean.normal_()
        m.std.uniform_(.5, 2)
        n = vae.VAE(4)
        n.load_state_dict({**export.fold(m.state_dict()), "mean": export.MEAN, "std": export.STD})
        x = torch.randn(1, 3, 5, 16, 16)
        with torch.no_grad():
            z = m.encode(x)
            self.assertLess((z - n.encode(x)).abs().max(), 1e-4)
            self.assertLess((m.decode(z) - n.decode(z)).abs().max(), 1e-4)

    def test_lora_and_base_make_the_matrix(self):
        w = torch.randn(48, 32)
        base, a, b = export.split(w)
        self.assertLess((base.float() + export.SCALE * b.float() @ a.float() - w).abs().max(), .02)

    def test_padding_of_a_prompt_changes_nothing(self):
        m = text.initialise_t5(text.T5(**text.CONFIG))
        a, b = torch.tensor([[5, 9, 1]]), torch.tensor([[5, 9, 1, 0, 0]])
        with torch.no_grad():
            self.assertLess((m(a, a > 0)[0] - m(b, b > 0)[0, :3]).abs().max(), 1e-5)


if __name__ == "__main__":
    unittest.main()
