#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""kinds.py LIBRARY "80 86 90a ...": has each file of kernels in a plugin that was built for these compute capabilities machine code for each, and PTX, which
the drivers of newer cards compile, of each that is a number alone? What avt_cuda_archs_serve() (kernels/cuda/facts.h) promises, seen in the bytes.

A fat binary is a header (magic, version, its own size, the size behind it) and parts, each a header (kind 1 PTX, 2 machine code; its size
at 4, of what follows at 8; compute capability at 28) and its bytes. So cuobjdump --list-elf --list-ptx shows them; it need not be there.
"""
import re
import struct
import sys

MAGIC = struct.pack('<I', 0xba55ed50)
PTX, CODE = 1, 2
OF_LINKER = {(CODE, 75)}                # nvcc puts it into every library; it is empty


def parts(data, at):
    """{(kind, compute capability)} of the fat binary at `at`"""
    header, size = struct.unpack_from('<HQ', data, at + 6)
    end, found = at + header + size, set()
    at += header
    while at < end:
        kind, own, length = struct.unpack_from('<HxxIQ', data, at)
        found.add((kind, struct.unpack_from('<I', data, at + 28)[0]))
        at += own + length
    return found


def main():
    with open(sys.argv[1], 'rb') as f:
        data = f.read()
    archs = sys.argv[2].split()
    want = {(CODE, int(re.match(r'\d+', a)[0])) for a in archs} | {(PTX, int(a)) for a in archs if a.isdigit()}
    at = [m.start() for m in re.finditer(re.escape(MAGIC), data) if struct.unpack_from('<H', data, m.start() + 6)[0] == 16]
    at = [i for i in at if parts(data, i) != OF_LINKER]
    wrong = [(i, parts(data, i)) for i in at if parts(data, i) != want]
    for i, found in wrong:
        print('FAIL the fat binary at %#x has %s, wanted are %s' % (i, sorted(found), sorted(want)))
    if not at:
        print('FAIL no fat binary is in', sys.argv[1])
    print('%d passed, %d failed, 0 skipped' % (len(at) - len(wrong), len(wrong) + (not at)))
    return bool(wrong) or not at


if __name__ == '__main__':
    sys.exit(main())
