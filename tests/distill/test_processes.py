"""Two processes end where one does, also after one of them was killed; FSDP2 as DDP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from edgekit.distill import configs
from edgekit.distill.processes import as_forward

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "teachers": [{"checkpoint": "teacher"}],
    "student": {"checkpoint": "student"},
    "data": {"train": "easy-vqa:train", "test": "easy-vqa:test", "train_limit": 40, "test_limit": 200},
    "masters": {
        "mask": {"r_max": 0.4, "step": 0.2},
        "gen_data": {"check_teacher": False, "max_new_tokens": 3, "shard_questions": 8, "batch_questions": 8},
    },
    "trainer": {
        "steps": 12,
        "batch_questions": 4,
        "learning_rate": 1e-3,
        "save_steps": 3,
        "threads": 1,
        "logging_steps": 1,
        "report_to": ["none"],
    },
}
SHIM = Path(__file__).parent / "fsdp_on_cpu.py"
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}


def workspace(folder: Path, student: Path, teacher: Path) -> Path:
    folder.mkdir()
    (folder / "student").symlink_to(student)
    (folder / "teacher").symlink_to(teacher)
    (folder / "edgekit.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def start(folder: Path, engine: str | None = None) -> subprocess.Popen[bytes]:
    """`edgekit distill` in one process, or in two by `accelerate launch` with one of the shipped configs."""
    call = ["-m", "edgekit", "distill", "--json"] if engine != "fsdp2" else [str(SHIM), "distill", "--json"]
    command = [sys.executable, *call]
    if engine is not None:
        launch = ["-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", str(configs.path(engine))]
        command = [sys.executable, *launch, "--num_processes", "2", "--main_process_port", free_port(), *call]
    out, log = (folder / "out.txt").open("wb"), (folder / "log.txt").open("ab")
    return subprocess.Popen(command, cwd=folder, stdout=out, stderr=log, env=ENVIRONMENT)


def finished(folder: Path, engine: str | None = None) -> Path:
    """Run to the end; the run's folder."""
    assert start(folder, engine).wait() == 0, (folder / "log.txt").read_text()[-3000:]
    return folder / "runs/tiny"


def logged(run: Path, name: str) -> list[float]:
    rows = json.loads((run / "reports/training-1.json").read_text())
    return [row[name] for row in rows if "loss" in row]


def student(run: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = load_file(run / "student/model.safetensors")
    return weights


def apart(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> float:
    """Length of the difference of two models' weights."""
    assert one.keys() == two.keys()
    return float(sum((one[name] - two[name]).square().sum() for name in one) ** 0.5)


@pytest.mark.slow
def test_two_processes_end_where_one_does(tmp_path: Path, tiny_checkpoint: Path, tiny_teacher: Path) -> None:
    one = finished(workspace(tmp_path / "one", tiny_checkpoint, tiny_teacher))
    start_weights = load_file(tiny_checkpoint / "model.safetensors")
    moved = apart(student(one), start_weights)
    assert moved > 0.1 and len(logged(one, "loss")) == 12
    for engine in ("ddp", "fsdp2"):
        two = finished(workspace(tmp_path / engine, tiny_checkpoint, tiny_teacher), engine)
        names = sorted(path.relative_to(one) for path in (one / "responses").rglob("*.parquet"))
        assert len(names) == 4 * 5
        assert names == sorted(path.relative_to(two) for path in (two / "responses").rglob("*.parquet"))
        for name in names:  # whoever wrote a shard, its bytes are the same
            assert (one / name).read_bytes() == (two / name).read_bytes()
        # A batch's mean is taken in two halves, and FSDP2 takes the loss by autograd: fp32 rounding. Measured: losses
        # to 1e-6, norms of gradients to 2e-4, weights to 0.3 % of the way they went; AdamW enlarges tiny gradients.
        assert logged(two, "loss") == pytest.approx(logged(one, "loss"), abs=3e-6)
        assert logged(two, "grad_norm") == pytest.approx(logged(one, "grad_norm"), rel=1e-3)
        assert apart(student(one), student(two)) < moved / 50
        manifest = json.loads((two / "manifest.json").read_text())
        alone = json.loads((one / "manifest.json").read_text())
        assert (manifest["processes"], alone["processes"]) == (2, 1)
        assert manifest["accuracy"]["before"] == alone["accuracy"]["before"] and manifest["accuracy"]["n"] == 200
        assert (one / "reports/accuracy-before.json").read_bytes() == (
            two / "reports/accuracy-before.json"
        ).read_bytes()
        config = json.loads((two / "student/config.json").read_text())
        assert config["architectures"] == ["Idefics3ForConditionalGeneration"]
        # Results on stdout and each line of progress come from one process only.
        assert manifest.pop("edgekit_seal")  # of the file
        assert json.loads((tmp_path / engine / "out.txt").read_text()) == manifest
        assert (tmp_path / engine / "log.txt").read_text().count("Run 'tiny' in") == 1


def children(launcher: int) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(launcher).children():
        with suppress(psutil.Error):  # it may have ended since
            if "distill" in process.cmdline():
                found.append(process)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_one_of_two_killed(victim: int, tmp_path: Path, tiny_checkpoint: Path, tiny_teacher: Path) -> None:
    """The launcher ends with an error and takes the other process with it; the rerun ends in the same student."""
    straight = finished(workspace(tmp_path / "straight", tiny_checkpoint, tiny_teacher), "ddp")
    folder = workspace(tmp_path / "killed", tiny_checkpoint, tiny_teacher)
    for mark in ("responses/teacher-*-mask-0.2000/shard-00001.parquet", "checkpoints/teacher-1/checkpoint-6"):
        launcher = start(folder, "ddp")
        end = time.monotonic() + 240
        while not any((folder / "runs/tiny").glob(mark)):
            assert launcher.poll() is None and time.monotonic() < end, (folder / "log.txt").read_text()[-3000:]
            time.sleep(0.005)
        both = sorted(children(launcher.pid), key=lambda process: int(process.environ()["RANK"]))
        assert len(both) == 2
        both[victim].send_signal(signal.SIGKILL)
        assert launcher.wait() != 0
        assert not both[1 - victim].is_running()
        assert not (folder / "runs/tiny/student").exists()
    run = finished(folder, "ddp")
    assert (run / "student/model.safetensors").read_bytes() == (straight / "student/model.safetensors").read_bytes()


@pytest.mark.slow
def test_two_processes_interrupted(tmp_path: Path, tiny_checkpoint: Path, tiny_teacher: Path) -> None:
    """Once: both finish the step and write its checkpoint together. Twice: both are gone within two seconds."""
    straight = finished(workspace(tmp_path / "straight", tiny_checkpoint, tiny_teacher), "ddp")
    folder = workspace(tmp_path / "stopped", tiny_checkpoint, tiny_teacher)
    checkpoints = folder / "runs/tiny/checkpoints/teacher-1"
    for mark, signals in (("responses/teacher-*-mask-0.2000/shard-*", 2), ("checkpoints/*/checkpoint-3/edgekit-*", 1)):
        launcher = start(folder, "ddp")
        end = time.monotonic() + 300
        while not any((folder / "runs/tiny").glob(mark)):
            assert launcher.poll() is None and time.monotonic() < end, (folder / "log.txt").read_text()[-3000:]
            time.sleep(0.005)
        both = children(launcher.pid)
        for number in range(signals):
            time.sleep(0.5 * number)
            launcher.send_signal(signal.SIGINT)
        begun = time.monotonic()
        _, alive = psutil.wait_procs(both, timeout=2 if signals > 1 else 60)
        assert not alive and launcher.wait(timeout=60) != 0, time.monotonic() - begun
    assert "finishing this step" in (folder / "log.txt").read_text()
    steps = [int(path.name[11:]) for path in checkpoints.iterdir() if (path / "edgekit-seal.json").exists()]
    assert max(steps) > 3
    run = finished(folder, "ddp")
    assert (run / "student/model.safetensors").read_bytes() == (straight / "student/model.safetensors").read_bytes()


@pytest.mark.slow
def test_what_cannot_be_shared_out_is_said_once(tmp_path: Path, tiny_checkpoint: Path, tiny_teacher: Path) -> None:
    folder = workspace(tmp_path / "odd", tiny_checkpoint, tiny_teacher)
    value = yaml.safe_load((folder / "edgekit.yaml").read_text())
    value["trainer"]["batch_questions"] = 3
    (folder / "edgekit.yaml").write_text(yaml.safe_dump(value))
    assert start(folder, "ddp").wait() != 0
    log = (folder / "log.txt").read_text()
    assert log.count("3 questions cannot be shared out evenly among 2 processes") == 1
    assert not (folder / "runs").exists()


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Linear(2, 2)

    def forward(self, x: str) -> str:
        return f"own {x}"


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.module, self.calls = inner, 0

    def forward(self, *args: Any) -> Any:
        self.calls += 1
        return self.module(*args)


def test_a_call_runs_as_the_wrappers_forward() -> None:
    inner = Inner()
    wrapper = Wrapper(inner)
    assert as_forward(wrapper, inner, lambda model, x: (model.part.weight is inner.part.weight, model(x)), "q") == (
        True,
        "own q",
    )
    assert wrapper.calls == 1
    assert "forward" not in vars(inner) and inner("x") == "own x"

    def fail(model: Inner, x: str) -> None:
        raise KeyError(x)

    patched = inner.forward = lambda x: f"patched {x}"  # type: ignore[method-assign, assignment]  # as autocast does
    with pytest.raises(KeyError):
        as_forward(wrapper, inner, fail, "q")
    assert inner.forward is patched


@pytest.mark.parametrize("engine", ["ddp", "fsdp2", "zero3"])
def test_configs_are_accelerates_own(engine: str) -> None:
    """Every key is one that accelerate's launcher knows, and FSDP's are what the plugin understood."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    config = load_config_from_file(str(configs.path(engine)))
    arguments = vars(launch_command_parser().parse_args(["script.py"]))
    known = {name.removeprefix("fsdp_") for name in arguments} | set(arguments)
    for given in (config.fsdp_config, config.deepspeed_config):
        assert not set(given) - known
    kinds = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero3": "DEEPSPEED"}
    assert str(config.distributed_type).endswith(kinds[engine])


def test_zero3_is_what_deepspeed_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only read, not run: it needs CUDA."""
    pytest.importorskip("deepspeed")
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils import DeepSpeedPlugin
    from accelerate.utils.launch import prepare_deepspeed_cmd_env

    given = ["--config_file", str(configs.path("zero3")), "--num_processes", "2", "script.py"]
    arguments, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(given))
    arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
    _, environment = prepare_deepspeed_cmd_env(arguments)
    for name, value in environment.items():
        if name.startswith("ACCELERATE_"):
            monkeypatch.setenv(name, value)
    plugin = DeepSpeedPlugin()
    assert plugin.zero_stage == 3
    assert plugin.deepspeed_config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True
