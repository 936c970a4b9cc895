#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two hosts on this one: network namespaces with a cable between them (veth), each with a name of its own. mpirun runs in `one` and starts
workers in `two` by a script in the place of ssh. Wants root. Arguments as for mpi.py.
"""
import os
import pathlib
import re
import subprocess
import sys
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


class Hosts:
    """Up as long as the block lasts."""

    def __init__(self, tmp):
        self.agent = tmp / 'agent'
        self.agent.write_text(AGENT)
        self.agent.chmod(0o755)
        self.options = ('--mca', 'plm_rsh_agent', self.agent)

    def __enter__(self):
        self.__exit__()
        sh('ip netns add avatar-one', 'ip netns add avatar-two', 'ip link add av1 netns avatar-one type veth peer name av2 netns avatar-two')
        for n, i in (('one', 1), ('two', 2)):
            sh('ip -n avatar-%s addr add 10.77.0.%d/24 dev av%d' % (n, i, i), 'ip -n avatar-%s link set av%d up' % (n, i),
               'ip -n avatar-%s link set lo up' % n)
        return self

    def __exit__(self, *_):
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
    """2 ms each way, a packet of a thousand lost."""
    with Hosts(tmp) as hosts:
        for n, i in (('one', 1), ('two', 2)):
            line = 'tc -n avatar-%s qdisc add dev av%d root netem delay 2ms loss 0.1%%' % (n, i)
            if subprocess.run(line.split(), stderr=subprocess.DEVNULL).returncode:
                raise Skip('this kernel has no netem')
        film(hosts, tmp, 'o.nut', 3)


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
