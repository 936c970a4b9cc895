# SPDX-License-Identifier: LGPL-2.1-or-later
"""Muon for matrices and filters, AdamW for the rest, as one optimizer: what all three trainers descend with."""
import torch

import parallel


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum on weights seen as [out, in * taps]; steps as large as AdamW's."""

    def __init__(self, params):
        super().__init__(params, dict(lr=0.))

    @torch.no_grad()
    def step(self):
        for g in self.param_groups:
            for p in g["params"]:
                if p.grad is None:
                    continue
                grad = p.grad.reshape(p.shape[0], -1)
                st = self.state[p]
                if "m" not in st:
                    st["m"] = torch.zeros_like(grad)
                st["m"].lerp_(grad, .05)
                x = grad.lerp(st["m"], .95)
                tall = x.shape[0] > x.shape[1]
                x = x.t() if tall else x
                x = x / (x.norm() + 1e-7)
                for _ in range(5):                           # Newton-Schulz
                    q = x @ x.t()
                    x = 3.4445 * x + (-4.775 * q + 2.0315 * (q @ q)) @ x
                x = x.t() if tall else x
                p.mul_(1 - g["lr"] * .01).add_(x.reshape(p.shape), alpha=-g["lr"] * .2 * max(x.shape) ** .5)


class Optimizer:
    def __init__(self, params, wide, betas, decay=0.):
        """params: all that is taught; wide: those of them for Muon"""
        self.params, ids = list(params), {id(p) for p in wide}
        rest = [p for p in self.params if id(p) not in ids]
        self.parts = [Muon(wide), torch.optim.AdamW(rest, betas=betas, weight_decay=decay)]

    def descend(self, loss, lr):
        """One step on every rank alike"""
        for part in self.parts:
            part.zero_grad(set_to_none=True)
        loss.backward()
        parallel.average(self.params)
        torch.nn.utils.clip_grad_norm_(self.params, 1.)
        for part in self.parts:
            for g in part.param_groups:
                g["lr"] = lr
            part.step()

    def state_dict(self):
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states):
        for part, s in zip(self.parts, states):
            part.load_state_dict(s)
