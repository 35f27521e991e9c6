"""Recurrent layers over x (s, b, I), and random numbers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from edgekit.formats.coreml.mil.ops import Ints, operation

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "linear": lambda x: x,
    "hard_sigmoid": lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
    "scaled_tanh": lambda x: 1.7159 * torch.tanh(2 / 3 * x),
}


def _sequence(outputs: list[Tensor], reverse: bool, whole: bool) -> Tensor:
    """Outputs in time's order, or the final one alone: (s or 1, b, H)."""
    return torch.stack(outputs[::-1] if reverse else outputs) if whole else outputs[-1][None]


def _bias(bias: Tensor | None) -> Tensor:
    return torch.zeros(()) if bias is None else bias


@operation
def rnn(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    activation: str = "tanh",
) -> tuple[Tensor, Tensor]:
    """h = activation(W x + U h + bias)."""
    h, outputs, act = initial_h, [], _ACTIVATIONS[activation]
    steps = x @ weight_ih.T + _bias(bias)
    for step in reversed(steps.unbind()) if direction == "reverse" else steps.unbind():
        h = act(step + h @ weight_hh.T)
        outputs.append(h)
    return _sequence(outputs, direction == "reverse", output_sequence), h


@operation
def gru(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    reset_after: bool = False,
    input_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gates in the order reset, output, update.

    With reset_after, U h of the output gate (with its part of `bias`) is multiplied by the reset gate; else h is,
    before U. `input_bias` is added to W x.
    """
    gate, act = _ACTIVATIONS[recurrent_activation], _ACTIVATIONS[activation]
    h, outputs = initial_h, []
    hidden_bias = (bias if bias is not None else torch.zeros(weight_hh.shape[0])).chunk(3)
    u_reset, u_out, u_update = weight_hh.chunk(3)
    steps = x @ weight_ih.T + _bias(input_bias)
    for step in reversed(steps.unbind()) if direction == "reverse" else steps.unbind():
        w_reset, w_out, w_update = step.chunk(3, -1)
        reset = gate(w_reset + h @ u_reset.T + hidden_bias[0])
        update = gate(w_update + h @ u_update.T + hidden_bias[2])
        inner = reset * (h @ u_out.T + hidden_bias[1]) if reset_after else (reset * h) @ u_out.T + hidden_bias[1]
        h = (1 - update) * act(w_out + inner) + update * h
        outputs.append(h)
    return _sequence(outputs, direction == "reverse", output_sequence), h


@operation
def lstm(
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gates in the order input, forget, output, cell; both directions side by side in the last axis."""
    acts = (_ACTIVATIONS[recurrent_activation], _ACTIVATIONS[cell_activation], _ACTIVATIONS[activation])
    first = (weight_ih, weight_hh, bias, peephole)
    if direction != "bidirectional":
        return _lstm(x, initial_h, initial_c, first, acts, clip, direction == "reverse", output_sequence)
    if weight_ih_back is None or weight_hh_back is None:
        raise ValueError("a bidirectional lstm needs weight_ih_back and weight_hh_back")
    (h, h_back), (c, c_back) = initial_h.chunk(2, -1), initial_c.chunk(2, -1)
    back = (weight_ih_back, weight_hh_back, bias_back, peephole_back)
    ahead = _lstm(x, h, c, first, acts, clip, False, output_sequence)
    behind = _lstm(x, h_back, c_back, back, acts, clip, True, output_sequence)
    both = [torch.cat(pair, -1) for pair in zip(ahead, behind, strict=True)]
    return both[0], both[1], both[2]


def _lstm(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weights: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    acts: tuple[Callable[[Tensor], Tensor], ...],
    clip: float | None,
    reverse: bool,
    whole: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    weight_ih, weight_hh, bias, peephole = weights
    gate, cell, act = acts
    peep_in, peep_forget, peep_out = (torch.zeros(3, 1) if peephole is None else peephole.reshape(3, -1)).unbind()
    steps, outputs = x @ weight_ih.T + _bias(bias), []
    for step in reversed(steps.unbind()) if reverse else steps.unbind():
        i, f, o, z = (step + h @ weight_hh.T).chunk(4, -1)
        new = gate(f + c * peep_forget) * c + gate(i + c * peep_in) * cell(z)
        c = new if clip is None else new.clamp(-clip, clip)
        h = gate(o + c * peep_out) * act(c)
        outputs.append(h)
    return _sequence(outputs, reverse, whole), h, c


def _generator(seed: int) -> torch.Generator:
    """Core ML's own stream is not public: the distribution is the same, the numbers are not."""
    generator = torch.Generator()
    if seed == -1:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


@operation(exact=True)
def random_normal(shape: Ints, mean: Tensor | None = None, stddev: float = 1.0, seed: int = -1) -> Tensor:
    """Normal numbers in the type of `mean`."""
    middle = torch.zeros(()) if mean is None else mean
    return (torch.randn(shape, generator=_generator(seed)) * stddev + middle.float()).to(middle.dtype)


@operation(exact=True)
def random_uniform(shape: Ints, low: Tensor | None = None, high: float = 1.0, seed: int = -1) -> Tensor:
    """Uniform numbers from low to high, in the type of `low`."""
    least = torch.zeros(()) if low is None else low
    spread = torch.rand(shape, generator=_generator(seed)) * (high - float(least))
    return (spread + least.float()).to(least.dtype)


@operation(exact=True)
def random_bernoulli(shape: Ints, prob: Tensor | None = None, seed: int = -1) -> Tensor:
    """1 with a probability, else 0, in the type of `prob`."""
    share = torch.tensor(0.5) if prob is None else prob
    return (torch.rand(shape, generator=_generator(seed)) < share.float()).to(share.dtype)


@operation(exact=True)
def random_categorical(x: Tensor, mode: str = "logits", size: int = 1, seed: int = -1) -> Tensor:
    """`size` draws for each row (B, K) of logits or probabilities, in the type of x."""
    chances = torch.softmax(x.float(), -1) if mode == "logits" else x.float()
    return torch.multinomial(chances, size, replacement=True, generator=_generator(seed)).to(x.dtype)
