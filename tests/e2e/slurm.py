#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Films started by Slurm's srun, on a cluster of this one host that lives in a folder: the same bytes as threads give; a film that is refused; a
worker that is killed. Wants Slurm (Debian: slurmctld slurmd slurm-client) and root, whom slurmd must be. Arguments as for mpi.py.
"""
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import mpi                                                                              # noqa: E402
from tool_harness import require                                                        # noqa: E402

CONF = """ClusterName=avatar
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={tmp}/state
SlurmdSpoolDir={tmp}/spool
SlurmctldPidFile={tmp}/slurmctld.pid
SlurmdPidFile={tmp}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
SwitchType=switch/none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(nb):
    taken = [socket.create_server(('127.0.0.1', 0)) for _ in range(nb)]
    ports = [s.getsockname()[1] for s in taken]
    for s in taken:
        s.close()
    return ports


class Cluster:
    """Up as long as the block lasts."""

    def __init__(self, tmp):
        self.tmp, self.daemons = tmp, []
        self.env = dict(mpi.ENV, SLURM_CONF=str(tmp / 'slurm.conf'), AVATAR_CASE=str(tmp))

    def start(self, *line):
        with open(self.tmp / (line[0] + '.log'), 'wb') as log:
            self.daemons.append(subprocess.Popen([*line, '-D'], stdout=log, stderr=log, env=self.env))

    def words(self):
        return ' '.join(f.read_text(errors='replace')[-500:] for f in self.tmp.glob('*.log'))

    def __enter__(self):
        host = socket.gethostname().split('.')[0]
        for d in 'state', 'spool':
            (self.tmp / d).mkdir()
        (self.tmp / 'slurm.conf').write_text(CONF.format(host=host, tmp=self.tmp, ports=free_ports(2), cores=os.cpu_count()))
        self.start('slurmctld', '-c')
        self.start('slurmd', '-N', host)
        end = time.time() + 60
        while 'idle' not in subprocess.run(['sinfo', '-h'], env=self.env, capture_output=True, text=True).stdout:
            if time.time() > end:
                self.__exit__()
                raise AssertionError('the cluster does not come up: ' + self.words())
            time.sleep(0.2)
        return self

    def __exit__(self, *_):
        for d in reversed(self.daemons):
            d.terminate()
        for d in self.daemons:
            d.wait(60)

    def srun(self, film, nb):
        """A film and nb - 1 workers, going."""
        conf = self.tmp / 'film.conf'
        conf.write_text('0 %s\n* %s\n' % tuple(' '.join(str(a) for a in line) for line in (film, mpi.worker())))
        return subprocess.Popen(['srun', '--mpi=pmix', '-n', str(nb), '--overcommit', '--multi-prog', str(conf)], env=self.env,
                                stdout=subprocess.DEVNULL, stderr=open(self.tmp / 'words', 'wb'))

    def said(self):
        return (self.tmp / 'words').read_text(errors='replace')


def same_bytes_by_srun(tmp):
    wav, png = mpi.inputs(tmp, 3)
    mpi.ok(mpi.speak(wav, png, tmp / 't.nut', '--devices', 'cpu|cpu|cpu'))
    with Cluster(tmp) as c:
        require(c.srun(mpi.speak(wav, png, tmp / 'o.nut'), 3).wait(120) == 0, c.said())
    require((tmp / 't.nut').read_bytes() == (tmp / 'o.nut').read_bytes(), 'other bytes than threads give')


def a_refused_film_ends_all(tmp):
    """Each worker says so; srun's exit code is the film's."""
    wav, png = mpi.inputs(tmp, 1)
    with Cluster(tmp) as c:
        start = time.time()
        require(c.srun(mpi.speak(tmp / 'no.wav', png, tmp / 'o.nut'), 3).wait(120) == 1, c.said())
        require(time.time() - start < 40, 'after', time.time() - start, 's')
        require(c.said().count('the process with the film has ended before it began one') == 2, c.said())


def a_killed_worker_is_told(tmp):
    """In 10 s, with the frames that were finished, and nobody is left."""
    wav, png = mpi.inputs(tmp, 120)
    stats = tmp / 'stats'
    with Cluster(tmp) as c:
        p = c.srun(mpi.speak(wav, png, tmp / 'o.nut', '--stats', stats), 3)
        end = time.time() + 120
        while not stats.exists() or stats.read_text().count('\n') < 9:
            require(p.poll() is None and time.time() < end, 'it does not get so far', c.said())
            time.sleep(0.05)
        blocks, start = stats.read_text().count('\n'), time.time()
        os.kill(mpi.ours(tmp)['worker'][0], signal.SIGKILL)
        require(p.wait(30) != 0 and 'is lost' in c.said(), c.said())
        while mpi.ours(tmp):
            require(time.time() < start + 30, 'left behind:', mpi.ours(tmp))
            time.sleep(0.1)
        require(len(mpi.Nut(tmp / 'o.nut').video) >= 12 * blocks, 'frames are missing', c.said())


def main():
    missing = [p for p in ('slurmctld', 'slurmd', 'srun', 'sinfo') if not shutil.which(p)]
    if missing or os.geteuid():
        print('SKIPPED: %s' % ('no ' + ', '.join(missing) if missing else 'slurmd wants root'))
        print('0 passed, 0 failed, 1 skipped')
        return 0
    return mpi.main([same_bytes_by_srun, a_refused_film_ends_all, a_killed_worker_is_told])


if __name__ == '__main__':
    sys.exit(main())
