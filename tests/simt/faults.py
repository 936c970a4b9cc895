#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""faults.py --src DIR --build DIR --compile COMMAND --cc COMMAND --link COMMAND --libs LIBS [--write doc/cuda.md] [NAME...]

Plants the typical faults of CUDA code into our own kernels, backend and messages between cards, one at a time, in a copy, and says whether the tests on the
emulated GPU find them, the short set before the long one, and in which schedule first. A fault that nobody finds is a failure, and so is a pattern that the source no longer has.
With --write, the table between the marks "faults:" of the document is made anew.
"""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import time

SCHEDULES = (('eager', 'forward'), ('lazy', 'reverse'), ('random', 'random'))

# what, file, what stands there, what is planted, the test that should find it, other files to be compiled with a changed header
FAULTS = [
    ('one cp.async group too few waited for', 'attention.cu', 'cp_async_wait<1>();', 'cp_async_wait<2>();', 'kernels/attention'),
    ('no barrier behind the wait for cp.async', 'attention.cu', 'cp_async_wait<1>();\n        __syncthreads();', 'cp_async_wait<1>();', 'kernels/attention'),
    ('no barrier before a tile is filled again', 'attention.cu', '__syncthreads();                                            // this slot', '// this slot', 'kernels/attention'),
    ('the first cp.async group never closed', 'attention.cu', 'fetch_tile(0, 0);\n    cp_async_commit();', 'fetch_tile(0, 0);', 'kernels/attention'),
    ('off by one in the ring of tiles', 'attention.cu', 'const int slot = t & 1,', 'const int slot = (t + 1) & 1,', 'kernels/attention'),
    ('values not turned (ldmatrix without .trans)', 'attention.cu', 'ldsm4t(b,', 'ldsm4(b,', 'kernels/attention'),
    ('no mask behind the second segment', 'attention.cu', 'head, lane);\n        if (nb - k0 < KEYS)', 'head, lane);\n        if (nb - k0 < KEYS && t < first_tiles)', 'kernels/attention'),
    ('stride of a head in place of a row', 'attention.cu', 'src + (size_t)(first + r) * row + c * 8', 'src + (size_t)(first + r) * hd + c * 8', 'kernels/attention'),
    ('shared memory not asked for', 'attention.cu', 'cudaFuncAttributeMaxDynamicSharedMemorySize, smem)', 'cudaFuncAttributeMaxDynamicSharedMemorySize, 0)', 'kernels/attention'),
    ('no barrier between two tiles of values', 'attention_exact.cu', '__syncthreads();\n                fetch_values', 'fetch_values', 'kernels/attention'),
    ('a sum read before all warps wrote it', 'kernel.cuh', 'part[32 * i + warp] = v[i];\n    __syncthreads();', 'part[32 * i + warp] = v[i];', 'kernels/norms', 'norms.cu'),
    ('a sum overwritten while others read it', 'kernel.cuh', '    }\n    __syncthreads();\n}', '    }\n}', 'kernels/norms', 'norms.cu'),
    ('rows of a table by number, not by width', 'norms.cu', 'r / n.run * n.width', 'r / n.run', 'kernels/norms'),
    ('no guard at the end of a row', 'kernel.cuh', 'v[i] = i < left ? to_f32(p[i]) : 0;', 'v[i] = to_f32(p[i]);', 'kernels/norms', 'norms.cu'),
    ('16 bytes at any address', 'elementwise.cu', 'const bool wide = aligned16(c->out.data, c->x.data);', 'const bool wide = true;', 'kernels/elementwise'),
    ('blocks add without atomics', 'reduce.cu', 'add_saturating(total, bad);', '*total += bad;', 'kernels/pixels'),
    ('a count that is not cleared', 'reduce.cu', 'cudaMemsetAsync(c->out.data, 0, sizeof(int32_t), avt_cuda(be)->stream)', 'cudaSuccess', 'kernels/pixels'),
    ('no barrier before a tile is filled (product)', 'product.cuh', '        __syncthreads();\n        put_tile_row(left', '        put_tile_row(left', 'kernels/conv1d', 'conv.cu'),
    ('no barrier after a tile is filled (product)', 'product.cuh', 'next_w);\n        __syncthreads();', 'next_w);', 'kernels/conv1d', 'conv.cu'),
    ('padding off by one', 'conv.cu', 'm * spec.stride - spec.pad0, group', 'm * spec.stride - spec.pad0 + 1, group', 'kernels/conv1d'),
    ('a plan for another shape', 'plans.cu', 'for (Entry *e = plans->bucket[bucket_of(key, size)]; e; e = e->next)\n        if (e->size == size && !memcmp(e->key, key, size)) {\n            e->used',
     'for (int i = 0; i < BUCKETS; i++)\n        for (Entry *e = plans->bucket[i]; e; e = e->next)\n        if (e->size == size) {\n            e->used', 'kernels/linear'),
    ('alignment not told to the library', 'lt.cu', 'const uint32_t alignment = ALIGNMENT;', 'const uint32_t alignment = 256;', 'kernels/linear'),
    ('two things in one piece of workspace', 'linear.cu', 'w.library + s.library + s.weight + s.x : NULL;', 'w.library + s.library : NULL;', 'kernels/linear'),
    ('a number of a group that is turned with another lane', 'codes.cuh', 'turn_lanes(v, 8);', 'turn_lanes(v, 4);', 'kernels/quantize', 'quantize.cu'),
    ('the largest of a warp taken for its row\'s', 'codes.cuh', 'if (team <= 32)', 'if (team <= 512)', 'kernels/quantize', 'quantize.cu'),
    ('the scale of a row of x forgotten', 'quantize.cu', 'own * w[i]', 'w[i]', 'kernels/quantize'),
    ('two heads with one scale', 'norms.cu', 'int o = lanes / 2; o', 'int o = lanes; o', 'kernels/quantize'),
    ('logs of a row taken for another\'s', 'attention_dnn.cu', 'row % heads * n + row / heads', 'row', 'kernels/attention'),
    ('one result of two segments for both', 'attention_dnn.cu', '(size_t)i * (s->result + s->logs)', '0', 'kernels/attention'),
    ('work on the default stream', 'backend_cuda.cu', 'cudaMemcpyDeviceToHost, avt_cuda(be)->stream), "copying to the host"', 'cudaMemcpyDeviceToHost, 0), "copying to the host"', 'backend'),
    ('no wait between two queues', 'backend_cuda.cu', 'cudaStreamWaitEvent(avt_cuda(be)->stream, avt_cuda(m.be)->event[m.at % CUDA_EVENTS], 0)', 'cudaSuccess', 'backend'),
    ('a wait for the event before', 'backend_cuda.cu', 'avt_cuda(m.be)->event[m.at % CUDA_EVENTS], 0', 'avt_cuda(m.be)->event[(m.at + CUDA_EVENTS - 1) % CUDA_EVENTS], 0', 'backend'),
    ('pinned memory filled before its copy ran', 'upload.cu', 'cudaEventSynchronize(c->done)', 'cudaSuccess', 'backend'),
    ('an error left behind for a library to find', 'errors.cu', 'cudaGetLastError();\n    return 0;\n}\n', 'return 0;\n}\n', 'backend'),
    ('a device that is lost taken for a mistake', 'errors.cu', 'case cudaErrorDevicesUnavailable: case', 'case', 'backend'),
    ('work on another device than the current one', 'backend_cuda.cu', 'cudaSetDevice(avt_cuda(be)->index), "choosing the device"', 'cudaSuccess, "choosing the device"', 'peers'),
    ('a message between cards without its mark', 'comm/comm_threads.c', 'l->sent = avt_mark(d->be);', 'l->sent = (Mark){ 0 };', 'peers'),
    ('a message not waited for', 'comm/comm_threads.c', 'avt_wait(d->be, l->sent);', '', 'peers'),
    ('a place filled before its message was taken', 'comm/comm_threads.c', 'avt_wait(d->be, l->taken);', '', 'peers'),
    ('a message sent before it is there', 'comm/comm_nccl.c', 'avt_wait(c->queue, c->sends ? l->sent : l->taken);', '', 'nccl'),
    ('a message taken before it has come', 'comm/comm_nccl.c', '*(c->sends ? &l->taken : &l->sent) = avt_mark(c->queue);', '*(c->sends ? &l->taken : &l->sent) = (Mark){ 0 };', 'nccl'),
    ('both ends of a way tell NCCL in an order of their own', 'comm/comm_nccl.c', '*j = c->job[c->first];\n        c->first = (c->first + 1) % c->room;', '*j = c->job[(c->first + (c->sends ? c->nb - 1 : 0)) % c->room];\n        c->first = (c->first + !c->sends) % c->room;', 'nccl'),
    ('the way is not torn off after a loss', 'comm/comm_nccl.c', 'direct()->close(&c->way, status_of(c->group) < 0);', '', 'nccl'),
    ('marked before NCCL has put it into the queue', 'nccl.cu', 'return AVT_ERR(EAGAIN);', 'return 0;', 'nccl'),
    ('a block handed out before its frames are there', 'engine/frames.c', 'recv(f, i, f->block[place]);\n    return ret < 0 ? ret : avt_sync(f->be);', 'recv(f, i, f->block[place]);\n    return ret;', 'frames'),
    ('a repeated frame not waited for', 'engine/frames.c', 'avt_at(f->block[from], at));\n    return avt_sync(f->be);', 'avt_at(f->block[from], at));\n    return 0;', 'frames'),
    ('another frame repeated than the last', 'engine/frames.c', 'avt_at(f->block[from], at)', 'avt_at(f->block[from], 0)', 'frames'),
    ('a part\'s lines put where half of them go', 'engine/frames.c', 'to + first / each * row', 'to + first / 2 * row', 'frames'),
    ('a device-to-host copy said to be the other way', 'upload.cu', 'size, cudaMemcpyHostToDevice', 'size, cudaMemcpyDeviceToHost', 'backend'),
]


def options():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    for name in ('src', 'build', 'compile', 'cc', 'link', 'parts', 'libs'):
        p.add_argument('--' + name, required=True)
    p.add_argument('--write')
    p.add_argument('names', nargs='*')
    return p.parse_args()


def shell(cmd, env=None, limit=600):
    try:
        p = subprocess.run(cmd, shell=True, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, timeout=limit)
        return p.returncode, p.stdout.decode(errors='replace')
    except subprocess.TimeoutExpired:
        return 124, 'no end within %d s' % limit


def plant(o, fault, at):
    """A copy of kernels/cuda, kernels/comm and model/engine with the fault. @return objects to compile, or why it cannot be planted"""
    what, name, old, new, test, *others = fault
    for folder in 'kernels/cuda', 'kernels/comm', 'model/engine':
        to = at / pathlib.Path(folder).name
        to.mkdir(parents=True, exist_ok=True)
        for f in (pathlib.Path(o.src) / folder).glob('*.*'):
            (to / f.name).write_bytes(f.read_bytes())
    path = at / (name if '/' in name else 'cuda/' + name)
    text = path.read_text()
    if text.count(old) != 1:
        return None, '%s has "%s" %d times' % (name, old, text.count(old))
    path.write_text(text.replace(old, new))
    return [at / 'cuda' / s for s in others] or [path], None


def build_library(o, objects, at):
    """libavatar.so.0 with the emulated GPU, as simt.mak makes it, in which what is changed comes first; the driver is the same file."""
    (at / 'lib').mkdir(exist_ok=True)
    ret, out = shell('%s -shared -Wl,-soname,libavatar.so.0 -Wl,-z,nodelete -Wl,--version-script=%s/tests/simt/driver.map -o %s/lib/libavatar.so.0 %s '
                     '-Wl,--allow-multiple-definition -Wl,--whole-archive %s/simt/libavatar.a -Wl,--no-whole-archive %s && ln -sf libavatar.so.0 %s/lib/libcuda.so.1' %
                     (o.link, o.src, at, ' '.join(objects), o.build, o.libs, at))
    return out if ret else None


def runs_of(o, test, program, lib):
    """What is run of a test's program, or with a library, the short set before the long one."""
    if test == 'frames':
        frames = 'LD_LIBRARY_PATH=%s %s/tests/gpu/frames --tiny' % (lib, o.build)
        return [frames + " --devices 'cuda0|cuda1' --plan layer --vae-device cuda1 --vae-split 2", frames]
    return [str(program) + sets for sets in ([''] if '/' not in test else [' --device cuda0 --sample', ' --device cuda0'])]


def limit_of(o, test, i, env, known={}):
    """Seconds for run i of a test with a fault: five times what it takes without one at present, and a minute. So what does not end has no end."""
    key = (test, i, tuple(env.items()))
    if key not in known:
        start = time.monotonic()
        ret, out = shell('exec env ' + runs_of(o, test, o.build + '/simt/tests/' + test, o.build + '/simt/lib')[i], env, 3600)
        if ret:
            sys.exit('faults.py: %s fails without a fault: %s' % (test, out[-300:]))
        known[key] = 60 + 5 * (time.monotonic() - start)
    return known[key]


def build(o, sources, test, at):
    objects = []
    for s in sources:
        objects.append('%s.o' % s)
        compiler, how = (o.cc if s.suffix == '.c' else o.compile).split(' ', 1)     # its headers before the tree's
        ret, out = shell('%s -I%s %s -c -o %s %s' % (compiler, at, how, objects[-1], s))
        if ret:
            return out
    if test == 'frames':
        return build_library(o, objects, at)
    own = 'tests/simt/%s_test' % test if '/' not in test else 'tests/' + test
    base = o.build + ('/simt' if '/' not in test else '')
    ret, out = shell('%s -o %s %s %s/obj/%s.o %s %s/simt/libavatar.a %s' %
                     (o.link, at / 'test', ' '.join(objects), base, own, o.parts, o.build, o.libs))
    return out if ret else None


def kind_of(ret, out):
    told = re.findall(r'^simt: ([a-z.-]+): ', out, re.M)
    kinds = [k for i, k in enumerate(told) if k not in told[:i]]
    if 'FAILED TEST' in out or re.search(r'\[  FAILED  \]|^FAIL ', out, re.M):
        kinds.append('a test fails')
    return ', '.join(kinds[:3]) or ('no end' if ret == 124 else 'exit code %d' % ret)


def try_fault(o, fault, at):
    """@return (found, how)"""
    sources, why = plant(o, fault, at)
    if why:
        return False, why
    why = build(o, sources, fault[4], at)
    if why:
        return False, 'does not build: ' + why[-300:]
    for i, run in enumerate(runs_of(o, fault[4], at / 'test', at / 'lib')):
        for schedule, order in SCHEDULES:
            env = {'SIMT_SCHEDULE': schedule, 'SIMT_ORDER': order, 'OMP_WAIT_POLICY': 'passive'}
            ret, out = shell('exec env ' + run, env, limit_of(o, fault[4], i, env))         # exec: what has no end is itself ended
            if ret:
                return True, '%s: %s' % (schedule, kind_of(ret, out))
    return False, 'nobody'


def write_table(path, rows):
    text = pathlib.Path(path).read_text()
    table = '| fault | planted in | found, schedule first |\n|---|---|---|\n' + ''.join('| %s | `%s` | %s |\n' % r for r in rows)
    start, end = '<!-- faults: -->\n', '<!-- /faults -->\n'
    i, j = text.index(start) + len(start), text.index(end)
    pathlib.Path(path).write_text(text[:i] + table + text[j:])


def main():
    o = options()
    rows, missed = [], 0
    for i, fault in enumerate(FAULTS):
        if o.names and not any(n in fault[0] or n == fault[1] for n in o.names):
            continue
        found, how = try_fault(o, fault, pathlib.Path(o.build) / 'simt/faults' / str(i))
        print('%s %-48s %-20s %s' % ('ok  ' if found else 'FAIL', fault[0], fault[1], how), flush=True)
        rows.append((fault[0], fault[1], how))
        missed += not found
    if o.write and not o.names and not missed:
        write_table(o.write, rows)
    print('%d passed, %d failed, 0 skipped' % (len(rows) - missed, missed))
    return missed > 0


if __name__ == '__main__':
    sys.exit(main())
