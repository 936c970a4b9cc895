#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""static.py --nvcc NVCC --src DIR --work DIR [--archs "80 90a ..."] [--cuobjdump FILE] [--write doc/cuda.md] [FILE.cu...]

What the compiler says of every kernel without a GPU: registers, shared memory, blocks that a multiprocessor holds, wide loads, matrix
instructions. Instances of one template are one line: the worst of them. Spills and local memory are failures.
"""
import argparse
import collections
import pathlib
import re
import shutil
import subprocess
import sys

# registers, KiB of shared memory, threads, blocks of a multiprocessor
LIMITS = {'80': (65536, 164, 2048, 32), '86': (65536, 100, 1536, 16), '89': (65536, 100, 1536, 24), '90a': (65536, 228, 2048, 32),
          '100': (65536, 228, 2048, 32), '120': (65536, 100, 1536, 24)}
# dynamic shared memory of the launchers, bytes: attention.cu, 5 tiles of 64 x 128 bf16, 4
DYNAMIC = {'mma_kernel': 81920, 'mma_codes_kernel': 65536}


def options():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--nvcc', required=True)
    p.add_argument('--src', required=True)
    p.add_argument('--work', required=True)
    p.add_argument('--archs', default='80 90a 120')
    p.add_argument('--cuobjdump', default=shutil.which('cuobjdump') or '')
    p.add_argument('--write')
    p.add_argument('files', nargs='*')
    return p.parse_args()


def run(*cmd):
    p = subprocess.run([str(c) for c in cmd], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if p.returncode:
        sys.exit('static.py: %s: %s' % (cmd[0], p.stderr.decode(errors='replace')[-600:]))
    return p.stdout.decode(errors='replace')


def name_of(mangled):
    """The function's own name: the number in front of it says how long it is."""
    for m in re.finditer(r'\d+', mangled):
        for i in range(len(m[0])):
            word = mangled[m.end():m.end() + int(m[0][i:])]
            if word.endswith('_kernel'):
                return word
    return None


def usage(text):
    """{mangled: (registers, shared, stack + local)} out of cuobjdump -res-usage"""
    return {m[1]: (int(m[2]), int(m[4]), int(m[3]) + int(m[5]))
            for m in re.finditer(r'Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)', text)}


def instructions(text):
    """{mangled: Counter} out of cuobjdump -sass"""
    count, at = {}, None
    for line in text.splitlines():
        m = re.search(r'Function : (\S+)', line)
        if m:
            at = count.setdefault(m[1], collections.Counter())
        m = re.match(r'\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+ )?([A-Z0-9_.]+)', line)
        if m and at is not None:
            op = m[1].split('.')
            at[op[0]] += 1
            if op[0] in ('LDG', 'STG', 'LDGSTS') and '128' in op:
                at['wide'] += 1
            if op[0] in ('LDG', 'STG', 'LDGSTS'):
                at['global'] += 1
    return count


def threads(text):
    """{mangled: threads of a block} out of cuobjdump -elf"""
    return {m[1]: int(m[2], 16) for m in re.finditer(r'\.nv\.info\.(\S+)\n(?:(?!\.nv\.info\.).*\n)*?.*EIATTR_MAX_THREADS\n.*\n.*?(0x[0-9a-f]+)', text)}


def blocks_held(arch, nb, registers, shared):
    regs, kib, most_threads, most_blocks = LIMITS[arch]
    warps = (nb + 31) // 32
    by = {'registers': regs // ((registers * 32 + 255) // 256 * 256) // warps, 'shared memory': kib * 1024 // (shared + 1024),
          'threads': most_threads // (warps * 32), 'blocks': most_blocks}
    limit = min(by, key=by.get)
    return by[limit], limit


def kernels_of(o, arch, source):
    work = pathlib.Path(o.work)
    work.mkdir(parents=True, exist_ok=True)
    cubin = work / ('%s.sm_%s.cubin' % (source.stem, arch))
    run(o.nvcc, '-std=c++17', '-O3', '-arch=sm_' + arch, '-I', pathlib.Path(o.src) / 'kernels', '-I', '.', '-cubin', '-o', cubin, source)
    res, sass, nb = usage(run(o.cuobjdump, '-res-usage', cubin)), instructions(run(o.cuobjdump, '-sass', cubin)), threads(run(o.cuobjdump, '-elf', cubin))
    found = collections.defaultdict(list)
    for mangled, (registers, shared, local) in res.items():
        name = name_of(mangled)
        if name:
            found[name].append((registers, shared + DYNAMIC.get(name, 0), local, nb.get(mangled, 0), sass.get(mangled, collections.Counter())))
    return found


def line_of(arch, source, name, instances):
    registers, shared, local = (max(i[k] for i in instances) for k in range(3))
    nb = max(i[3] for i in instances)
    held, limit = blocks_held(arch, nb, registers, shared) if nb else (0, '?')
    wide, all_global = (sum(i[4][k] for i in instances) for k in ('wide', 'global'))
    mma = max(i[4]['HMMA'] for i in instances)
    return (name, source.name, 'sm_' + arch, len(instances), registers, shared, nb or '?', '%d (%s)' % (held, limit),
            '%d of %d' % (wide, all_global), mma or '', 'LOCAL %d' % local if local else '')


def main():
    o = options()
    if not o.cuobjdump:
        print('SKIPPED: cuobjdump is not on PATH')
        return 0
    sources = [pathlib.Path(f) for f in o.files] or sorted((pathlib.Path(o.src) / 'kernels/cuda').glob('*.cu'))
    rows = []
    for source in sources:
        by_name = collections.defaultdict(list)
        for arch in o.archs.split():
            for name, instances in kernels_of(o, arch, source).items():
                by_name[name].append(line_of(arch, source, name, instances))
        rows += [row for name in sorted(by_name) for row in by_name[name]]
        print('%s: %d kernels' % (source.name, len(by_name)), flush=True)
    bad = [r for r in rows if r[-1]]
    for r in bad:
        print('FAIL', *r)
    head = '| kernel | file | for | instances | registers | shared | threads | blocks held (by) | wide accesses | MMA |\n|' + '---|' * 10 + '\n'
    table = head + ''.join('| `%s` | %s |\n' % (r[0], ' | '.join(str(x) for x in r[1:-1])) for r in rows)
    if o.write:
        path = pathlib.Path(o.write)
        text = path.read_text()
        i, j = text.index('<!-- kernels: -->\n') + len('<!-- kernels: -->\n'), text.index('<!-- /kernels -->\n')
        path.write_text(text[:i] + table + text[j:])
    else:
        print(table)
    print('%d passed, %d failed, 0 skipped' % (len(rows) - len(bad), len(bad)))
    return len(bad) > 0


if __name__ == '__main__':
    sys.exit(main())
