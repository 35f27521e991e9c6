"""Gen-Data through a real server on the loopback: transformers' own, with images, on the demo teacher."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from edgekit.checkpoint.folder import load_model, resolve_checkpoint
from edgekit.data import Sample
from edgekit.data import samples as read
from edgekit.distill.generators import Source, openai, transformers
from edgekit.distill.image_use import Swap, measure_image_use
from edgekit.distill.masking import MaskedTeacher, write_masked
from edgekit.distill.order import Order
from edgekit.families import idefics3
from edgekit.inputs.processor import Processor
from edgekit.recipe.model import GenData, Server

pytestmark = pytest.mark.slow
RATIOS = (0.6, 0.3, 0.0)


@dataclasses.dataclass(frozen=True)
class Served:
    """Where the server listens, and the folder of the models it may be asked for."""

    url: str
    models: Path

    def settings(self, **settings: Any) -> GenData:
        """Gen-Data through it."""
        server = Server(url=self.url, model=f"{self.models}/teacher-{{ratio}}", concurrency=4, timeout_s=120)
        return GenData(generator="openai", server=server, **{"max_new_tokens": 8, **settings})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`transformers serve` in its own process; it loads each masked teacher when it is first asked for."""
    for package in ("fastapi", "uvicorn", "openai", "pydantic"):
        pytest.importorskip(package, reason=f"{package} is not installed; transformers serve needs it")
    folder = tmp_path_factory.mktemp("served")
    for ratio in RATIOS:
        write_masked(resolve_checkpoint("demo:teacher"), ratio, folder / f"teacher-{ratio:g}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", "--host", "127.0.0.1", "--port", str(port)]
    log = (folder / "log.txt").open("wb")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [*command, "--device", "cpu", "--dtype", "float32"], stdout=log, stderr=log, env=environment
    )
    try:
        end = time.monotonic() + 180
        while not _up(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None and time.monotonic() < end, (folder / "log.txt").read_text()[-2000:]
            time.sleep(0.1)
        yield Served(f"http://127.0.0.1:{port}/v1", folder)
    finally:
        process.terminate()
        process.wait(30)


def _up(url: str) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module")
def questions() -> list[Sample]:
    return list(read("easy-vqa:test", limit=60))


def generators(served: Served, ratio: float, settings: GenData) -> tuple[openai.OpenAI, transformers.Local]:
    """The served teacher and the same one here."""
    folder = resolve_checkpoint("demo:teacher")
    model, processor = load_model(folder), Processor.load(folder)
    MaskedTeacher(model, folder, idefics3.FAMILY).set_ratio(ratio)
    source = Source("t", folder, processor, settings, lambda: model, ratio=ratio, teacher=1)
    return openai.open_generator(source), transformers.open_generator(source)


def test_served_answers_are_the_local_ones(served: Served, questions: list[Sample]) -> None:
    there, here = generators(served, 0.0, served.settings())
    answers = there.answers(questions)
    assert [a.text for a in answers] == [a.text for a in here.answers(questions)]
    right = sum(a.text == q.answer for a, q in zip(answers, questions, strict=True))
    assert right >= 59, right  # 99.86 % on the whole test split
    there.close()


def test_served_tokens_are_the_local_ones_when_sampling_leaves_no_choice(
    served: Served, questions: list[Sample]
) -> None:
    """top_k 1 through the sampler, at a mask that makes some answers wrong: end tokens, spaces and masks agree."""
    there, here = generators(served, 0.6, served.settings(top_k=1, repetition_penalty=1.0))
    drawn = there.sample(questions, 2, 3)
    assert drawn == here.sample(questions, 2, 3)
    assert all(row[0] == row[1] and row[0][-1] in there.ends for row in drawn)
    there.close()


def test_the_server_samples_and_heeds_the_settings(served: Served, questions: list[Sample]) -> None:
    """Left to its defaults it would decode greedily and give four times the same."""
    there, _ = generators(served, 0.6, served.settings(temperature=5.0, top_k=0, top_p=1.0, repetition_penalty=1.0))
    drawn = there.sample(questions[:4], 4, 3)
    assert all(len({tuple(ids) for ids in row}) == 4 for row in drawn)
    assert max(len(ids) for row in drawn for ids in row) == 8  # cut off, without an end token
    there.settings = dataclasses.replace(there.settings, top_k=2)
    narrow = there.sample(questions[:4], 4, 3)
    # Row by row: requests at once share the server's random state, so that rows may be drawn alike.
    first = [[len({ids[0] for ids in row}) for row in rows] for rows in (drawn, narrow)]
    assert max(first[0]) > 2 >= max(first[1])
    there.close()


def test_it_sees(served: Served, questions: list[Sample]) -> None:
    there, _ = generators(served, 0.6, served.settings())
    asked = [q for q in questions if q.text.startswith("what")][:6]
    swaps = [Swap(q, (dataclasses.replace(q, images=questions[-1].images),)) for q in asked]
    image_use = measure_image_use(there, swaps)
    assert image_use.kind == "answers" and image_use.moved >= 3
    there.close()


def test_a_whole_run_killed_at_a_shard_and_resumed(served: Served, tmp_path: Path) -> None:
    gen_data = {
        "generator": "openai",
        "server": {"url": served.url, "model": f"{served.models}/teacher-{{ratio}}", "concurrency": 4},
        "max_new_tokens": 8,
        "teacher_responses": 2,
        "student_responses": 2,
        "shard_questions": 8,
        "batch_questions": 8,
    }
    recipe = {
        "name": "served",
        "teachers": [{"checkpoint": "demo:teacher"}],
        "student": {"checkpoint": "demo:student"},
        "data": {"train": "easy-vqa:train", "test": "easy-vqa:test", "train_limit": 24, "test_limit": 32},
        "masters": {"mask": {"r_max": 0.6, "step": 0.3}, "gen_data": {"check_teacher": False, **gen_data}},
        "trainer": {"steps": 6, "batch_questions": 8, "learning_rate": 1e-4, "threads": 1},
    }
    (tmp_path / "edgekit.yaml").write_text(yaml.safe_dump(recipe))
    run = tmp_path / "runs/served"
    process = start(tmp_path)
    end = time.monotonic() + 240
    while not len(list(run.glob("responses/teacher-*-mask-0.3000/shard-*"))) >= 1:
        assert process.poll() is None and time.monotonic() < end, (tmp_path / "log.txt").read_text()[-3000:]
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in (run / "responses").rglob("*.parquet")}
    assert 4 <= len(before) < 12
    assert start(tmp_path).wait() == 0, (tmp_path / "log.txt").read_text()[-3000:]
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert json.loads((run / "manifest.json").read_text())["status"] == "finished"
    asked = [
        row["id"] for path in sorted((run / "questions").glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]
    order, right, total = Order(24, 0), 0.0, 0
    for stage, ratio in enumerate(RATIOS):
        wanted = sorted({int(row) for row in order.visits(16 * stage, 16 * stage + 16)})  # two steps of eight
        (folder,) = run.glob(f"responses/teacher-*-mask-{ratio:.4f}")
        rows = stored(folder)
        assert [(row["question_id"], row["number"]) for row in rows] == [
            (asked[place], k) for place in wanted for k in range(2)
        ]
        assert all(row["token_ids"][-1] == 6 or len(row["token_ids"]) == 8 for row in rows)
        right, total = right + sum(row["r_acc"] for row in rows), total + len(rows)
        assert json.loads((folder / "sight.json").read_text())["moved"] > 0
    assert right / total > 0.9  # it answers what is asked, on the images that were sent


def stored(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def start(folder: Path) -> subprocess.Popen[bytes]:
    log = (folder / "log.txt").open("ab")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "edgekit", "distill"], cwd=folder, stdout=log, stderr=log, env=environment
    )
