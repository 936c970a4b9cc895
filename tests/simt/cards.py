#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Films over several processes with an emulated GPU each, under mpirun: from card to card by NCCL's double, the same bytes as one process with
as many GPUs gives; what is said where it cannot be; who is killed. Arguments as for mpi.py.
"""
import pathlib
import re
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'e2e'))
import mpi                                                                              # noqa: E402
from tool_harness import Nut, require                                                   # noqa: E402

mpi.ENV.update(SIMT_CHECKS='off', SIMT_PATIENCE='300')


def with_card(line, host, *more):
    """A process whose card no other has."""
    return ['env', 'SIMT_HOST=%d' % host, *more, *line]


def cards(nb):
    return '|'.join('%d:cuda0' % i for i in range(nb))


def spread(film, nb, *more):
    """A film and nb - 1 workers, a card each."""
    return mpi.beside(with_card(film, 1, *more), 1, *(with_card(mpi.worker('--devices', 'cuda0'), 2 + i, *more) for i in range(nb - 1)))


def speak(wav, png, out, *more):
    return mpi.speak(wav, png, out, '--front-device', 'cpu', *more)


def same_bytes_from_card_to_card(tmp):
    """Layers over three cards; over two with NCCL and without; a team by heads."""
    wav, png = mpi.inputs(tmp, 1)
    for nb, ways, more in ((3, ('on',), ()), (2, ('on', 'off'), ()), (2, ('on',), ('--plan', 'ulysses2'))):
        one = mpi.run(with_card(speak(wav, png, tmp / 'one.nut', '--devices', '|'.join('cuda%d' % i for i in range(nb)), *more), 1,
                                'SIMT_DEVICES=%d' % nb))
        require(one.returncode == 0, one.text)
        for nccl in ways:
            p = mpi.ok(spread(speak(wav, png, tmp / 'o.nut', '--devices', cards(nb), *more), nb, 'SIMT_NCCL=' + nccl))
            require((tmp / 'o.nut').read_bytes() == (tmp / 'one.nut').read_bytes(), nb, more, nccl, 'gives other bytes than one process does')
            require(len(re.findall('has no NCCL', p.text)) == (nccl == 'off'), p.text)


def a_shared_card_is_told(tmp):
    """Both on the same one: NCCL would refuse it, the film comes all the same."""
    wav, png = mpi.inputs(tmp, 1)
    film = with_card(speak(wav, png, tmp / 'o.nut', '--devices', cards(2)), 1)
    p = mpi.ok(mpi.beside(film, 1, with_card(mpi.worker('--devices', 'cuda0'), 1)))
    require('shares its card' in p.text, p.text)


class Going(mpi.Going):
    def line(self, tmp, wav, png, options, hosts):
        return spread(speak(wav, png, tmp / 'o.nut', '--stats', self.stats, '--devices', cards(4)), 4)


def a_killed_process_is_told(tmp):
    """In mid-stream, while the others' queues wait for it on their cards: in time, with the frames that were finished, nobody left."""
    for process in 1, 2:
        d = tmp / str(process)
        d.mkdir()
        mpi.lose(d, 'wave', process, signal.SIGKILL, going=Going, device='cuda0')
        require(len(Nut(d / 'o.nut').video) >= 12, 'no frames')


if __name__ == '__main__':
    sys.exit(mpi.main([same_bytes_from_card_to_card, a_shared_card_is_told, a_killed_process_is_told]))
