"""Where quantisation-aware distillation stands in a run: after the last teacher, beside the full-precision student.

It may be asked for when the run is finished already: the same command with `qad` set adds only this stage.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekit.checkpoint.folder import checkpoint_hash, load_model
from edgekit.distill.clock import PhaseClock
from edgekit.distill.evaluate import Evaluation, before_and_after
from edgekit.distill.fake_quant import quantise_weights, quantised_layers
from edgekit.distill.qad import KlReference, distil_quantised
from edgekit.families import family_of
from edgekit.files import new_folder, sha256_json
from edgekit.formats.onnx.precisions import scheme_of
from edgekit.recipe.model import Qad, Recipe
from edgekit.schema import to_json
from edgekit.stats import paired
from edgekit.workspace import Run

Measured = Callable[[str, Callable[[], Any]], Evaluation]


def qad_due(settings: Qad, run: Run) -> bool:
    """Whether these settings ask for a quantised student that the run does not have."""
    made = run.manifest().get("qad", {}).get("settings") == to_json(settings)
    return settings.steps > 0 and not (made and run.quantised_student(settings.precision).is_dir())


def load_quantised(folder: Path, precision: str) -> Any:
    """A checkpoint with the weights that its export at a precision holds, dequantised."""
    model = load_model(folder)
    quantise_weights(quantised_layers(model, family_of(model.config.model_type)), scheme_of(precision))
    return model


def quantised_stage(
    recipe: Recipe,
    run: Run,
    reference: Callable[[], KlReference],
    vocab: int,
    *,
    clock: PhaseClock,
    measured: Measured,
    full_precision: Evaluation,
) -> None:
    """Train student-<precision>/, measure it at quantised weights, and write both into the run's manifest.

    Args:
        recipe: With `qad`.
        run: Has questions/ and student/.
        reference: Loads p_ref.
        vocab: Shared vocabulary size V.
        clock: Of the run.
        measured: (name, load) -> accuracy on the test questions, kept under that name.
        full_precision: Accuracy of student/ as it is.
    """
    qad, precision = recipe.qad, recipe.qad.precision
    # Settings are part of the name: a stage begun with others is no stage to go on with.
    key = f"{precision}-{sha256_json([to_json(qad), checkpoint_hash(run.student)])[:8]}"
    made = run.checkpoints / f"student-{key}"
    if not made.is_dir():
        with clock.phase("qad"):
            distil_quantised(recipe, run, reference, vocab, run.checkpoints / f"qad-{key}", made)
    before = measured(f"{precision}-before", lambda: load_quantised(run.student, precision))
    after = measured(f"{key}-after", lambda: load_quantised(made, precision))
    with new_folder(run.quantised_student(precision), replace=True) as out:
        shutil.copytree(made, out, dirs_exist_ok=True)
    cost = paired(after.scores, full_precision.scores)
    run.update(
        qad={
            "settings": to_json(qad),
            "measured": "in PyTorch, weights quantised and dequantised, everything else float32",
            "student_sha256": checkpoint_hash(made),
            "full_precision": full_precision.accuracy,
            **before_and_after(before, after),
            "against_full_precision": cost.delta,
            "against_full_precision_ci95": list(cost.ci95),
        }
    )
