"""The training itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from models.nodule_detection.network import NoduleNet
from models.nodule_detection.train.backgrounds import Background
from models.nodule_detection.train.scenes import ANYWHERE, AROUND, Batch, training_batch


@dataclass(frozen=True, slots=True)
class Plan:
    """What decides the outcome, beside the backgrounds.

    Attributes:
        seed: of everything that is random.
        steps: of the optimizer.
        batch: patches of one step; divides the patches of a scene.
        rate: highest learning rate.
        autocast: bfloat16 inside the network while it learns.
        threads: of torch; another number gives other last digits.
    """

    seed: int
    steps: int = 900
    batch: int = 6
    rate: float = 2e-3
    autocast: Literal["off", "bfloat16"] = "off"
    threads: int = 2


#: Share of scenes in scanned backgrounds.
REAL_SHARE = 0.7

Say = Callable[[str], None]


def train(backgrounds: Sequence[Background], plan: Plan, say: Say) -> NoduleNet:
    """A network after `plan.steps` steps. The same machine, torch, plan and backgrounds give
    the same numbers."""
    with _repeatable(plan):
        return _train(backgrounds, plan, say)


@contextmanager
def _repeatable(plan: Plan) -> Iterator[None]:
    """Fixed threads, seed and algorithms; the process's own come back afterwards."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(plan.threads)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(plan.seed)
            yield
    finally:
        torch.use_deterministic_algorithms(strict)
        torch.set_num_threads(threads)


def _train(backgrounds: Sequence[Background], plan: Plan, say: Say) -> NoduleNet:
    network = NoduleNet().to(memory_format=torch.channels_last_3d).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=plan.rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, plan.steps))
    turns = (AROUND + ANYWHERE) // plan.batch
    rng = np.random.default_rng([plan.seed, 0])
    begun, recent = time.monotonic(), [0.0, 0.0]
    for step in range(plan.steps):
        if step % turns == 0:
            number = step // turns
            chosen = _choose(backgrounds, rng)
            made = training_batch(chosen, (plan.seed, 1, number))
            order = torch.from_numpy(rng.permutation(AROUND + ANYWHERE))
        picked = order[(step % turns) * plan.batch :][: plan.batch]
        with torch.autocast("cpu", torch.bfloat16, enabled=plan.autocast == "bfloat16"):
            image = made.image[picked].to(memory_format=torch.channels_last_3d)
            maps = network(image)
        heat, rest = losses(maps.float(), made, picked)
        optimizer.zero_grad()
        torch.autograd.backward(heat + rest)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        recent = [
            0.95 * old + 0.05 * float(new.detach())
            for old, new in zip(recent, (heat, rest), strict=True)
        ]
        if (step + 1) % 50 == 0 or step + 1 == plan.steps:
            spent = time.monotonic() - begun
            say(
                f"step {step + 1} of {plan.steps}, {spent:.0f} s: "
                f"heat {recent[0]:.3f}, place and size {recent[1]:.3f}"
            )
    return network.to(memory_format=torch.contiguous_format).eval()


def losses(
    maps: torch.Tensor, made: Batch, picked: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Penalty-reduced focal loss of the heat map (Law and Deng, eq. 1), and L1 of the rest."""
    heat, counts = made.heat[picked], made.counts[picked]
    logit = maps[:, :1]
    chance = torch.sigmoid(logit)
    centre = (heat >= 0.999).float() * counts
    found = -F.logsigmoid(logit) * (1 - chance) ** 2 * centre
    missed = -F.logsigmoid(-logit) * chance**2 * (1 - heat) ** 4 * counts * (1 - centre)
    number = centre.sum().clamp(min=1.0)
    near = made.near[picked] * counts
    off = (maps[:, 1:] - made.rest[picked]).abs().sum(1, keepdim=True) * near
    return (found.sum() + missed.sum()) / number, off.sum() / near.sum().clamp(min=1.0)


def _choose(backgrounds: Sequence[Background], rng: np.random.Generator) -> Background:
    """A scanned one more often than a drawn one, where there are both."""
    kinds = [[item for item in backgrounds if item.real is real] for real in (True, False)]
    wanted = 0 if rng.random() < REAL_SHARE else 1
    among = kinds[wanted] or kinds[1 - wanted]
    return among[int(rng.integers(len(among)))]


def _rate(step: int, steps: int) -> float:
    """A short rise, then a cosine."""
    rise = max(1, min(50, steps // 10))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise))) + 1e-3
