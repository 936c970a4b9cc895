#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Films over several processes under mpirun: the same bytes as threads give; who is refused; who is killed, stopped, interrupted.

    mpi.py [--mpirun mpirun] --tool build/avatar --media build/tests/media --model DIR --other DIR [--bin build/ffmpeg/bin] [CASE ...]
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import tool_harness                                                                     # noqa: E402
from tool_harness import Nut, Skip, case, face, require, tone                     # noqa: E402

LIMIT = 300
A = None
ENV = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT='1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM='1', OMP_WAIT_POLICY='passive')
for name in ('OMPI_COMM_WORLD_SIZE', 'PMI_SIZE', 'PMIX_RANK'):
    ENV.pop(name, None)


def speak(wav, png, out, *more):
    return [A.tool, 'speak', wav, png, '--model', A.model, '--seed', 3, '--cpu-threads', 1, '-o', out, *more]


def worker(*more, model=None):
    return [A.tool, 'worker', '--model', model or A.model, '--cpu-threads', 1, *more]


def is_mpich():
    return b'HYDRA' in subprocess.run([A.mpirun, '--version'], stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout


def mpirun():
    """Of Open MPI, or of MPICH, which has no limit of processes that would have to be lifted."""
    return [A.mpirun] + ['--oversubscribe'] * (not A.mpich)


def want_several():
    if not A.several:
        raise Skip('this mpirun takes no two programs on a line (Debian 13: doc/cluster.md)')


def line_of(*programs):
    """mpirun's line for several programs."""
    want_several()
    line = mpirun()
    for i, p in enumerate(programs):
        line += [':'] * (i > 0) + [str(a) for a in p]
    return line


def beside(film, nb, *workers, options=(), hosts=((), ())):
    """mpirun's line: a film, and nb workers of each of the kinds given; what says where the film and where the workers run."""
    return line_of([*options, *hosts[0], '-n', 1, *film], *([*hosts[1], '-n', nb, *w] for w in workers or [worker()]))


def run(line):
    p = subprocess.run([str(a) for a in line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=LIMIT, env=ENV)
    p.text = p.stderr.decode()
    return p


def ok(line):
    p = run(line)
    require(p.returncode == 0, line, 'gives', p.returncode, p.text)
    return p


def ours(tmp):
    """Processes of ours that run: worker and film, told by the folder of this case in the environment."""
    found = {}
    for d in pathlib.Path('/proc').glob('[0-9]*'):
        try:
            mine = ('AVATAR_CASE=%s' % tmp).encode() in (d / 'environ').read_bytes()
            line = (d / 'cmdline').read_bytes().decode().split('\0')
        except OSError:
            continue
        if mine and line[0].endswith('avatar') and len(line) > 1:
            found.setdefault(line[1], []).append(int(d.name))
    return found


# ---- the same bytes --------------------------------------------------------------------------------------------------------------


def inputs(tmp, seconds):
    return tone(tmp / 'a.wav', 0.3, seconds), face(tmp)


@case
def same_bytes_as_threads(tmp):
    """2, 3, 4 and 8 processes, a rank each; a rank of each and two; the VAE in a worker and alone in one; sequential in one of them; teams over them."""
    wav, png = inputs(tmp, 3)
    eight = '|'.join(8 * ['cpu'])
    for nb, devices, same, more in ((2, None, 'cpu|cpu', ()), (3, None, 'cpu|cpu|cpu', ()), (8, None, eight, ('--plan', 'layer+tensor2')), (4, None, 'cpu|cpu|cpu|cpu', ()), (2, '1:cpu|cpu|1:cpu', 'cpu|cpu|cpu', ()),
                                    (3, '1:cpu|2:cpu', 'cpu|cpu', ('--vae_device', '0:cpu:own')), (2, '1:cpu', 'cpu', ()),
                                    (4, '0:cpu|1:cpu|2:cpu|3:cpu', 'cpu|cpu|cpu|cpu', ('--plan', 'timestep')),
                                    (2, '0:cpu|1:cpu', 'cpu|cpu', ('--plan', 'tensor2', '--vae_split', '2')),
                                    (4, '0:cpu|1:cpu|2:cpu|3:cpu', 'cpu|cpu|cpu|cpu', ('--plan', 'layer+ulysses2'))):
        ok(speak(wav, png, tmp / 't.nut', '--devices', same, *(m.replace('0:cpu', 'cpu') for m in more)))
        ok(beside(speak(wav, png, tmp / 'm.nut', *(('--devices', devices) if devices else ()), *more), nb - 1))
        require((tmp / 't.nut').read_bytes() == (tmp / 'm.nut').read_bytes(), nb, devices, 'gives other bytes than threads do')


@case
def who_has_no_work_says_so(tmp):
    """More workers than the plan has ranks: the film is made, and they do not say that it was not."""
    wav, png = inputs(tmp, 1)
    for devices in ('0:cpu|2:cpu', '1:cpu'):
        p = ok(beside(speak(wav, png, tmp / 'o.nut', '--devices', devices), 2))
        require(p.text.count('no work here: the film is made by ') == 1 and 'before it began' not in p.text, p.text)


@case
def one_line_for_all(tmp):
    """All processes are the same program: the first of them becomes what stands behind --."""
    wav, png = inputs(tmp, 1)
    line = [*mpirun(), '-n', 3, *worker(), '--']
    ok(speak(wav, png, tmp / 't.nut', '--devices', 'cpu|cpu|cpu'))
    ok(line + speak(wav, png, tmp / 'm.nut'))
    require((tmp / 't.nut').read_bytes() == (tmp / 'm.nut').read_bytes(), 'other bytes than threads give')
    p = run(line + ['no-such-film'])
    require(p.returncode and 'avatar worker: no-such-film, which is to make the film: No such file' in p.text, p.returncode, p.text)


def find_ffmpeg():
    ffmpeg = pathlib.Path(A.bin or '/nowhere') / 'ffmpeg'
    if not ffmpeg.exists():
        raise Skip('no ffmpeg with the filter here')
    return ffmpeg


def avatar(seed=3, devices='auto', more=''):
    return "avatar=model=%s:seed=%d:cpu_threads=1:devices='%s'%s" % (A.model, seed, devices, more)


def same_film(tmp, inputs, graph, level='error', nb=3):
    """graph(devices) over as many threads and processes. What ffmpeg said of the latter."""
    for out, devices in (('t.nut', '|'.join(nb * ['cpu'])), ('m.nut', 'auto')):
        film = [find_ffmpeg(), '-v', level, '-y', *inputs, '-filter_complex', graph(devices), '-an', '-c:v', 'rawvideo', '-fflags', '+bitexact', tmp / out]
        words = ok(film if devices != 'auto' else beside(film, nb - 1)).text
    require((tmp / 't.nut').read_bytes() == (tmp / 'm.nut').read_bytes(), graph('auto'), 'gives other bytes than threads do')
    return words


@case
def filter_over_processes(tmp):
    """The same through ffmpeg, whose 5.1 builds its graph twice, so that engine and session are opened anew in the same processes; and two films of
    one graph at once, sharing the workers."""
    wav, png = inputs(tmp, 2)
    for nb, more in ((2, ''), (3, ''), (4, ''), (8, ':plan=layer+tensor2')):
        same_film(tmp, ('-i', wav, '-i', png), lambda d: '[0:a][1:v]' + avatar(3, d, more), nb=nb)
    same_film(tmp, ('-i', wav, '-i', png), lambda d: '[0:a]asplit[a][b];[1:v]split[p][q];[a][p]%s[v];[b][q]%s[w];[v][w]hstack' % (avatar(3, d), avatar(4, d)))


def two_rates(tmp, second):
    """Four seconds of 48 kHz, then, from `second` on, two of 32 kHz, in one stream: ffmpeg builds the graph anew between the two."""
    with open(tmp / 'two.ts', 'wb') as out:
        for rate, offset, seconds in ((48000, 0, 4), (32000, second, 2)):
            ok([find_ffmpeg(), '-v', 'error', '-y', '-i', tone(tmp / 'r.wav', 0.3, seconds, rate), '-c:a', 'aac', '-muxdelay', 0, '-muxpreload', 0,
                '-output_ts_offset', offset, tmp / 'p.ts'])
            out.write((tmp / 'p.ts').read_bytes())
    return '-copyts', '-dts_delta_threshold', '100', '-i', tmp / 'two.ts'


@case
def a_rebuilt_graph(tmp):
    """In mid-stream: one session goes on in the next graph; and, where the sound jumps, workers serve a second one after the first."""
    png = face(tmp)
    for second, nb_frames, nb_sessions in ((4, 152, 1), (30, 152, 2)):
        words = same_film(tmp, two_rates(tmp, second), lambda d: '[0:a]' + avatar(3, d, ':image=%s' % png), 'verbose')
        require('samplerate:32000' in words, 'the graph was not built anew', words)
        require(words.count('at 25 fps, seed 3, layer on 0:cpu|1:cpu|2:cpu') == nb_sessions, words)
        require(abs(len(Nut(tmp / 'm.nut').video) - nb_frames) <= 2, len(Nut(tmp / 'm.nut').video), 'frames')


# ---- refused ---------------------------------------------------------------------------------------------------------------------


def refused(line, *words):
    start = time.time()
    p = run(line)
    require(p.returncode != 0, line, 'is not refused')
    require(time.time() - start < 60, 'refused after', time.time() - start, 's')
    for w in words:
        require(w in p.text, 'wanted', repr(w), 'in', p.text)


@case
def who_is_refused(tmp):
    """Another model, a process that is not there, a worker alone, workers without a film, two films."""
    wav, png = inputs(tmp, 1)
    film = speak(wav, png, tmp / 'o.nut')
    refused(beside(film, 1, worker(model=A.other)), 'process 1 on', 'is another model than process 0')
    refused(beside(film + ['--devices', '0:cpu|2:cpu'], 1), 'there is no process 2', 'start more workers')
    refused(film + ['--devices', '0:cpu|1:cpu'], 'there is no process 1', 'mpirun')
    refused(worker(), 'mpirun -n 1 avatar speak')
    refused([*mpirun(), '-n', 2, *worker()], '2 workers, and no process with a film')
    refused(line_of(['-n', 2, *film], ['-n', 1, *worker()]), '2 processes with a film and 1 workers')
    require(not (tmp / 'o.nut').exists(), 'a film was left')


def never_begins(film, nb_workers, *words):
    """It ends as it does alone, and the workers with it, soon, each with a sentence."""
    alone, start = run(film), time.time()
    p = run(beside(film, nb_workers))
    require(p.returncode == alone.returncode, film, 'gives', alone.returncode, 'alone, under mpirun', p.returncode, p.text)
    require(time.time() - start < 40, film, 'ends after', time.time() - start, 's')
    for w in words or ('the process with the film has ended before it began one',):
        require(p.text.count(w) == nb_workers, film, nb_workers, 'workers should say', repr(w), 'in', p.text)


@case
def a_film_that_never_begins(tmp):
    """Sound, picture, model, option that are refused; and help."""
    wav, png = inputs(tmp, 1)
    for film in (speak(tmp / 'no.wav', png, tmp / 'o.nut'), speak(wav, png, tmp / 'o.nut', '--model', '/nowhere'),
                 speak(wav, png, tmp / 'o.nut', '--frobnicate'), [A.tool, 'speak', '--help'], [A.tool, 'plan', '--model', '/nowhere']):
        never_begins(film, 3)
    never_begins(speak(wav, wav, tmp / 'o.nut'), 3, ': process ')           # an engine is open by then
    require(not (tmp / 'o.nut').exists(), 'a film was left')


@case
def a_filter_that_never_begins(tmp):
    """The same of ffmpeg: before and after it makes the filter, a graph that is never configured; and ffmpeg without the filter."""
    ffmpeg = find_ffmpeg()
    wav, png = inputs(tmp, 1)
    none = tone(tmp / 'none.wav', 0, 0)

    def film(wav, png, more='', out=('-f', 'null', '-')):
        return [ffmpeg, '-v', 'error', '-y', '-i', wav, '-i', png, '-filter_complex', '[0:a][1:v]avatar=model=%s%s' % (A.model, more), *out]

    for f in film(wav, png, ':model=/nowhere'), film(wav, wav):
        never_begins(f, 2)
    for f in (film(none, png), film(wav, png, out=('-t', 0, '-f', 'null', '-')), film(wav, png, ':image=%s' % wav)):
        never_begins(f, 2, ': process ')                            # an engine may be open by then
    for f in ([ffmpeg, '-h'], ['true'], film(tmp / 'no.wav', png)):     # after MPI_Init of the workers, or before it; 5.1 opens its input before the filter
        require(all(is_told(f) for _ in range(2)), f, 'leaves, and nobody says so')


def is_told(film):
    """Do workers end soon beside a program that is no film, and is that said, by them or by mpirun? It may end them, and itself, without a word: then
    with an exit code."""
    start = time.time()
    p = run(beside(film, 2))
    require(time.time() - start < 40, film, 'ends after', time.time() - start, 's')
    return p.returncode != 0 or any(w in p.text for w in ('ended before all had met', 'ended before it began one', 'did not call "init" before exiting', 'exited with non-zero status'))


@case
def scripts_may_stand_between(tmp):
    """Processes that are not mpirun's own children are not taken for lost."""
    wav, png = inputs(tmp, 1)
    late = ['sh', '-c', 'sleep 3; "$@"; exit $?', 'sh']
    ok(beside(late + speak(wav, png, tmp / 'o.nut'), 2, ['sh', '-c', '"$@"; exit $?', 'sh', *worker()]))


@case
def plan_of_all_processes(tmp):
    """avatar plan beside workers plans with their devices; without mpirun, on paper, with those that are named."""
    plan = [A.tool, 'plan', '--model', A.model, '--size', '64x64', '--json']
    wanted = 'layer on 0:cpu|1:cpu|2:cpu+VAE, front on cpu'
    for line in (beside(plan, 2), plan + ['--devices', 'cpu|1:cpu|2:cpu']):
        d = json.loads(ok(line).stdout)
        require(d['plan'] == wanted and [r['device'] for r in d['ranks']] == ['0:cpu', '1:cpu', '2:cpu'], d['plan'], d['ranks'])


@case
def films_alone_need_no_worker(tmp):
    """mpirun -n 2 with a film each and no worker: both run by themselves, which is said once, as someone may have meant one film."""
    wav, png = inputs(tmp, 1)
    words = ok(line_of(['-n', 1, *speak(wav, png, tmp / 'a.nut')], ['-n', 1, *speak(wav, png, tmp / 'b.nut')])).text
    require(words.count('each makes a film of its own') == 1, words)
    require((tmp / 'a.nut').read_bytes() == (tmp / 'b.nut').read_bytes())


# ---- lost ------------------------------------------------------------------------------------------------------------------------


# PMIx 4.2.2's server, in the mpirun of Open MPI 4.1.4, is left with a lock held when a process dies while it connects, and its end waits for that
# lock: every run that says this hangs, in PMIx_server_finalize, also of a program of MPI_Init and MPI_Finalize alone. doc/cluster.md has the way around.
MPI_HANGS = 'PMIX ERROR: UNREACHABLE'


class Going:
    """A long film over 4 processes, its words and its blocks as they come."""

    def __init__(self, tmp, options=(), hosts=((), ()), before=(), seconds=120):
        want_several()
        self.tmp, self.words, self.stats = tmp, tmp / 'words', tmp / 'stats'
        wav, png = tone(tmp / 'a.wav', 0.3, seconds), face(tmp)
        line = [*before, *(str(a) for a in self.line(tmp, wav, png, options, hosts))]
        self.p = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=open(self.words, 'wb'), env=dict(ENV, AVATAR_CASE=str(tmp)))

    def line(self, tmp, wav, png, options, hosts):
        return beside(speak(wav, png, tmp / 'o.nut', '--stats', self.stats), 3, options=options, hosts=hosts)

    def text(self):
        return self.words.read_text(errors='replace')

    def blocks(self):
        return self.stats.read_text().count('\n') if self.stats.exists() else 0

    def wait_for(self, what):
        end = time.time() + 120
        while not what():
            require(self.p.poll() is None or what(), 'it ended too early', self.text())
            require(time.time() < end, 'it does not get so far', self.text())
            time.sleep(0.05)

    def pid(self, process):
        """Of a worker by its number, of the film by 0."""
        if not process:
            return ours(self.tmp)['speak'][0]
        return int(re.search(r'avatar worker (\d+): process %d of' % process, self.text()).group(1))

    def is_met(self):
        return len(re.findall('serves with', self.text())) == 3

    def end(self, within, was_starting=False):
        """All is over in time, and nobody is left. How long it took. mpirun itself may stand still when a process died within MPI_Init: MPI_HANGS."""
        start = time.time()
        try:
            self.p.wait(within)
        except subprocess.TimeoutExpired:
            require(was_starting and MPI_HANGS in self.text() and not ours(self.tmp), 'mpirun still runs %d s later: %s' % (within, self.text()))
            for _ in range(2):
                self.p.send_signal(signal.SIGINT)
                time.sleep(1)
            self.p.wait(10)
        for _ in range(40):
            if not ours(self.tmp):
                break
            time.sleep(0.1)
        require(not ours(self.tmp), 'left behind:', ours(self.tmp))
        return time.time() - start

    def kill(self):
        for pids in ours(self.tmp).values():
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, signal.SIGKILL)
        self.p.kill()
        self.p.wait()


STAGES = {
    'start':   lambda g: True,
    'load':    lambda g: g.is_met(),
    'picture': lambda g: g.is_met() and 'at 25 fps, seed' in g.text(),
    'wave':    lambda g: g.is_met() and g.blocks() >= 1,
    'stream':  lambda g: g.is_met() and g.blocks() >= 9,
    'end':     lambda g: g.is_met() and g.blocks() >= 5,              # of a film of five
}


def lose(tmp, stage, process, sig, options=(), going=Going, device='cpu'):
    g = going(tmp, options, seconds=2 if stage == 'end' else 120)
    try:
        g.wait_for(lambda: STAGES[stage](g))
        if stage == 'start':
            g.wait_for(lambda: len(ours(tmp).get('worker', ())) == 3)
            os.kill(ours(tmp)['worker'][process - 1], sig)
            g.end(15, was_starting=True)
            return
        blocks = g.blocks()
        try:
            os.kill(g.pid(process), sig)
        except (ProcessLookupError, KeyError):
            require(stage == 'end', 'it was gone already', g.text())
        if stage == 'end':                                          # a film may be whole by then
            g.end(20)
            return
        is_told = re.compile(r'^avatar%s: process %d on \S+ \(%s\) is lost' % ('' if process else r' worker \d+', process, device), re.M)
        start = time.time()
        at_once = A.mpich and sig == signal.SIGKILL                 # its mpirun kills the others before they can say or finish anything
        while not at_once and not is_told.search(g.text()):
            require(time.time() < start + 10, stage, process, sig, 'nobody says in 10 s that it is lost:', g.text())
            time.sleep(0.05)
        if A.mpich and sig == signal.SIGSTOP:                       # its mpirun waits for that one, which finds itself alone when it goes on
            g.wait_for(lambda: sum(ours(tmp).values(), []) == [g.pid(process)])
            os.kill(g.pid(process), signal.SIGCONT)
        g.end(20)
        require(g.p.returncode != 0 or options, 'it succeeded', g.text())
        if process and blocks > 1 and not at_once:
            n = len(Nut(tmp / 'o.nut').video)
            require(n >= 12 * blocks, n, 'frames of', blocks, 'blocks were given', g.text())
    finally:
        g.kill()


@case
def a_killed_process_is_told(tmp):
    """Each of the workers, at each stage: in time, with a sentence, with the frames that were finished, with nobody left."""
    for stage in STAGES:
        for process in 1, 2, 3:
            d = tmp / ('%s-%d' % (stage, process))
            d.mkdir()
            lose(d, stage, process, signal.SIGKILL)


@case
def a_hung_process_is_told(tmp):
    """Stopped for good: found by its silence."""
    for process in (1, 3):
        d = tmp / str(process)
        d.mkdir()
        lose(d, 'wave', process, signal.SIGSTOP)


@case
def the_film_can_be_killed(tmp):
    """By each of the workers, which end with it."""
    for stage in 'wave', 'end':
        d = tmp / stage
        d.mkdir()
        lose(d, stage, 0, signal.SIGKILL)


@case
def interrupted(tmp):
    """Ctrl-C of the film, and of mpirun: all end, the frames that were made are a film."""
    for who in ('film', 'mpirun'):
        d = tmp / who
        d.mkdir()
        g = Going(d)
        try:
            g.wait_for(lambda: STAGES['stream'](g))
            os.kill(g.pid(0) if who == 'film' else g.p.pid, signal.SIGINT)
            g.end(15)
            if who == 'film':
                require(len(Nut(d / 'o.nut').video) >= 12 * 8, 'frames are missing', g.text())
                require('is lost' not in g.text(), g.text())
        finally:
            g.kill()


def main(cases=None):
    global A
    p = argparse.ArgumentParser()
    for name in ('tool', 'media', 'model', 'other', 'bin'):
        p.add_argument('--' + name)
    p.add_argument('--mpirun', default='mpirun')
    p.add_argument('cases', nargs='*')
    A = tool_harness.A = p.parse_args()
    if not shutil.which(A.mpirun) or not (pathlib.Path(A.tool).parent / 'libavatar_mpi.so').exists():
        print('SKIPPED: no mpirun, or avatar was built without MPI')
        print('0 passed, 0 failed, 1 skipped')
        return 0
    A.mpich = is_mpich()
    A.several = not run([*mpirun(), '-n', 1, 'true', ':', '-n', 1, 'true']).returncode
    return tool_harness.run_cases(A.cases, 1, cases)


if __name__ == '__main__':
    sys.exit(main())
