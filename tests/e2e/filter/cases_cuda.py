# SPDX-License-Identifier: LGPL-2.1-or-later
"""Frames that stay on the GPU: FFmpeg and libavatar on the emulated one, which both find in build/simt/lib (tests/simt/driver.cpp)."""
from cases_streams import changing, rebuilt
from harness import Env, Skip, case, crcs, expect, fails, ffmpeg, filt, frames, run

GIVEN = ('-init_hw_device', 'cuda=g:0', '-filter_hw_device', 'g')


def can_cuda():
    return ' hwdownload ' in run('ffmpeg', '-filters').out.decode()


def on_gpu(d, *args, then='', nb=1280, sound=None, ok=True, checks='on', flags=4, out=(), **opts):
    if not can_cuda():
        raise Skip('this ffmpeg was built without CUDA')
    if not Env.simt:
        raise Skip('there is no emulated GPU: make simt')
    opts.setdefault('devices', 'cuda0')
    env = dict(LD_LIBRARY_PATH=str(Env.simt), SIMT_CHECKS=checks, SIMT_FLAGS=str(flags), OMP_WAIT_POLICY='passive')
    line = (*args, '-i', sound or d.wav(nb), '-filter_complex', '[0:a]' + filt(image=d.png(), **opts) + then)
    return ffmpeg(*line, *out, env=env, timeout=300) if out else frames(*line, ok=ok, env=env, timeout=300)


@case
def cuda_frames(d):
    """Downloaded, they are those that format= gives: in a context of the user's, and in the primary one; rows have a pitch there."""
    for fmt, args in (('nv12', GIVEN), ('yuv420p', ())):
        host = expect(on_gpu(d, format=fmt, checks='off'), 2)
        gpu = expect(on_gpu(d, *args, format='cuda', hw_format=fmt, then=',hwdownload,format=' + fmt), 2)
        assert crcs(gpu) == crcs(host), fmt + ': other frames on the GPU'


@case
def cuda_frames_stay(d):
    """
    Nobody behind the filter waits for the GPU: it has read a frame when the library writes that memory again, three blocks later. The primary
    context is somebody's who has opened it as FFmpeg does not want it.
    """
    r = on_gpu(d, nb=640 * 38, flags=0, format='cuda', out=('-c:v', 'wrapped_avframe', '-f', 'null', '-', '-loglevel', 'verbose'))
    assert "a context of FFmpeg's own" in r.text(), r.text()[-800:]
    assert 'cuda' in r.text().split('Output #0')[1], 'no frames on the GPU\n' + r.text()[-800:]


@case
def cuda_graph_is_rebuilt(d):
    """The session goes on in the next instance, which gives its frames memory of its own."""
    host, gpu = (on_gpu(d, '-copyts', sound=changing(d), checks='off', **o) for o in (
        dict(format='nv12'), dict(format='cuda', then=',hwdownload,format=nv12')))
    rebuilt(gpu)
    assert crcs(gpu) == crcs(host)


@case
def cuda_device_is_another(d):
    other = ('-init_hw_device', 'cuda=g:1', '-filter_hw_device', 'g')
    f = on_gpu(d, *other, format='cuda', then=',hwdownload,format=nv12', ok=False, checks='off')
    assert not f
    fails(f, 'is GPU 1', 'decoded on cuda0', 'vae_device=cuda1')


@case
def cuda_needs_a_gpu(d):
    f = on_gpu(d, format='cuda', devices='cpu', then=',hwdownload,format=nv12', ok=False)
    assert not f
    fails(f, 'decoded on cpu', 'vae_device')
    f = on_gpu(d, format='cuda', hw_format='rgb24', then=',hwdownload', ok=False)
    fails(f, 'hw_format=rgb24', 'nv12')


@case
def cuda_is_not_built_in(d):
    if can_cuda():
        raise Skip('this ffmpeg was built with CUDA')
    fails(ffmpeg('-i', d.wav(640), '-filter_complex', '[0:a]' + filt(image=d.png(), format='cuda'), '-f', 'null', '-', ok=False),
          'built without CUDA', '--enable-ffnvcodec')
