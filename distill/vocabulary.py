"""Everything the loss takes from the vocabulary, without vocabulary-sized tensors for all tokens at once.

Hidden states of the answer tokens are projected chunk by chunk. What leaves a chunk are scalars per token: the
student's log-probability of the token and the objectives' losses; the chunk's logits are made again in the backward
pass. The results are those of the dense computation (tests hold them to 1e-5, gradients too). For 2 N D V flops per
projection this costs one student and one teacher projection more than the dense way, and saves all of its memory.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from edgekit.distill.objectives import Objective
from edgekit.distill.objectives.jsd import Loss as JsdLoss

# Float32 values of one block of logits: large enough for full-speed products, small beside any model.
CHUNK_VALUES = {"cpu": 1 << 23, "cuda": 1 << 26}
# Float32 values that are worked on at a time within a block.
ROW_VALUES = 1 << 21
# Bytes of a batch's shares that may be kept for the backward pass instead of being made again.
KEEP_BYTES = {"cpu": 1 << 29, "cuda": 1 << 30}


class Terms(NamedTuple):
    """What the loss needs of each answer token.

    Attributes:
        logp: (K,) log-probability of the token under the student, nats.
        losses: Objective name -> (K,).
        teacher_logp: (K,) the same under the teacher, without gradient; None where it was not wanted.
    """

    logp: Tensor
    losses: dict[str, Tensor]
    teacher_logp: Tensor | None = None


def answer_terms(
    student: tuple[Tensor, nn.Module],
    teacher: tuple[Tensor, nn.Module],
    ids: Tensor,
    objectives: Mapping[str, Objective],
    vocab: int,
    rows: int | None = None,
    *,
    teacher_logp: bool = False,
    again: bool = False,
) -> Terms:
    """Log-probabilities and losses of K answer tokens.

    Args:
        student: Hidden states (K, D_S) that predict the tokens, and the output head.
        teacher: The same of the teacher; no gradient flows here.
        ids: (K,) the tokens.
        objectives: By name.
        vocab: Size V of the vocabulary prefix both heads share.
        rows: Tokens per chunk; chosen by size when None.
        teacher_logp: Also give the teacher's log-probabilities.
        again: Whether backward is to run more than once over these terms; costs a copy of what is kept for it.

    Returns:
        Float32 terms with gradients to the student's states and head.
    """
    place = student[0].device.type
    size = rows or max(1, CHUNK_VALUES.get(place, CHUNK_VALUES["cuda"]) // vocab)
    names = list(objectives)
    fast = _jsd_of(objectives, student[1], teacher[1])
    if fast is not None:
        (ours, theirs), beta = (student[1].weight, teacher[1].weight), fast
        keep = KEEP_BYTES.get(place, KEEP_BYTES["cuda"])
        settings = (beta, vocab, size, keep, teacher_logp, again)
        logp, loss, aimed = _Jsd.apply(student[0], ours, teacher[0], theirs, ids, *settings)  # type: ignore[no-untyped-call]
        return Terms(logp, {names[0]: loss}, aimed if teacher_logp else None)

    def chunk(hidden: Tensor, other: Tensor, wanted: Tensor) -> tuple[Tensor, ...]:
        logits = student[1](hidden)[:, :vocab].float()
        with torch.no_grad():
            aim = teacher[1](other)[:, :vocab].float()
        logp = _of_token(logits, wanted)
        aimed = _of_token(aim, wanted) if teacher_logp else logp.detach()
        return (logp, aimed, *(objective.per_token(logits, aim, wanted) for objective in objectives.values()))

    parts = [
        checkpoint(chunk, *cut, use_reentrant=False)
        for cut in zip(*(torch.split(part, size) for part in (student[0], teacher[0].detach(), ids)), strict=True)
    ]
    logp, aimed, *losses = (torch.cat(column) for column in zip(*parts, strict=True))
    return Terms(logp, dict(zip(names, losses, strict=True)), aimed if teacher_logp else None)


@torch.no_grad()
def token_logps(hidden: Tensor, head: nn.Module, ids: Tensor, vocab: int) -> Tensor:
    """Log-probability (K,) of each token from states (K, D), chunk by chunk, without gradient."""
    place = hidden.device.type
    size = max(1, CHUNK_VALUES.get(place, CHUNK_VALUES["cuda"]) // vocab)
    chunks = zip(torch.split(hidden, size), torch.split(ids, size), strict=True)
    return torch.cat([_of_token(head(states)[:, :vocab].float(), wanted) for states, wanted in chunks])


def _of_token(logits: Tensor, wanted: Tensor) -> Tensor:
    """Log-probability (k,) of one token of each row."""
    return logits.log_softmax(-1).gather(1, wanted.unsqueeze(1)).squeeze(1)


def _jsd_of(objectives: Mapping[str, Objective], *heads: nn.Module) -> float | None:
    """beta, where the hand-written backward pass below serves: JSD alone, on plain heads."""
    plain = all(type(head) is nn.Linear and head.bias is None for head in heads)
    only = next(iter(objectives.values())) if len(objectives) == 1 else None
    return only.beta if plain and type(only) is JsdLoss else None


class _Jsd(torch.autograd.Function):
    """Log-probability of the token and JSD with the gradient written out, block by block.

    With m = b p_T + (1 - b) p_S:  dJSD/dz_S = (1 - b) p_S (ln(p_S / m) - KL(p_S, m)),  dlogp/dz_S = onehot - p_S.
    So the backward pass needs ln p_S and ln(p_S / m). Both are kept of the first tokens, as many as `keep` bytes hold,
    and made again for the others. All that is done on a block happens in its two buffers, a few rows at a time.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, other: Tensor, other_head: Tensor, ids: Tensor, beta: float,
        vocab: int, size: int, keep: int, teacher_logp: bool, again: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        kind = _product_dtype(hidden)
        ours, theirs = head[:vocab].to(kind), other_head[:vocab].to(kind)
        logp, loss, own, aimed = (torch.empty(len(ids), dtype=torch.float32, device=hidden.device) for _ in range(4))
        kept: list[Tensor] = []
        fit = keep // (8 * vocab) if any(ctx.needs_input_grad[:2]) else 0
        blocks = _blocks(len(ids), fit, size)
        for number, at in enumerate(blocks):
            s, t = _logits(hidden[at], ours), _logits(other[at], theirs)
            for rows in _rows(s):
                if teacher_logp:
                    aimed[at][rows] = _of_token(t[rows], ids[at][rows])
                _divergence(s[rows], t[rows], beta, loss[at][rows], own[at][rows])
            logp[at] = s.gather(1, ids[at].unsqueeze(1)).squeeze(1)
            if number == 0 and fit:
                kept = [s, t]
            del s, t
        ctx.save_for_backward(hidden, head, other, other_head, ids, own, *kept)
        ctx.settings = (beta, vocab, blocks, kind, again)
        ctx.mark_non_differentiable(aimed)
        return logp, loss, aimed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, head, other, other_head, ids, own, *kept = ctx.saved_tensors
        beta, vocab, blocks, kind, again = ctx.settings
        to_logp, to_loss, _ = grads
        ours, theirs = head[:vocab].to(kind), other_head[:vocab].to(kind)
        back_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        back_head = torch.zeros_like(head) if ctx.needs_input_grad[1] else None
        for number, at in enumerate(blocks):
            if number == 0 and kept:
                s, gap = kept[0], kept[1].clone() if again else kept[1]
            else:
                s, gap = _logits(hidden[at], ours), _logits(other[at], theirs)
                for rows in _rows(s):
                    _divergence(s[rows], gap[rows], beta)
            for rows in _rows(s):
                back = gap[rows].sub_(own[at][rows].unsqueeze(1))
                back.mul_((1 - beta) * to_loss[at][rows].unsqueeze(1)).sub_(to_logp[at][rows].unsqueeze(1))
                back.mul_(s[rows].exp())
            gap.scatter_add_(1, ids[at].unsqueeze(1), to_logp[at].unsqueeze(1))
            product = gap.to(kind)
            if back_hidden is not None:
                back_hidden[at] = product @ ours
            if back_head is not None:
                back_head[:vocab].addmm_(product.t().to(back_head.dtype), hidden[at].to(back_head.dtype))
            del s, gap, product
        return (back_hidden, back_head, *[None] * 9)


def _product_dtype(hidden: Tensor) -> torch.dtype:
    """What a matrix product would be computed in here: autocast's type where it is on."""
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _logits(hidden: Tensor, head: Tensor) -> Tensor:
    """Float32 logits (k, V)."""
    with torch.autocast(hidden.device.type, enabled=False):
        return linear(hidden.to(head.dtype), head).float()


def _blocks(tokens: int, fit: int, size: int) -> list[slice]:
    """The first `fit` tokens as one block, the others in blocks of `size`."""
    first = min(tokens, fit)
    cuts = [0, *([first] if first else []), *range(first + size, tokens, size), tokens]
    return [slice(start, end) for start, end in itertools.pairwise(cuts) if end > start]


def _rows(block: Tensor) -> list[slice]:
    """A few rows at a time, so that what is made on the way stays small."""
    step = max(1, ROW_VALUES // block.shape[1])
    return [slice(start, start + step) for start in range(0, len(block), step)]


def _divergence(s: Tensor, t: Tensor, beta: float, loss: Tensor | None = None, own: Tensor | None = None) -> None:
    """Logits of a few rows to ln p_S (in `s`) and ln(p_S / m) (in `t`), in place.

    Args:
        s, t: Student's and teacher's logits (k, V).
        beta: The teacher's share of m.
        loss, own: (k,) to fill with the JSD and KL(p_S, m).
    """
    s.sub_(s.logsumexp(-1, keepdim=True))
    t.sub_(t.logsumexp(-1, keepdim=True))
    # ln(p_S / m) = -ln((1 - b) + b p_T / p_S), which underflows nowhere.
    gap = t.sub(s).add_(math.log(beta) - math.log1p(-beta))
    gap = nn.functional.softplus(gap).add_(math.log1p(-beta)).neg_()
    if loss is not None and own is not None:
        torch.linalg.vecdot(s.exp(), gap, out=own)
        loss.copy_(torch.linalg.vecdot(t.exp(), t.sub_(s).add_(gap))).mul_(beta).add_(own, alpha=1 - beta)
    t.copy_(gap)
