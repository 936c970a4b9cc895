# SPDX-License-Identifier: LGPL-2.1-or-later
"""Graphs and clocks that nobody should make, in tables: as many frames as there should be, or a refusal. ../hostile/README.md has the list."""
from harness import Env, case, expect, fails, ffmpeg, filt, frames

PAD = '[0:a][1:v]'


@case
def odd_graphs(d):
    one, two = filt(image=d.png()), filt(image=d.png(120, 80), steps=2)
    eight = '[0:a]asplit=8' + ''.join('[a%d]' % i for i in range(8)) + ';' + ''.join('[a%d]%s[v%d];' % (i, (one, two)[i % 2], i) for i in range(8)) + \
        ''.join('[v%d]' % i for i in range(8)) + 'hstack=8'
    for graph, nb in (
            ('[0:a]asplit[a][b];[a]%s[p];[b][p]%s' % (one, filt()), 25),            # a film as the picture of another
            (eight, 25),                                                            # two models
            ('[0:a]asplit[a][b];[a]%s[v];[b]%s[w];[v][w]concat' % (one, two), 50),
            ('[0:a]asplit[a][b];[a]%s,trim=end_frame=3[v];[b]%s[w];[v][w]concat' % (one, two), 28),     # one ends early, the other goes on
            ('color=red:s=96x96[p];[0:a][p]' + filt(), 25),                         # a picture that never ends
            ('[0:a]aresample=768000,' + one, 25)):
        expect(frames('-i', d.wav(16000), '-filter_complex', graph), nb)
    assert len(frames('-i', d.wav(16000), '-filter_complex', '[0:a]atrim=end=0,' + one, ok=False)) == 0
    fails(ffmpeg('-i', d.wav(640), '-f', 'lavfi', '-i', 'color=red:s=40000x40:r=1:d=1', '-filter_complex', PAD + filt(), '-f', 'null', '-', ok=False, mem_mb=3000), '40000x40')


@case
def odd_stamps(d):
    """Of a second of sound in frames of 1000 samples, behind asetpts: frames that come, times that only rise."""
    for stamps, least in (
            ('0', 25), ('1e6-N', 1), ('random(1)*160000', 1), ('4611686018427380000+N', 25), ('-4611686018427380000+N', 25), ('N-80000', 25), ('N*1.001', 25),
            ('N+random(1)*640', 25), ('N+160000*gte(N,8000)', 25), ('N+5760000000', 25), ('NAN', 25)):
        f = frames('-i', d.wav(16000), '-filter_complex', "[0:a]asetnsamples=1000:p=0,asetpts='%s',%s" % (stamps, filt(image=d.png(), max_gap=10)),
                   '-fps_mode' if Env.version >= (5, 1) else '-vsync', 'passthrough', '-copyts', '-enc_time_base', '1:25', ok=False)
        pts = [p for p, _ in f]
        assert len(f) >= least and pts == sorted(set(pts)), '%s: %d frames at %s ...\n%s' % (stamps, len(f), pts[:9], f.result.text()[-500:])
        assert f.result.code == 0, '%s: exit code %d' % (stamps, f.result.code)
