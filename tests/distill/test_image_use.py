"""A teacher that does not see the image is caught; those that see pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from openai_double import Answer, images, said, serve, share, text

from edgekit.checkpoint.folder import load_model, resolve_checkpoint
from edgekit.distill.gen_data import RESPONSES
from edgekit.distill.generators import Said, Source, openai, transformers
from edgekit.distill.image_use import check_image_use, check_stored_image_use, make_swaps, measure_image_use
from edgekit.distill.questions import write_questions
from edgekit.errors import EdgekitError
from edgekit.inputs.processor import Processor
from edgekit.recipe.model import Data, GenData, Server


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 200 questions about 187 images or so."""
    folder = tmp_path_factory.mktemp("questions")
    write_questions(Data("easy-vqa:train", "easy-vqa:test", train_limit=200), folder, 64, seed=1)
    return folder


def local(folder: Path) -> transformers.Local:
    return transformers.Local(load_model(folder), Processor.load(folder), GenData())


def test_swaps_change_the_images_and_nothing_else(questions: Path) -> None:
    swaps = make_swaps(questions)
    assert len(swaps) == 8 and len({swap.sample.text for swap in swaps}) == 8
    for swap in swaps:
        assert len(swap.others) == 2
        for other in swap.others:
            assert dataclasses.replace(other, images=swap.sample.images) == swap.sample
            own, new = swap.sample.images[0].open().convert("RGB"), other.images[0].open()
            assert own.size == new.size
            assert np.abs(np.asarray(own, dtype=int) - np.asarray(new, dtype=int)).mean() > 20


def test_honest_local_teachers_pass(questions: Path, tiny_teacher: Path) -> None:
    image_use = check_image_use(local(resolve_checkpoint("demo:teacher")), "demo", questions)
    assert image_use is not None and image_use.asked == 8 and image_use.moved >= 6
    assert image_use.largest is not None and image_use.largest > 1 > 1000 * image_use.noise
    image_use = check_image_use(local(tiny_teacher), "random weights", questions)
    assert image_use is not None and image_use.moved == 8


def test_a_local_teacher_whose_image_embeddings_are_zero_is_caught(questions: Path) -> None:
    generator = local(resolve_checkpoint("demo:teacher"))
    generator.model.model.connector.modality_projection.proj.weight.data.zero_()
    with pytest.raises(EdgekitError) as caught:
        check_image_use(generator, "demo:teacher", questions)
    assert "demo:teacher does not see the images" in caught.value.what
    assert "16 swaps" in caught.value.why and "'train-" in caught.value.why and "0 nats" in caught.value.why
    assert "--set masters.gen_data.check_images=false" in caught.value.fix


@contextmanager
def served(checkpoint: Path, answer: Callable[[dict[str, Any]], Answer]) -> Iterator[openai.OpenAI]:
    with serve(answer) as double:
        settings = GenData(generator="openai", server=Server(url=double.url, model="m"))
        generator = openai.open_generator(Source("m", checkpoint, Processor.load(checkpoint), settings, lambda: None))
        try:
            yield generator
        finally:
            generator.close()


def seeing(body: dict[str, Any]) -> Answer:
    return said(["red", "blue"][share(*images(body), text(body).encode()) < 0.5])


def seeing_sure(body: dict[str, Any]) -> Answer:
    """Always the same words, but not always as sure of them."""
    return said("red", logp=-share(*images(body), text(body).encode()))


def dropping(body: dict[str, Any]) -> Answer:
    return said(["red", "blue"][share(text(body).encode()) < 0.5])


def dropping_with_logprobs(body: dict[str, Any]) -> Answer:
    return said("red", logp=-share(text(body).encode()))


@pytest.mark.parametrize("answer", [seeing, seeing_sure])
def test_honest_servers_pass(questions: Path, tiny_checkpoint: Path, answer: Callable[..., Answer]) -> None:
    with served(tiny_checkpoint, answer) as generator:
        image_use = check_image_use(generator, "m", questions)
    assert image_use is not None and image_use.moved >= 4


@pytest.mark.parametrize("answer", [dropping, dropping_with_logprobs])
def test_servers_that_drop_images_are_caught(
    questions: Path, tiny_checkpoint: Path, answer: Callable[..., Answer]
) -> None:
    with served(tiny_checkpoint, answer) as generator, pytest.raises(EdgekitError, match="does not see the images"):
        check_image_use(generator, "m", questions)


class Noisy:
    """A blind generator whose answers are never twice the same.

    Args:
        told: Whether it gives log-probabilities.
    """

    def __init__(self, told: bool) -> None:
        self.told, self.rng = told, np.random.default_rng(0)

    def answers(self, samples: Any) -> list[Said]:
        return [Said("red", -1 + 1e-3 * self.rng.random()) if self.told else Said(f"{self.rng.random()}", None)
                for _ in samples]  # fmt: skip


@pytest.mark.parametrize("told", [True, False])
def test_noise_is_not_taken_for_image_use(questions: Path, told: bool) -> None:
    image_use = measure_image_use(Noisy(told), make_swaps(questions))  # type: ignore[arg-type]
    assert image_use.moved == 0


def test_questions_that_cannot_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "what?", "answer": "x"}\n' * 2)
    (tmp_path / "two.jsonl").write_text(
        '{"id": "a", "question": "what?", "answer": "x"}\n{"id": "b", "question": "why?", "answer": "x"}\n'
    )
    write_questions(Data(str(tmp_path / "two.jsonl"), "easy-vqa:test"), tmp_path / "q", 8, seed=0)
    assert check_image_use(Noisy(True), "m", tmp_path / "q") is None  # type: ignore[arg-type]
    assert "Not checked whether m sees the images" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------- stored


def write_stored(questions: Path, folder: Path, tokens: Callable[[dict[str, Any], int], list[int]]) -> Path:
    folder.mkdir()
    for path in sorted(questions.glob("shard-*.parquet")):
        rows = [
            {"question_id": row["id"], "token_ids": tokens(row, number), "number": number}
            for row in pq.read_table(path).to_pylist()
            for number in range(4)
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema=RESPONSES), folder / path.name)
    return folder


def draw(*parts: object) -> int:
    return int(12 * share(*(str(part).encode() for part in parts)))


def test_stored_responses_that_follow_the_image(questions: Path, tmp_path: Path) -> None:
    def mostly(row: dict[str, Any], number: int) -> list[int]:
        """Two of three times what the image says, else anything."""
        noisy = share(str((row["id"], number, "n")).encode()) < 0.33
        return [draw(row["id"], number, "r") if noisy else draw(row["images"][0]["path"]), 99]

    p = check_stored_image_use("t", questions, write_stored(questions, tmp_path / "r", mostly))
    assert p is not None and p < 0.005


@pytest.mark.parametrize("deterministic", [True, False])
def test_stored_responses_of_a_blind_teacher(questions: Path, tmp_path: Path, deterministic: bool) -> None:
    def blind(row: dict[str, Any], number: int) -> list[int]:
        return [draw(row["messages"], *(() if deterministic else (row["id"], number))), 99]

    with pytest.raises(EdgekitError, match="do not depend on the images"):
        check_stored_image_use("t", questions, write_stored(questions, tmp_path / "r", blind))


def test_stored_responses_without_a_pair_get_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_questions(Data("easy-vqa:train", "easy-vqa:test", train_limit=6), tmp_path / "q", 4, seed=0)
    stored = write_stored(tmp_path / "q", tmp_path / "r", lambda *_: [5])
    assert check_stored_image_use("t", tmp_path / "q", stored) is None
    assert "fewer than 20 questions" in capsys.readouterr().err
