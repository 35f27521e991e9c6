"""What every training run of edgekit shares: Trainer settings, progress, and checkpoints that survive a kill."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from edgekit.console import note, progress
from edgekit.distill import processes
from edgekit.files import storage_errors, sync_path, sync_tree
from edgekit.seal import FOLDER_SEAL, fault_of, seal_folder
from edgekit.system import interrupts

COMPLETE = "edgekit-complete"
"""Mark of a whole checkpoint in runs begun before there were seals."""
KEPT = 2
"""Checkpoints of a training that are kept; the older one is the way back when the newer is torn or damaged."""


def training_arguments(folder: Path, **settings: Any) -> TrainingArguments:
    """Trainer settings with edgekit's habits: own progress bar, every column kept, checkpoints by step.

    Args:
        folder: Where checkpoints go.
        settings: Any field of TrainingArguments; overrides the habits.
    """
    habits: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "steps",
        "save_total_limit": None,  # Trainer would drop by time of change, and before the newest one is whole
        "logging_steps": 20,
        "logging_strategy": "steps",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    arguments = TrainingArguments(**{**habits, **settings})
    # One process uses one GPU: beside launched processes there is no nn.DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def name_layers(model: Any) -> None:
    """Tell FSDP which modules are the layers: a family's own list may name parts of some only, as Idefics3's does."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    model._no_split_modules = sorted(
        {type(module).__name__ for module in model.modules() if isinstance(module, GradientCheckpointingLayer)}
    )


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; those that a kill cut short are removed, and newer ones that are damaged.

    A damaged one is named on standard error. Older ones than the one found are not read.
    """
    found = None
    for path in checkpoints(folder):
        if not any((path / mark).exists() for mark in (FOLDER_SEAL, COMPLETE)):
            shutil.rmtree(path)
        elif found is None and (fault := checkpoint_fault(path)):
            note(f"{path} is damaged: {fault}. Training goes on from before it.")
            shutil.rmtree(path)
        else:
            found = found or path
    return found


def checkpoints(folder: Path) -> list[Path]:
    """Trainer's checkpoints in a folder, whole or not, newest first; by step, as clocks may have been wrong."""
    return sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """The optimiser step after which it was written."""
    return int(checkpoint.name.rpartition("-")[2])


def checkpoint_fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint; of one without a seal, whether each file can be read at all."""
    if (folder / FOLDER_SEAL).exists():
        return fault_of(folder)
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != COMPLETE and not _readable(path):
            return f"{path.name} cannot be read"
    return None


def _readable(path: Path) -> bool:
    try:
        if path.suffix == ".safetensors":
            with safe_open(str(path), framework="pt"):
                return True
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        if path.suffix in (".pt", ".pth"):  # zip archives, with a checksum for each tensor
            with zipfile.ZipFile(path) as archive:
                return archive.testzip() is None
    except (SafetensorError, OSError, ValueError, zipfile.BadZipFile):
        return False
    return True


class MarkComplete(TrainerCallback):
    """Seals a checkpoint once all its files are there, so that resume can tell it from a torn or damaged one.

    Only then older ones are removed.
    """

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called by Trainer after a process's last file of a checkpoint."""
        folder = Path(str(args.output_dir))
        written = folder / f"checkpoint-{state.global_step}"
        if processes.count() > 1:
            sync_tree(written)  # what this process wrote may lie in this machine's memory only
        processes.wait()  # each process has written its own random state
        if state.is_world_process_zero:
            seal_folder(written)
            sync_path(folder)
            for older in [path for path in checkpoints(folder) if step_of(path) < state.global_step][KEPT - 1 :]:
                shutil.rmtree(older)


class StopAt(TrainerCallback):
    """Ends a training after a step that is not its last, with a checkpoint to go on from.

    Args:
        step: Optimiser steps done then.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called by Trainer after each optimiser step."""
        if state.global_step >= self.step:
            control.should_save = control.should_training_stop = True


class StopWhenAsked(TrainerCallback):
    """Ends a training with a checkpoint after the step in which Ctrl-C or SIGTERM came to any of the processes."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called by Trainer after each optimiser step."""
        if processes.any_of(interrupts.asked()):
            control.should_save = control.should_training_stop = True


class StepProgress(TrainerCallback):
    """Steps done with the time left, and the latest logged figures."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._context: Any = None
        self._bar: Any = None
        self._task: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Open the bar at the step where training starts or resumes."""
        if not state.is_world_process_zero:
            return
        self._context = progress()
        self._bar = self._context.__enter__()
        self._task = self._bar.add_task(self.title, total=state.max_steps, completed=state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """One step further."""
        if self._bar is not None:
            self._bar.update(self._task, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Show the figures just logged beside the title."""
        if self._bar is not None and logs and "loss" in logs:
            mask = f", mask {float(logs['mask']):.2f}" if "mask" in logs else ""
            keys = ("loss", "jsd", "r_acc")
            shown = "  ".join(f"{key} {float(logs[key]):.4g}" for key in keys if key in logs)
            text = f"{self.title}{mask}, step {state.global_step} of {state.max_steps}  {shown}"
            self._bar.update(self._task, completed=state.global_step, description=text)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Close the bar."""
        self.close()

    def close(self) -> None:
        """Close the bar, also after an interruption."""
        if self._context is not None:
            self._context.__exit__(None, None, None)
            self._context = self._bar = None


class PartsTrainer(Trainer):
    """Trainer for a loss of several parts: items in their data set's own order, the parts' means in the log.

    `compute_loss` hands the parts of each batch to `count_parts`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.model_accepts_loss_kwargs = False  # the loss is a mean over questions already
        self._sums: dict[str, float] = {}
        self._batches = 0

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)

    def count_parts(self, parts: Mapping[str, Any]) -> None:
        """Add one batch's parts, by name, to the means of the next log."""
        for name, value in parts.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
        self._batches += 1

    def over_processes(self, values: dict[str, float]) -> dict[str, float]:
        """Means over the processes, which schedules must see alike; the values themselves where there is one."""
        if self.accelerator.num_processes == 1:
            return values
        own = torch.tensor(list(values.values()), dtype=torch.float64, device=self.accelerator.device)
        return dict(zip(values, self.accelerator.reduce(own, "mean").tolist(), strict=True))

    def state_to_log(self) -> dict[str, float]:
        """What else a log holds beside the means."""
        return {}

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the means of the loss's parts since the last log."""
        if self._batches and "loss" in logs:
            sums = self.over_processes(self._sums)
            means = {name: round(total / self._batches, 6) for name, total in sums.items()}
            logs = {**logs, **means, **self.state_to_log()}
            self._sums, self._batches = {}, 0
        super().log(logs, *args, **kwargs)


def run_trainer(trainer: Trainer, folder: Path, title: str) -> None:
    """Train to the end from the newest whole checkpoint, with edgekit's progress instead of Trainer's prints.

    Args:
        trainer: Ready to train.
        folder: Its checkpoint folder.
        title: Of the progress bar.
    """
    bar = StepProgress(title)
    trainer.remove_callback(PrinterCallback)  # it prints to stdout, which belongs to results
    trainer.add_callback(bar)
    trainer.add_callback(StopWhenAsked())
    trainer.add_callback(MarkComplete())
    start = processes.from_main(lambda: last_complete_checkpoint(folder))
    try:
        with storage_errors(folder), interrupts.finishing("this step of the training, and its checkpoint"):
            trainer.train(resume_from_checkpoint=str(start) if start else None)
    finally:
        bar.close()
    if processes.any_of(interrupts.asked()):
        interrupts.check()
        raise KeyboardInterrupt  # it came to another of the processes
