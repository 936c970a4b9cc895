#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tests of tools/nano.   python3 tests/nano/test_nano.py     (in the environment of tools/nano/nano.sh)

Measures and faces want numpy and pycairo, speech scipy and espeak-ng too, the networks PyTorch; what is missing is skipped aloud.
"""
import copy
import importlib.util
import os
import random
import subprocess
import sys
import tempfile
import unittest

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../tools/nano"))

import face  # noqa: E402
import measure  # noqa: E402
import motion  # noqa: E402

if importlib.util.find_spec("scipy"):
    import speech
if importlib.util.find_spec("torch"):
    import audio
    import dit
    import export
    import model
    import muon
    import report
    import text
    import torch
    import train_dit
    import train_vae
    import vae
needs_torch = unittest.skipUnless("torch" in globals(), "no PyTorch")


class Face(unittest.TestCase):
    def test_seed_makes_the_picture(self):
        a, b = (face.draw(face.identity(5), size) for size in (face.NEUTRAL, face.NEUTRAL))
        self.assertTrue((a == b).all())
        self.assertFalse((a == face.draw(face.identity(6))).all())

    def test_beards_for_training(self):
        full = [face.for_training(s)["beard"] == 1 for s in range(face.HELD_OUT - 64, face.HELD_OUT)]
        self.assertTrue(all(full[::4]) and sum(full) < 30)

    def test_any_size(self):
        self.assertEqual(face.draw(face.identity(1), face.NEUTRAL, 80, 120).shape, (120, 80, 3))

    def test_a_lid_is_skin_with_lashes_at_its_edge(self):
        """In every phase of a blink: what the lid has covered is the colour of the face, not of what is behind it"""
        f = next(f for f in map(face.identity, range(face.HELD_OUT, face.HELD_OUT + 99)) if not f["glass"])
        size, skin = 512, np.array(f["skin"])
        x, y = (int(size * (.5 + (f["cx"] - f["ex"] - .5) * face.ZOOM)), f["cy"] + f["ey"] - face.ZY)
        half = .027 * f["es"]
        for blink, down in ((.4, -.5), (.7, 0), (1, .35)):
            column = face.draw(f, [0] * 5 + [blink] + [0] * 4, size)[:, x] / 255.
            at = [int(size * (face.ZY + (y + k * half) * face.ZOOM)) for k in (-.85, down, 1)]
            self.assertLess(np.abs(column[at[0]:at[1]] - skin).max(), .2)
            self.assertLess(column[at[1]:at[2]].sum(1).min(), .4 * skin.sum())           # lashes below

    def test_teeth_leave_the_opening_to_be_read(self):
        f = face.identity(face.HELD_OUT + 2)
        c = measure.babble(6)[:120]
        c[:, 5:] = 0
        self.assertGreater(measure.corr(measure.opening(measure.pictures(f, c), face.mouth_box(f)), c[:, 0]), .9)

    def test_the_cavity_grows_with_the_opening(self):
        f = face.identity(3)
        x = measure.pictures(f, [[o] + [0] * 9 for o in (0, .3, .6, 1)])
        self.assertTrue((np.diff(measure.opening(x, face.mouth_box(f))) > 5).all())


@unittest.skipUnless("speech" in globals(), "no scipy")
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

    def test_blinks_come_with_pauses(self):
        on = np.zeros(400, bool)
        on[100:200] = on[240:300] = True
        b = motion.blinks(on)
        at = [int(i) for i in np.flatnonzero((b[1:-1] > .99) & (b[1:-1] > b[:-2]) & (b[1:-1] >= b[2:])) + 1]
        self.assertEqual(at, [106, 212, 312])                # not 246: that pause has had its own
        self.assertEqual(motion.blinks(np.zeros(50, bool)).max(), 0)

    def test_clips_to_train_on_blink_in_every_phase(self):
        c = np.zeros((100, 8), np.float32)
        b = np.concatenate([motion.blinking(c, random.Random(i))[:, 5] for i in range(30)])
        share = np.histogram(b, [.1, .4, .7, .95, 1.01])[0] / len(b)
        self.assertTrue((share > .01).all() and (b > .5).mean() < .5, share)
        self.assertEqual(c.max(), 0)

    def test_a_closed_stop_is_not_a_pause(self):
        e = np.ones(300)
        e[:50] = e[100:115] = e[200:230] = e[250:] = 0
        e[270] = 1                                           # a click
        edges = np.flatnonzero(np.diff(motion.speaking(e).astype(int)))
        self.assertEqual([int(i) + 1 for i in edges], [50, 200, 230, 250])

    def test_any_kind_of_sample_is_read(self):
        w = np.sin(np.arange(1600) / 7) * .5
        with tempfile.TemporaryDirectory() as d:
            for scale, at, kind in ((1, 0, np.float32), (2 ** 15, 0, np.int16), (2 ** 31, 0, np.int32), (128, 128, np.uint8)):
                speech.wavfile.write(d + "/a.wav", speech.RATE, (w * scale + at).astype(kind))
                self.assertLess(np.abs(speech.read(d + "/a.wav") - w).max(), .01)

    @needs_torch
    def test_rows_follow_the_products_clock(self):
        class Ramp(torch.nn.Module):
            def forward(self, w):
                t = (w.shape[1] - 400) // 320 + 1
                return [torch.arange(t, dtype=torch.float32)[None, :, None]]
        got = audio.features(Ramp(), np.ones(640 * 24, np.float32), 24)[0, 0]
        want = [(12 * i + 5) // 10 * 5 / 3 for i in range(24)]
        self.assertLess(np.abs(got.numpy() - want).max(), 1e-4)


class Measures(unittest.TestCase):
    """A person who talks as drawn: what each measure says of the truth, and of the truth spoilt in one way"""
    @classmethod
    def setUpClass(cls):
        c = measure.babble(8, seed=11)
        c[:, 8:] = 0
        cls.f, cls.c = face.identity(face.HELD_OUT + 1), c
        cls.x, cls.ref = measure.pictures(cls.f, c), measure.pictures(cls.f, [face.NEUTRAL])[0]
        cls.box, cls.mask = face.mouth_box(cls.f), measure.still(cls.x, cls.ref)
        cls.reader = measure.Reader(cls.f)

    def measure(self, x):
        return measure.measure(x, self.f, self.c, self.reader)

    def blurred(self, x=None):
        k = np.array([1, 2, 1]) / 4
        x = self.x if x is None else x
        for axis in (1, 2):
            x = np.apply_along_axis(lambda a: np.convolve(np.pad(a, 1, mode="edge"), k, "valid"), axis, x)
        return x.astype(np.float32)

    def test_the_truth_is_perfect(self):
        r = self.measure(self.x)
        for key, least in (("opening", .95), ("r_open", .99), ("r_width", .95), ("r_round", .95), ("r_blink", .98), ("r_nod", .98)):
            self.assertGreater(r[key], least, key)
        self.assertEqual(r["lag"], 0)
        self.assertGreater(min(r["psnr"], r["mouth_psnr"]), 100)
        self.assertAlmostEqual(r["sharp_mouth"], 1)
        self.assertAlmostEqual(r["sharp_eyes"], 1)

    def test_a_shift_is_found(self):
        for n in (-3, 4):
            r = self.measure(np.roll(self.x, n, 0))
            self.assertEqual(r["lag"], n)
            self.assertLess(r["opening"], r["best"] - .2)

    def test_a_still_scores_nothing(self):
        r = self.measure(self.x[:1].repeat(len(self.x), 0))
        self.assertEqual((r["opening"], r["r_width"], r["r_round"], r["r_blink"]), (0, 0, 0, 0))

    def test_another_speech_scores_little(self):
        c = measure.babble(8, seed=12)
        c[:, 8:] = 0
        self.assertLess(self.measure(measure.pictures(self.f, c))["opening"], .5)

    def test_silence_is_not_a_lip_closure(self):
        t = np.float32([0] * 5 + [.5] * 4 + [0] * 2 + [.5] * 4 + [0] * 9)
        self.assertEqual(list(np.where(measure.quiet(t))[0]), [0, 1, 2, 17, 18, 19, 20, 21, 22, 23])

    def test_an_opening_in_silence_is_a_share_of_speech(self):
        self.assertEqual(measure.ajar(10, 50, 2), 1 / 6)
        q, wide = measure.quiet(self.c[:, 0]), measure.opening(measure.pictures(self.f, [[.5] + [0] * 9]), self.box)[0]
        self.assertTrue(10 < q.sum() < len(q) / 2)
        x = self.x.copy()
        x[q] = measure.pictures(self.f, [[.5] + [0] * 9])
        for got, want in ((self.measure(self.x), 0), (self.measure(x), wide)):
            self.assertAlmostEqual(got["silence"], want / got["spoken"], delta=.01)
        self.assertIsNone(measure.measure(self.x[:20], self.f, np.ones((20, 10)), self.reader)["silence"])

    def test_a_beard_is_not_an_open_mouth(self):
        f = next(f for f in map(face.identity, range(face.HELD_OUT, face.HELD_OUT + 200)) if f["beard"] and max(f["hair"]) < .25)
        x = measure.pictures(f, self.c)
        self.assertGreater(measure.opening(x[:1], face.mouth_box(f))[0], 8)
        self.assertLess(abs(measure.measure(x, f, self.c, self.reader)["silence"]), .001)

    def test_lips_in_a_beard_are_read_from_soft_pictures(self):
        for seed in (17, 48):                                # beards whose colour is near the skin's
            f = face.identity(face.HELD_OUT + seed)
            self.assertEqual(f["beard"], 1)
            x = self.blurred(measure.pictures(f, self.c)) + np.random.default_rng(0).normal(0, .03, self.x.shape)
            r = measure.measure(x.astype(np.float32), f, self.c)
            self.assertGreater(min(r["opening"], r["r_width"], r["r_round"]), .9)

    def test_identity_is_the_error_of_what_stands_still(self):
        rng = np.random.default_rng(0)
        self.assertGreater(self.mask.mean(), .3)
        self.assertLess(self.mask[self.box[0] + 8:self.box[1] - 14, self.box[2] + 9:self.box[3] - 9].mean(), .1)
        self.assertGreater(measure.identity(self.x, self.ref, self.mask), 45)
        self.assertAlmostEqual(measure.identity(self.x + rng.normal(0, .02, self.x.shape), self.ref, self.mask), 34, delta=.3)
        self.assertLess(measure.identity(measure.pictures(face.identity(2), self.c), self.ref, self.mask), 20)

    def test_sharpness_falls_with_blur(self):
        self.assertAlmostEqual(measure.sharpness(self.x * .5, self.box), measure.sharpness(self.x, self.box) * .5, places=6)
        r = self.measure(self.blurred())
        self.assertLess(max(r["sharp_mouth"], r["sharp_eyes"]), .85)

    def test_a_lid_that_fades_is_seen(self):
        b, eyes = self.c[:, 5], face.eye_box(self.f)
        true = measure.lids(self.x, self.x, b, eyes)
        self.assertGreater(min(true["eyes_half"], true["eyes_closed"]), 100)
        self.assertAlmostEqual(true["sharp_half"] + true["sharp_closed"], 2)
        opened = measure.pictures(self.f, np.where(np.arange(10) == 5, 0, self.c))
        faded = .5 * self.x + .5 * opened                    # the eye through the lid, as a blur of phases shows it
        for x, most in ((faded, 32), (opened, 26)):
            r = measure.lids(x, self.x, b, eyes)
            self.assertLess(max(r["eyes_half"], r["eyes_closed"]), most)
            self.assertLess(r["eyes_closed"], r["eyes_half"])
        self.assertIsNone(measure.lids(self.x, self.x, b * 0, eyes)["eyes_closed"])

    def test_what_the_vae_takes_is_not_counted(self):
        soft = self.blurred()
        r = measure.measure(soft, self.f, self.c, self.reader, soft[:97])
        self.assertAlmostEqual(r["sharp_mouth"], 1)
        self.assertAlmostEqual(r["sharp_eyes"], 1)

    def test_drift_is_named(self):
        def drift(b):
            return measure.drift(self.x, b, self.f, self.ref, self.mask)
        self.assertEqual(max(drift(self.x).values()), 0)
        self.assertAlmostEqual(drift(self.x * np.float32([1, .95, 1]))["colour"], .05, places=4)
        self.assertGreater(drift(self.blurred())["sharpness"], .1)
        rng = np.random.default_rng(0)
        self.assertGreater(drift(self.x + rng.normal(0, .03, self.x.shape))["identity"], .1)

    def test_prompts_are_read(self):
        c = self.c[50:98]
        for look in ("neutral", *measure.LOOKS):
            asked = np.zeros(2)
            if look != "neutral":
                asked[measure.LOOKS[look][0] - 8] = measure.LOOKS[look][1]
            read = self.reader(measure.pictures(self.f, np.concatenate([c[:, :8], asked + np.zeros((len(c), 2))], 1)))
            self.assertEqual([k for k in ("neutral", *measure.LOOKS) if measure.shows(read, k)], [look])

    def test_any_size_is_measured(self):
        r = measure.measure(measure.pictures(self.f, self.c[:60], 192), self.f, self.c[:60])
        self.assertGreater(r["opening"], .95)


@needs_torch
class Report(unittest.TestCase):
    def test_what_misses_its_goal_is_bold(self):
        row = {key: .9 for _, key, *_ in report.PER_KIND}
        rows = [("espeak", dict(row, lag=-1, silence=.04)), ("flite rms", dict(row, lag=0, silence=.2)), ("flite rms", dict(row, lag=2, silence=None))]
        md = report.by_kind(rows)
        self.assertIn("espeak (1) | flite rms (2)", md[0])
        self.assertEqual(md[2].split("|")[2:5], [" ≥ 0.93 / 0.85 ", " **0.90 (0.90 to 0.90)** ", " 0.90 (0.90 to 0.90) "])
        self.assertEqual(md[3].split("|")[2:5], [" each 0 ± 1 ", " -1 (-1 to -1) ", " **1 (0 to 2)** "])
        self.assertEqual(next(r for r in md if "silence" in r).split("|")[3:5], [" 4.0 (4.0 to 4.0) ", " **20.0 (20.0 to 20.0)** "])
        self.assertEqual(report.alone([("a / b", [33, 37], 0, report.least, [34, 36])])[2], "| a / b | ≥ 34 / 36 | **33** / 37 |")

    def test_the_table_goes_between_the_marks(self):
        with tempfile.TemporaryDirectory() as d:
            for old in ("", "old\n"):
                with open(d + "/README.md", "w") as f:
                    f.write(f"before\n{report.START}\n{old}{report.END}\nafter\n")
                report.into_card(d + "/README.md", "| new |")
                with open(d + "/README.md") as f:
                    self.assertEqual(f.read(), f"before\n{report.START}\n| new |\n{report.END}\nafter\n")


@needs_torch
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

    def test_the_committed_model_is_a_start(self):
        folder = os.path.join(os.path.dirname(__file__), "../../model/nano")
        a, v, n = model.load_audio(folder), model.load_vae(folder), model.Nano(folder)
        w, seg = speech.espeak("Four hours of steady work faced us.", speech.ESPEAK_HELD_OUT[0])
        k, _ = audio.targets(w, seg, motion.curves(w, seg))
        with torch.no_grad():
            heard = a.classes(a(torch.as_tensor(audio.normalise(w))[None])[-1])[0].argmax(-1).numpy()
        self.assertGreater((heard == k).mean(), .6)           # the head that teaches comes back with the encoder
        m = train_dit.Model()
        m.dit.load_state_dict(n.dit.state_dict())
        m.t5.load_state_dict(n.t5.state_dict())
        with torch.no_grad():
            x = train_vae.frames(face.identity(face.HELD_OUT + 7), [face.NEUTRAL])
            self.assertLess((v.decode(v.encode(x)) - x).square().mean(), .004)

    def test_made_latents_go_with_the_frames_that_they_make(self):
        """Each latent of a made clip is a mark of its frames' opening, which the frame's mouth shows: a window that is off is seen."""
        n = 24
        p = np.tile(np.float32(face.NEUTRAL), (4 * n, 1))
        p[:, 0] = np.repeat(np.random.default_rng(0).integers(0, 2, n), 4)
        z = torch.zeros(16, train_vae.BEFORE + n, 16, 16)
        z[:, train_vae.BEFORE:] = torch.tensor(p[::4, 0])[:, None, None]
        with tempfile.TemporaryDirectory() as d:
            torch.save([dict(z=z.half(), p=p, seed=8)], d + "/00000.pt")
            made = train_vae.Made(d)
            made.refresh()
            made.refresh()
        self.assertEqual(len(made.clips), 1)
        rng, seen = random.Random(3), 0
        for _ in range(12):
            z, w, y = made.batch(1, rng, 5., 8.)
            moved = (y[0, :, ::4] - y[0, :, :1]).abs().mean((0, 2, 3)) > 1e-4    # of the frames of each latent: as the first, or not
            marks = z[0, 0, made.WARM:, 0, 0] != z[0, 0, made.WARM, 0, 0]
            seen += bool(moved.any())
            self.assertTrue(not moved.any() or (moved == marks).all())
            self.assertEqual(float(w[..., 0].max()), 0)
        self.assertGreater(seen, 3)

    def test_lora_and_base_make_the_matrix(self):
        w = torch.randn(48, 32)
        base, a, b = export.split(w)
        self.assertLess((base.float() + export.SCALE * b.float() @ a.float() - w).abs().max(), .02)

    def test_padding_of_a_prompt_changes_nothing(self):
        m = text.initialise_t5(text.T5(**text.CONFIG))
        a, b = torch.tensor([[5, 9, 1]]), torch.tensor([[5, 9, 1, 0, 0]])
        with torch.no_grad():
            self.assertLess((m(a, a > 0)[0] - m(b, b > 0)[0, :3]).abs().max(), 1e-5)

    def test_the_optimizer_descends_and_goes_on_where_it_was(self):
        def begin():
            torch.manual_seed(0)
            m = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 4))
            return m, muon.Optimizer(m.parameters(), [m[0].weight, m[1].weight], (.9, .98))

        def loss(m):
            return (m(x) - x[:, :4]).square().mean()
        (m, opt), (n, other), x = begin(), begin(), torch.randn(32, 8)
        first = loss(m).item()
        for _ in range(60):
            opt.descend(loss(m), .02)
        n.load_state_dict(m.state_dict())
        other.load_state_dict(copy.deepcopy(opt.state_dict()))
        self.assertLess(loss(m).item(), first / 10)
        for k, o in ((m, opt), (n, other)):
            o.descend(loss(k), .02)
        self.assertTrue(all((a == b).all() for a, b in zip(m.parameters(), n.parameters())))


@needs_torch
class Device(unittest.TestCase):
    """A training step where no tensor has numbers: one that was made on another device by mistake is refused."""

    def step(self, code):
        head = "import sys; sys.path.insert(0, 'tools/nano')\nimport torch, parallel\nassert parallel.start(2) == (0, 1)\n"
        r = subprocess.run([sys.executable, "-c", head + code + "\nloss.backward(); assert loss.device.type == 'meta'"],
                           cwd=os.path.join(os.path.dirname(__file__), "../.."), env={**os.environ, "NANO_DEVICE": "meta"},
                           capture_output=True, text=True)
        self.assertEqual(r.returncode, 0, r.stderr[-2000:])

    def test_vae(self):
        self.step("""
import train_vae, vae
m = vae.VAE(16).channels_last()
loss = train_vae.loss_of(m, torch.empty(2, 3, 9, 64, 64), torch.ones(2, 1, 1, 64, 64), False)[0]""")

    def test_audio(self):
        self.step("""
import audio, train_audio
m = audio.Wav2Vec2(**audio.CONFIG)
loss = train_audio.loss_of(m, torch.empty(2, 38480), torch.empty(2, 120, dtype=torch.long), torch.empty(2, 120, 8))""")

    def test_dit(self):
        self.step("""
import train_dit
train_dit.weights = lambda _: torch.ones(2, 1, 1, 16, 16)
train_dit.text.batch = lambda *_: (torch.zeros(2, 9, dtype=torch.long), torch.ones(2, 9, dtype=torch.bool))
m, z = train_dit.Model(), torch.empty(2, 16, 19, 16, 16)
loss = m.loss(None, z, torch.empty(2, 5, 128, 60), None, ["", ""], torch.zeros(2, dtype=torch.long), 0, 0, 17, z[:, :, :12], True).mean()""")


if __name__ == "__main__":
    unittest.main()
