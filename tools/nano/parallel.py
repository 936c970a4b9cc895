# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where training runs: a CUDA device where PyTorch sees one (NANO_DEVICE=cpu: not), else all cores of the CPU.

On a CPU data parallel: N processes of one thread each, gradients averaged over gloo.

Twice as fast here as one process with two threads: the many small operations of these networks wait for each other at every
parallel region. Every rank makes the same optimizer step, so only gradients travel.
"""
import contextlib
import os
import subprocess
import sys
import tempfile
import time

import torch
import torch.distributed as dist

AMX = "amx_bf16" in open("/proc/cpuinfo").read()


def start(workers):
    """-> rank, processes; rank 0 starts the others as copies of this command. From here on tensors are made where training runs."""
    torch.set_flush_denormal(True)                           # before any thread starts: denormals halve the speed
    device = os.environ.get("NANO_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    if device != "cpu":
        torch.set_default_device(device)
        return 0, 1
    torch.set_num_threads(1)
    if workers == 1:
        return 0, 1
    rank = int(os.environ.get("NANO_RANK", 0))
    if rank == 0:
        os.environ["NANO_MEET"] = os.path.join(tempfile.mkdtemp(), "meet")
        for r in range(1, workers):
            subprocess.Popen([sys.executable, *sys.argv], env={**os.environ, "NANO_RANK": str(r)})
    dist.init_process_group("gloo", init_method="file://" + os.environ["NANO_MEET"], rank=rank, world_size=workers)
    return rank, workers


def here():
    return torch.get_default_device()


def wide():
    """How many times larger than on a CPU core a batch is."""
    return 8 if here().type == "cuda" else 1


def clock():
    """Seconds of training: the clock's on a GPU; on a CPU those that this process was given, as it stands back behind other work."""
    return time.process_time() if here().type == "cpu" else time.monotonic()


def half(on):
    """bf16 arithmetic where it is faster: on a GPU, and on a CPU with AMX (without it a step takes 1.0 to 1.6 times as long as in f32)"""
    return torch.autocast(here().type, torch.bfloat16) if on and (here().type != "cpu" or AMX) else contextlib.nullcontext()


def load(path):
    """A file of ours, wherever it was made; load_state_dict carries it to where it is needed."""
    return torch.load(path, map_location="cpu", weights_only=False)


def agree(*values):
    """Rank 0's numbers, on every rank."""
    t = torch.tensor(values, dtype=torch.float64)
    if dist.is_initialized():
        dist.broadcast(t, 0)
    return t.tolist()


def average(params):
    """Gradients, in place; a parameter without one gets zeros on every rank alike."""
    if not dist.is_initialized():
        return
    params = list(params)
    flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).reshape(-1) for p in params])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    at = 0
    for p in params:
        g = flat[at:at + p.numel()].reshape(p.shape)
        p.grad = g if p.grad is None else p.grad.copy_(g)
        at += p.numel()


class Threads:
    """with Threads(2): the other ranks wait, so rank 0 may use their cores"""

    def __init__(self, n):
        self.n = n

    def __enter__(self):
        self.old = torch.get_num_threads()
        torch.set_num_threads(self.n)

    def __exit__(self, *_):
        torch.set_num_threads(self.old)
