"""How likely tokens are by the model alone: the logarithm of the softmax, before anything is changed or cut."""

from collections.abc import Sequence

import torch
from torch import Tensor

from worker.engine.likely import Score

_ROWS = 64  # taken together: a long prompt over a wide vocabulary is large already


def scored(logits: Tensor, tokens: Sequence[int], tops: Sequence[int]) -> list[Score]:
    """``logits`` [R, V], the ``R`` tokens that came, and how many of the likeliest to name beside each."""
    scores: list[Score] = []
    for at in range(0, len(tokens), _ROWS):
        part = slice(at, at + _ROWS)
        scores += _block(logits[part].float(), tokens[part], tops[part])
    return scores


def _block(logits: Tensor, tokens: Sequence[int], tops: Sequence[int]) -> list[Score]:
    total = logits.logsumexp(dim=1, keepdim=True)  # [r, 1]
    ids = torch.tensor(tokens, device=logits.device)[:, None]
    values = (logits.gather(1, ids) - total)[:, 0].tolist()
    most = min(max(tops), logits.shape[1])
    best, places = logits.topk(most, dim=1)
    likeliest = [
        tuple(zip(row, value, strict=True))[:top]
        for row, value, top in zip(places.tolist(), (best - total).tolist(), tops, strict=True)
    ]
    return [Score(*one) for one in zip(tokens, values, likeliest, strict=True)]
