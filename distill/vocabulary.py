"""Everything the loss takes from the vocabulary, without vocabulary-sized tensors for all tokens at once.

Hidden states of the answer tokens are projected chunk by chunk. What leaves a chunk are scalars per token: the
student's log-probability of the token and the objectives' losses; the chunk's logits are made again in the backward
pass. The results are those of the dense computation (tests hold them to 1e-5, gradients too). For 2 N D V flops per
projection this costs one student and one teacher projection more than the dense way, and saves all of its memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from edgekit.distill.objectives import Objective
from edgekit.distill.objectives.jsd import Loss as JsdLoss

# float32 values of one chunk of logits: 64 MB, large enough for full-speed products, small beside any model.
CHUNK_VALUES = 1 << 24


class Terms(NamedTuple):
    """What the loss needs of each answer token.

    Attributes:
        logp: (K,) log-probability of the token under the student, nats.
        losses: Objective name -> (K,).
    """

    logp: Tensor
    losses: dict[str, Tensor]


def answer_terms(
    student: tuple[Tensor, nn.Module],
    teacher: tuple[Tensor, nn.Module],
    ids: Tensor,
    objectives: Mapping[str, Objective],
    vocab: int,
    rows: int | None = None,
) -> Terms:
    """Log-probabilities and losses of K answer tokens.

    Args:
        student: Hidden states (K, D_S) that predict the tokens, and the output head.
        teacher: The same of the teacher; no gradient flows here.
        ids: (K,) the tokens.
        objectives: By name.
        vocab: Size V of the vocabulary prefix both heads share.
        rows: Tokens per chunk; chosen by size when None.
    Returns:
        Float32 terms with gradients to the student's states and head.
    """
    size = rows or max(1, CHUNK_VALUES // vocab)
    names = list(objectives)
    fast = _jsd_of(objectives, student[1], teacher[1])
    if fast is not None:
        (ours, theirs), beta = (student[1].weight, teacher[1].weight), fast
        logp, loss = _Jsd.apply(student[0], ours, teacher[0], theirs, ids, beta, vocab, size)  # type: ignore[no-untyped-call]
        return Terms(logp, {names[0]: loss})

    def chunk(hidden: Tensor, other: Tensor, wanted: Tensor) -> tuple[Tensor, ...]:
        logits = student[1](hidden)[:, :vocab].float()
        with torch.no_grad():
            aim = teacher[1](other)[:, :vocab].float()
        logp = logits.log_softmax(-1).gather(1, wanted.unsqueeze(1)).squeeze(1)
        return (logp, *(objective.per_token(logits, aim, wanted) for objective in objectives.values()))

    parts = [
        checkpoint(chunk, *cut, use_reentrant=False)
        for cut in zip(*(torch.split(part, size) for part in (student[0], teacher[0].detach(), ids)), strict=True)
    ]
    logp, *losses = (torch.cat(column) for column in zip(*parts, strict=True))
    return Terms(logp, dict(zip(names, losses, strict=True)))


def _jsd_of(objectives: Mapping[str, Objective], *heads: nn.Module) -> float | None:
    """beta, where the hand-written backward pass below serves: JSD alone, on plain heads."""
    plain = all(type(head) is nn.Linear and head.bias is None for head in heads)
    only = next(iter(objectives.values())) if len(objectives) == 1 else None
    return only.beta if plain and type(only) is JsdLoss else None


class _Jsd(torch.autograd.Function):
    """Log-probability of the token and JSD, chunk by chunk, with the gradient written out.

    With m = b p_T + (1 - b) p_S:  dJSD/dz_S = (1 - b) p_S (ln(p_S / m) - KL(p_S, m)),  dlogp/dz_S = onehot - p_S.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, other: Tensor, other_head: Tensor, ids: Tensor, beta: float,
        vocab: int, size: int,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        kind = _product_dtype(hidden)
        ours, theirs = head[:vocab].to(kind), other_head[:vocab].to(kind)
        logp, loss, own = (torch.empty(len(ids), dtype=torch.float32, device=hidden.device) for _ in range(3))
        for start in range(0, len(ids), size):
            at = slice(start, start + size)
            s, t = _log_shares(hidden[at], ours), _log_shares(other[at], theirs)
            logp[at] = s.gather(1, ids[at].unsqueeze(1)).squeeze(1)
            p_s, p_t = s.exp(), t.exp()
            m = _log_mixture(p_s, p_t, beta)
            own[at] = p_s.mul_(s.sub_(m)).sum(-1)
            loss[at] = beta * p_t.mul_(t.sub_(m)).sum(-1) + (1 - beta) * own[at]
        ctx.save_for_backward(hidden, head, other, other_head, ids, own)
        ctx.settings = (beta, vocab, size, kind)
        return logp, loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, head, other, other_head, ids, own = ctx.saved_tensors
        beta, vocab, size, kind = ctx.settings
        to_logp, to_loss = grads
        ours, theirs = head[:vocab].to(kind), other_head[:vocab].to(kind)
        back_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        back_head = torch.zeros_like(head) if ctx.needs_input_grad[1] else None
        for start in range(0, len(ids), size):
            at = slice(start, start + size)
            s = _log_shares(hidden[at], ours)
            p_t = _log_shares(other[at], theirs).exp_()
            p_s = s.exp()
            s.sub_(_log_mixture(p_s, p_t, beta)).sub_(own[at].unsqueeze(1))
            s.mul_((1 - beta) * to_loss[at].unsqueeze(1)).sub_(to_logp[at].unsqueeze(1)).mul_(p_s)
            s.scatter_add_(1, ids[at].unsqueeze(1), to_logp[at].unsqueeze(1))
            back = s.to(kind)
            if back_hidden is not None:
                back_hidden[at] = back @ ours
            if back_head is not None:
                back_head[:vocab].addmm_(back.t().to(back_head.dtype), hidden[at].to(back_head.dtype))
        return back_hidden, back_head, None, None, None, None, None, None


def _product_dtype(hidden: Tensor) -> torch.dtype:
    """What a matrix product would be computed in here: autocast's type where it is on."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _log_shares(hidden: Tensor, head: Tensor) -> Tensor:
    """ln softmax of the logits, float32 (k, V)."""
    with torch.autocast(hidden.device.type, enabled=False):
        logits = linear(hidden.to(head.dtype), head).float()
    return logits.sub_(logits.logsumexp(-1, keepdim=True))


def _log_mixture(p_s: Tensor, p_t: Tensor, beta: float) -> Tensor:
    """ln(b p_T + (1 - b) p_S); where both shares are 0 in float32, the smallest number stands for them."""
    return torch.lerp(p_s, p_t, beta).clamp_min_(torch.finfo(torch.float32).tiny).log_()
