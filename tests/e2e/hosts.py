#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two hosts on this one: network namespaces with a cable between them (veth), each with a name of its own. mpirun runs in `one` and starts
workers in `two` by a script in the place of ssh. Wants root. Arguments as for mpi.py.
"""
import collections
import fcntl
import os
import pathlib
import random
import re
import select
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import mpi                                                                              # noqa: E402
from tool_harness import Nut, Skip, require                                                 # noqa: E402

PLACES = (('--host', '10.77.0.1:1'), ('--host', '10.77.0.2:3'))
AGENT = """#!/bin/sh
shift
exec ip netns exec avatar-two unshare --uts sh -c 'hostname two; exec sh -c "$0"' "$*"
"""
IN_ONE = ['ip', 'netns', 'exec', 'avatar-one', 'unshare', '--uts', 'sh', '-c', 'hostname one; exec "$@"', 'sh']


def sh(*lines):
    for line in lines:
        subprocess.run(line.split(), check=True, stdout=subprocess.DEVNULL)


class BadCable(threading.Thread):
    """Between two ends, av1 and av2, that this program reads and writes: a frame arrives LATE seconds later, of a thousand LOST do not."""
    LATE, LOST = 0.002, 1
    TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454ca, 2, 0x1000

    def __init__(self):
        super().__init__(daemon=True)
        self.dice, self.lost, self.carried, self.going = random.Random(7), 0, 0, True
        self.end = [os.open('/dev/net/tun', os.O_RDWR | os.O_NONBLOCK) for _ in range(2)]
        for i, fd in enumerate(self.end):
            fcntl.ioctl(fd, self.TUNSETIFF, struct.pack('16sH22x', b'av%d' % (i + 1), self.IFF_TAP | self.IFF_NO_PI))

    def take(self, i, queue):
        try:
            frame = os.read(self.end[i], 65536)
        except OSError:                                             # not up yet, or gone
            return
        if self.dice.randrange(1000) < self.LOST:
            self.lost += 1
        else:
            queue.append((time.monotonic() + self.LATE, 1 - i, frame))

    def run(self):
        queue = collections.deque()
        while self.going:
            wait = queue[0][0] - time.monotonic() if queue else 0.1
            for fd in select.select(self.end, [], [], max(0, wait))[0]:
                self.take(self.end.index(fd), queue)
            while queue and queue[0][0] <= time.monotonic():
                _, i, frame = queue.popleft()
                self.carried += 1
                try:
                    os.write(self.end[i], frame)
                except OSError:
                    pass
        for fd in self.end:
            os.close(fd)


class Hosts:
    """Up as long as the block lasts. cable: BadCable, or None for the kernel's own"""

    def __init__(self, tmp, cable=None):
        self.kind, self.cable = cable, None
        self.agent = tmp / 'agent'
        self.agent.write_text(AGENT)
        self.agent.chmod(0o755)
        self.options = ('--mca', 'plm_rsh_agent', self.agent)

    def __enter__(self):
        self.__exit__()
        sh('ip netns add avatar-one', 'ip netns add avatar-two')
        if self.kind:
            self.cable = self.kind()
            sh('ip link set av1 netns avatar-one', 'ip link set av2 netns avatar-two')
            self.cable.start()
        else:
            sh('ip link add av1 netns avatar-one type veth peer name av2 netns avatar-two')
        for n, i in (('one', 1), ('two', 2)):
            sh('ip -n avatar-%s addr add 10.77.0.%d/24 dev av%d' % (n, i, i), 'ip -n avatar-%s link set av%d up' % (n, i),
               'ip -n avatar-%s link set lo up' % n)
        return self

    def __exit__(self, *_):
        if self.cable:
            self.cable.going = False
            self.cable.join()
        for n in 'one', 'two':
            subprocess.run(['ip', 'netns', 'del', 'avatar-' + n], stderr=subprocess.DEVNULL)


def film(hosts, tmp, out, seconds):
    wav, png = mpi.inputs(tmp, seconds)
    mpi.ok(mpi.speak(wav, png, tmp / 't.nut', '--devices', 'cpu|cpu|cpu'))
    mpi.ok(IN_ONE + mpi.beside(mpi.speak(wav, png, tmp / out), 2, options=hosts.options, hosts=PLACES))
    require((tmp / 't.nut').read_bytes() == (tmp / out).read_bytes(), 'other bytes than threads give')


def same_bytes_over_a_cable(tmp):
    with Hosts(tmp) as hosts:
        film(hosts, tmp, 'o.nut', 3)


def a_bad_cable_changes_nothing(tmp):
    """2 ms each way, a frame of a thousand lost."""
    if not os.path.exists('/dev/net/tun'):
        raise Skip('this kernel has no /dev/net/tun')
    with Hosts(tmp, BadCable) as hosts:
        film(hosts, tmp, 'o.nut', 12)
        require(hosts.cable.lost >= 3, 'the cable was good', hosts.cable.carried, hosts.cable.lost)


def a_cut_cable_is_told(tmp):
    """In 10 s, on both sides; what was finished is a film; nobody is left."""
    with Hosts(tmp) as hosts:
        g = mpi.Going(tmp, hosts.options, PLACES, IN_ONE)
        try:
            g.wait_for(lambda: mpi.STAGES['stream'](g))
            blocks, start = g.blocks(), time.time()
            sh('ip -n avatar-one link set av1 down')
            while not re.search(r'avatar: process [123] on two \(cpu\) is lost: it does not answer', g.text()):
                require(time.time() < start + 10, 'nobody says it:', g.text())
                time.sleep(0.1)
            while mpi.ours(tmp):                                    # `two` says it on its own side of the cable
                require(time.time() < start + 25, 'left behind', mpi.ours(tmp))
                time.sleep(0.1)
            require(len(Nut(tmp / 'o.nut').video) >= 12 * blocks, 'frames are missing', g.text())
        finally:
            g.kill()


def main():
    if os.geteuid() or subprocess.run(['ip', 'netns', 'list'], capture_output=True).returncode:
        print('SKIPPED: network namespaces want root and iproute2')
        print('0 passed, 0 failed, 1 skipped')
        return 0
    return mpi.main([same_bytes_over_a_cable, a_bad_cable_changes_nothing, a_cut_cable_is_told])


if __name__ == '__main__':
    sys.exit(main())
