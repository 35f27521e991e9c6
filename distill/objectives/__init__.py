"""Distillation objectives, one file each.

Each file holds a dataclass `Loss(Objective)` whose fields are the objective's settings, set by `objective_settings` in
a recipe. Gradients flow to the student (and to adapters of the objective itself) only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor, nn

from edgekit.errors import RecipeError
from edgekit.recipe import model as recipe
from edgekit.registry import Registry

Rows = Literal["drawn", "teacher", "right", "reference"]
RIGHT = 0.5
"""R_acc from which on a response counts as right, for objectives over `right` ones."""


@dataclass(frozen=True)
class Side:
    """What one model did with the R distinct responses of a batch, for objectives that look inside it.

    Attributes:
        hidden: Layer -> (K, D) states of the positions that predict the answer tokens, after that decoder layer.
        attention: (R, H, L, L) weights of the first decoder layer; None unless an objective asked.
        images: (I, D) projected image tokens of the Q questions in order, as the language model gets them.
        image_at: bool (R, L), where the image tokens stand in `attention`.
        text_at: bool (R, L), where the other real tokens stand.
        owners: (R,) question of each response.
        image_counts: (Q,) image tokens of each question.
    """

    hidden: dict[int, Tensor]
    attention: Tensor | None
    images: Tensor
    image_at: Tensor
    text_at: Tensor
    owners: Tensor
    image_counts: Tensor


@dataclass(frozen=True)
class Sizes:
    """What an objective's adapters must fit: widths, decoder layers and attention heads of both models."""

    student_width: int
    teacher_width: int
    student_layers: int
    teacher_layers: int
    student_heads: int
    teacher_heads: int


@dataclass
class Objective:
    """The base of all objectives: a token part, and perhaps a part over the whole batch.

    Attributes:
        over: Responses the token part is taken over: all that were drawn, the teacher's only, the drawn ones that are
            right (R_acc of at least `RIGHT`), or the reference answers.
    Class attributes:
        looks_at: "hidden" and "attention" make the trainer record these; the latter needs eager attention.
        compares_images: Makes the trainer run the teacher on blank images too, for `token_weights`.
    """

    looks_at: ClassVar[frozenset[str]] = frozenset()
    compares_images: ClassVar[bool] = False
    over: Rows = field(default="drawn", kw_only=True)

    def per_token(self, student: Tensor, teacher: Tensor, ids: Tensor) -> Tensor:
        """Loss of each answer token.

        Args:
            student: Logits (K, V), with gradient.
            teacher: Logits (K, V), without.
            ids: (K,) the tokens themselves.

        Returns:
            (K,) in nats unless the objective says otherwise.
        """
        raise NotImplementedError

    def token_weights(self, seen: Tensor, unseen: Tensor, lengths: Tensor) -> Tensor:
        """What each answer token weighs, where `compares_images`.

        Args:
            seen, unseen: (K,) the teacher's log-probabilities of the tokens with the images, and with blank ones.
            lengths: (R,) tokens of each response.

        Returns:
            (K,).
        """
        raise NotImplementedError

    def adapters(self, sizes: Sizes) -> nn.Module | None:
        """Layers of its own that are trained along and thrown away afterwards."""
        return None

    def batch_part(self, student: Side, teacher: Side, adapters: Any) -> Tensor | None:
        """A scalar added to the mean of the token part."""
        return None

    def after_step(self, loss: float, step: int, steps: int) -> None:
        """Told the mean of its token part after optimiser step `step` (from 1) of `steps`; for schedules."""

    def state(self) -> dict[str, float]:
        """What a resumed run must get back."""
        return {}

    def restore(self, state: Mapping[str, float]) -> None:
        """Take `state` back."""


OBJECTIVES: Registry[type[Objective]] = recipe.OBJECTIVES


def build(name: str, settings: Mapping[str, Any]) -> Objective:
    """An objective with its settings.

    Raises:
        RecipeError: a setting it does not have, of a wrong kind, or out of its range.
    """
    cls = OBJECTIVES.load(name)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if unknown := sorted(set(settings) - set(fields)):
        there = ", ".join(fields)
        raise RecipeError(f"objective_settings.{name}: unknown setting {unknown[0]!r}.", fix=f"There are: {there}.")
    try:
        made = cls(**settings)
        if made.over not in get_args(Rows):
            raise ValueError(f"over {made.over!r} is not one of {', '.join(get_args(Rows))}")
        return made
    except (TypeError, ValueError) as error:
        raise RecipeError(f"objective_settings.{name}: {error}.") from error


def in_range(name: str, value: float, holds: bool, text: str) -> None:
    """Refuse a setting.

    Raises:
        ValueError: it does not hold.
    """
    if isinstance(value, (bool, str)) or not holds:
        raise ValueError(f"{name} {value!r} is not {text}")
