"""What changes from step to step of a teacher stage: the teacher's mask, and the state of the objectives."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from edgekit.distill.masking import MaskedTeacher
from edgekit.distill.objectives import Objective
from edgekit.files import write_json


class MaskSchedule(TrainerCallback):
    """Sets the teacher's mask at the start of each stage, also after a resume.

    Args:
        teacher: To mask.
        ratio_of: Step -> ratio.
        record: Told each ratio and the threshold of each tensor at it.
    """

    def __init__(
        self,
        teacher: MaskedTeacher,
        ratio_of: Callable[[int], float],
        record: Callable[[float, dict[str, float]], None],
    ) -> None:
        self.teacher, self.ratio_of, self.record = teacher, ratio_of, record
        self._set: float | None = None

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called by Trainer before each optimiser step."""
        ratio = self.ratio_of(state.global_step)
        if ratio != self._set:
            self.record(ratio, self.teacher.set_ratio(ratio))
            self._set = ratio


class ObjectiveSchedule(TrainerCallback):
    """Tells each objective how a step went, and keeps its state with each checkpoint.

    Args:
        objectives: By name.
        means: Gives the means of the loss's parts over the step that ended.
    """

    FILE = "objectives.json"

    def __init__(self, objectives: Mapping[str, Objective], means: Callable[[], dict[str, float]]) -> None:
        self.objectives, self.means = objectives, means

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Take the state of the checkpoint that training resumes from."""
        path = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / self.FILE
        if state.global_step and path.exists():
            kept = json.loads(path.read_text(encoding="utf-8"))
            for name, objective in self.objectives.items():
                objective.restore(kept[name])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called by Trainer after each optimiser step."""
        means = self.means()
        for name, objective in self.objectives.items():
            objective.after_step(means[name], state.global_step, state.max_steps)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called by Trainer when a checkpoint's own files are written."""
        if state.is_world_process_zero and any(objective.state() for objective in self.objectives.values()):
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            write_json(folder / self.FILE, {name: objective.state() for name, objective in self.objectives.items()})
