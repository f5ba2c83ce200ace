"""Jobs for tiny networks, and whether the answers are those of ``generate``."""

import random
from collections.abc import Sequence
from typing import Any

import torch

from common.jobs import Job, Sampling
from tests.builders import a_job
from tests.worker import tiny
from tests.worker.claims import Notes

DROPPED = 300  # a token whose embedding is no number, in a network that was damaged


def prompted(length: int, seed: int = 0) -> tuple[int, ...]:
    """Tokens drawn at random, the same each time."""
    return tuple(random.Random(seed * 1_000 + length).choices(range(1, 300), k=length))


def asked(length: int, most: int, **changes: Any) -> Job:
    """A greedy job with such a prompt, unless it says otherwise."""
    told = {"prompts": (prompted(length),), "sampling": Sampling(most, 0.0)} | changes
    return a_job(**told)


def damaged() -> Any:
    """A network that has no numbers for one token."""
    network = tiny.network()
    network.get_input_embeddings().weight[DROPPED] = torch.nan
    return network


def is_what_generate_says(network: Any, notes: Notes, jobs: Sequence[Job]) -> bool:
    """Up to the first near tie; most of it must be compared."""
    compared = 0
    for job in jobs:
        expected = tiny.generated(network, job.prompts[0], job.sampling.max_tokens)
        compared += len(expected)
        if notes.tokens(job)[: len(expected)] != expected:
            return False
    return compared > 0.8 * sum(job.sampling.max_tokens for job in jobs)
