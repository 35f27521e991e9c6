"""LoRA on the student, by peft: adapters are trained, and merged into the weights before the student is saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from edgekit.errors import EdgekitError, RecipeError
from edgekit.recipe.model import Lora


def check(settings: Lora | None) -> None:
    """Refuse adapters where peft is not installed."""
    if settings is None:
        return
    try:
        import peft  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "peft":
            raise
        raise EdgekitError(
            "trainer.lora needs peft, which is not installed.", fix="Install it:  pip install 'edgekit[lora]'"
        ) from error


def attach(model: Any, settings: Lora, seed: int = 0) -> Any:
    """The model inside peft's wrapper, its own weights frozen; the adapters change nothing until they are trained.

    Raises:
        RecipeError: no module of the model has one of these names.
    """
    from peft import LoraConfig, get_peft_model

    names: list[str] | str = list(settings.target_modules)
    if names == ["all-linear"]:
        names = "all-linear"
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=names, bias="none"
    )
    torch.manual_seed(seed)
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise RecipeError(
            f"trainer.lora.target_modules: {', '.join(settings.target_modules)} cannot take adapters.", why=str(error)
        ) from error


def merged(model: Any, settings: Lora, weights: Mapping[str, Tensor]) -> Any:
    """A plain model with trained adapters added to its weights.

    Args:
        model: As `attach` found it.
        settings: As `attach` was given them.
        weights: State dict of the trained wrapper.
    """
    wrapper = attach(model, settings)
    wrapper.load_state_dict(weights)
    return wrapper.merge_and_unload()
