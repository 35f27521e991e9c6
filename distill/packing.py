"""One prompt, many responses: a question's prompt runs through the decoder once for all of its responses.

The responses of a question stand one after the other behind its prompt in one row. A block mask lets each see the
prompt and itself only, and each begins at the position after the prompt, so its states are those of a row of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from edgekit.families import family_of

if TYPE_CHECKING:
    from edgekit.distill.embedded import Embedded


def takes_pairs(config: Any) -> bool:
    """Does the decoder take a mask of pairs in every layer? Windows and states that run along the row do not."""
    kinds = set(getattr(config.get_text_config(), "layer_types", None) or ["full_attention"])
    return kinds == {"full_attention"} and family_of(config.model_type).decoder_inputs is None


def can_pack(model: Any) -> bool:
    """Do the decoder and the attention it was loaded with take a mask of pairs?"""
    return takes_pairs(model.config) and model.config.get_text_config()._attn_implementation in ("eager", "sdpa")


def worth_packing(model: Any, prompt: int, owners: Sequence[int], lengths: Sequence[int]) -> bool:
    """Is packing less work than a row for each response?

    Counted per layer are products with weights, some 12 D^2 a token, and with keys and values, 2 D a pair of tokens;
    long responses behind a short prompt have fewer pairs when each stands alone.

    Args:
        model: Whose decoder.
        prompt: P, tokens of the longest prompt.
        owners, lengths: (R,) question and tokens of each response.
    """
    if len(set(owners)) == len(owners):
        return False
    width = int(model.config.get_text_config().hidden_size)
    packed = prompt + max(_tails(owners, lengths).values())
    alone = prompt + max(lengths)
    work = [rows * (6 * width * row + row**2) for rows, row in ((len(set(owners)), packed), (len(owners), alone))]
    return work[0] < work[1]


def _tails(owners: Sequence[int], lengths: Sequence[int]) -> dict[int, int]:
    """Question -> tokens behind its prompt; the last token of a response predicts nothing and is left out."""
    tails: dict[int, int] = {}
    for owner, length in zip(owners, lengths, strict=True):
        tails[owner] = tails.get(owner, 0) + length - 1
    return tails


@dataclass(frozen=True)
class Layout:
    """Where the tokens behind the prompts stand.

    Attributes:
        ids: (Q, S) tokens, 0 where there is none.
        owner: (Q, S) number of the response each belongs to; -1 where there is none.
        step: (Q, S) its place in the response, from 0.
        row, column: (K,) where the state that predicts each response token is, column 0 being the prompt's last token.
    """

    ids: Tensor
    owner: Tensor
    step: Tensor
    row: Tensor
    column: Tensor

    @classmethod
    def of(cls, questions: int, owners: Sequence[int], responses: Sequence[Sequence[int]]) -> Layout:
        """Lay out R responses behind the prompts of their questions."""
        tails = _tails(owners, [len(response) for response in responses])
        ids = torch.zeros(questions, max(tails.values()), dtype=torch.long)
        owner, step = torch.full_like(ids, -1), torch.zeros_like(ids)
        used, rows, columns = [0] * questions, [], []
        for number, (question, response) in enumerate(zip(owners, responses, strict=True)):
            start, count = used[question], len(response) - 1
            place = slice(start, start + count)
            ids[question, place] = torch.tensor(response[:-1], dtype=torch.long)
            owner[question, place], step[question, place] = number, torch.arange(count)
            rows += [question] * len(response)
            columns += [0, *range(start + 1, start + count + 1)]
            used[question] += count
        return cls(ids, owner, step, torch.tensor(rows), torch.tensor(columns))

    def to(self, device: torch.device) -> Layout:
        """The same elsewhere."""
        return Layout(*(part.to(device) for part in vars(self).values()))


def packed_hidden(model: Any, prompts: Embedded, owners: Sequence[int], responses: Sequence[Sequence[int]]) -> Tensor:
    """Hidden states (K, D) that predict each response token, the prompt of each question run once.

    Args:
        model: A Hugging Face VLM for which `can_pack` holds.
        prompts: Of Q questions, left-padded.
        owners: (R,) which question each response belongs to.
        responses: R token lists, none empty.
    """
    questions, prompt = prompts.mask.shape
    layout = Layout.of(questions, owners, responses).to(prompts.embeds.device)
    size = layout.ids.shape[1]
    embeds = torch.cat([prompts.embeds, model.get_input_embeddings()(layout.ids)], 1)
    after = prompts.following(torch.arange(questions, device=embeds.device), max(1, size))
    steps = layout.step.expand(*after.shape[:-1], size)
    hidden = model.get_decoder()(
        inputs_embeds=embeds,
        attention_mask=_block_mask(model, prompts.mask.bool(), layout.owner, embeds.dtype),
        position_ids=torch.cat([prompts.positions, after.gather(-1, steps)], -1),
        use_cache=False,
        **prompts.extra(range(questions), size),
    ).last_hidden_state
    picked: Tensor = hidden[layout.row, layout.column + prompt - 1]
    return picked


def _block_mask(model: Any, prompt: Tensor, owner: Tensor, dtype: torch.dtype) -> Tensor:
    """Which tokens each token sees: (Q, 1, P + S, P + S), booleans or what is added to the attention's logits.

    Args:
        model: Its attention implementation decides which.
        prompt: bool (Q, P).
        owner: (Q, S) response of each token behind the prompt, -1 for none.
        dtype: Of the embeddings.
    """
    width = prompt.shape[1]
    # A prompt is response -2 of its own, that everything real sees; padding is -1.
    group = torch.cat([torch.where(prompt, -2, -1), owner], 1)
    length = group.shape[1]
    order = torch.arange(length, device=group.device)
    causal = order[:, None] >= order
    same = (group[:, :, None] == group[:, None, :]) & (group != -1)[:, None, :]
    seen = causal & (same | (group == -2)[:, None, :] & (order >= width)[:, None])
    seen |= torch.eye(length, dtype=torch.bool, device=group.device)  # padding sees itself: a row of none is NaN
    if model.config.get_text_config()._attn_implementation == "sdpa":
        return seen.unsqueeze(1)
    return torch.where(seen, 0.0, torch.finfo(dtype).min).to(dtype).unsqueeze(1)
