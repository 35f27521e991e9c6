"""Generators: a server's answers and faults, the calls to vLLM, token ids that fit the vocabulary."""

from __future__ import annotations

import base64
import dataclasses
import inspect
import io
import json
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from openai_double import Answer, Double, images, said, serve, text
from PIL import Image

from edgekit.checkpoint.folder import load_model, resolve_checkpoint
from edgekit.data import ImageRef, Sample
from edgekit.data import samples as read
from edgekit.distill import chat_server
from edgekit.distill.generators import Source, openai, transformers
from edgekit.distill.masking import MaskedTeacher
from edgekit.errors import EdgekitError, MissingExtraError, RecipeError
from edgekit.families import idefics3
from edgekit.inputs.chat import question as ask
from edgekit.inputs.images import as_rgb
from edgekit.inputs.processor import Processor
from edgekit.recipe.model import GenData, Server
from edgekit.recipe.reading import load_recipe, read_recipe

SETTINGS = GenData(generator="openai", max_new_tokens=6)


@pytest.fixture(scope="module")
def processor(tiny_checkpoint: Path) -> Processor:
    return Processor.load(tiny_checkpoint)


@pytest.fixture(scope="module")
def questions() -> list[Sample]:
    return list(read("easy-vqa:test", limit=6))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between attempts, which are not waited for."""
    seen: list[float] = []
    monkeypatch.setattr(chat_server, "wait", lambda _, seconds: seen.append(seconds))
    return seen


@contextmanager
def asking(
    checkpoint: Path, answer: Callable[[dict[str, Any]], Answer], ratio: float = 0.2, **server: Any
) -> Iterator[tuple[openai.OpenAI, Double]]:
    """A generator that asks a double."""
    with serve(answer) as double:
        own = Server(
            **{"url": double.url, "model": "teacher-{teacher}-{ratio}", "retries": 2, "timeout_s": 5, **server}
        )
        settings = dataclasses.replace(SETTINGS, server=own)
        source = Source(
            "t", checkpoint, Processor.load(checkpoint), settings, load=lambda: None, ratio=ratio, teacher=2
        )
        generator = openai.open_generator(source)
        try:
            yield generator, double
        finally:
            generator.close()


# ------------------------------------------------------------------------------------------------------ what is sent


def test_a_request_holds_the_question_the_images_and_every_setting(
    tiny_checkpoint: Path, questions: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "s3cret")
    with asking(tiny_checkpoint, lambda body: said(*["yes"] * body.get("n", 1)), api_key_env="MY_KEY") as (one, double):
        drawn = one.sample(questions[:1], 3, 9)
    (body,) = double.bodies
    assert double.paths == ["/v1/chat/completions"] and double.headers[0]["Authorization"] == "Bearer s3cret"
    assert body["model"] == "teacher-2-0.2" and body["n"] == 3
    sent = {key: body[key] for key in ("temperature", "top_p", "top_k", "repetition_penalty", "max_tokens", "stream")}
    assert sent == {
        "temperature": 1.0, "top_p": 0.9, "top_k": 50, "repetition_penalty": 1.05, "max_tokens": 6, "stream": False,
    }  # fmt: skip
    assert text(body) == questions[0].text
    path = questions[0].images[0].path
    assert path is not None and images(body) == [path.read_bytes()]
    assert [part["type"] for part in body["messages"][0]["content"]] == ["image_url", "text"]
    assert len(drawn[0]) == 3 and "s3cret" not in repr(vars(one.server))


def test_images_a_server_would_show_otherwise_are_sent_as_pixels(tmp_path: Path) -> None:
    """The teacher behind a server is shown what the student is: turned by EXIF, over white where transparent."""
    image = Image.new("RGB", (8, 4), "red")
    image.paste("blue", (0, 0, 4, 4))
    exif = image.getexif()
    exif[openai.ORIENTATION] = 6  # a quarter clockwise: what is stored on the left is seen above
    image.save(tmp_path / "turned.jpg", exif=exif, quality=100, subsampling=0)
    Image.new("RGBA", (8, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("L", (8, 4), 7).save(tmp_path / "keyed.png", transparency=7)
    Image.fromarray(np.full((4, 8), 0x1234, dtype=np.uint16)).save(tmp_path / "deep.png")
    seen = {name: _sent(tmp_path / name) for name in ("turned.jpg", "clear.png", "keyed.png", "deep.png")}
    red, _, blue = seen["turned.jpg"].getpixel((1, 1))
    assert seen["turned.jpg"].size == (4, 8) and blue > 200 and red < 50
    red, _, blue = seen["turned.jpg"].getpixel((1, 6))
    assert red > 200 and blue < 50
    assert set(seen["clear.png"].getdata()) == set(seen["keyed.png"].getdata()) == {(255, 255, 255)}
    assert set(seen["deep.png"].getdata()) == {(0x12, 0x12, 0x12)}


def _sent(path: Path) -> Image.Image:
    """What a server is given of an image that is sent as pixels, which is what the student's processor starts from."""
    (data,) = images({"messages": openai.chat_messages(_imaged(path))})
    shown = Image.open(io.BytesIO(data))
    assert (shown.format, shown.mode) == ("PNG", "RGB") and not shown.getexif()
    assert shown.tobytes() == as_rgb(ImageRef(path=path).open()).tobytes()
    return shown


@pytest.mark.parametrize("orientation", [None, 1])
def test_images_that_all_see_alike_are_sent_as_they_are(tmp_path: Path, orientation: int | None) -> None:
    image = Image.new("RGB", (8, 4), "red")
    exif = image.getexif()
    if orientation:
        exif[openai.ORIENTATION] = orientation
    image.save(tmp_path / "plain.jpg", exif=exif)
    data = (tmp_path / "plain.jpg").read_bytes()
    for ref in (ImageRef(path=tmp_path / "plain.jpg"), ImageRef(data=data)):
        assert openai.data_url(ref) == f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def _imaged(path: Path) -> Sample:
    return Sample("a", (ImageRef(path=path),), ask("q"), "x")


def test_texts_become_the_tokens_the_model_would_have_drawn(
    tiny_checkpoint: Path, processor: Processor, questions: list[Sample]
) -> None:
    """The template opens an answer with a space; text with and without it, cut and whole, empty and refused."""
    end = openai.end_token_ids(tiny_checkpoint)[0]
    yes = processor.tokenizer.encode(" yes", add_special_tokens=False).ids
    assert processor.tokenizer.encode("yes", add_special_tokens=False).ids != yes
    answers = {
        "whole": (said("yes"), [*yes, end]),
        "spaced": (said(" yes"), [*yes, end]),
        "with its end": (said(" yes<end_of_utterance>"), [*yes, end]),
        "cut": (said(" yes", reason="length"), yes),
        "too long": (said(" yes" * 40), (yes * 40)[:6]),
        "empty": (said(""), [end]),
        "null": (said(None), [end]),
        "blank": (said(" \n"), [end]),
        "refused": (said("I cannot", refusal="I cannot"), [end]),
        "filtered": (said("par", reason="content_filter"), [end]),
        "filtered as an error": ((400, {}, b'{"error": {"code": "content_filter"}}'), [end]),
    }
    for name, (answer, expected) in answers.items():
        with asking(tiny_checkpoint, lambda _, answer=answer: answer) as (one, _):
            one._manner = ("fields", True)
            assert one.sample(questions[:1], 1, 0) == [[expected]], name


def test_content_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "ye"}, {"type": "text", "text": "s"}]
    assert openai.read_choice({"message": {"content": parts}}) == openai.Choice("yes", False, None)


# -------------------------------------------------------------------------------------- servers that differ


def test_a_server_that_ignores_n_is_asked_again_with_other_seeds(
    tiny_checkpoint: Path, questions: list[Sample]
) -> None:
    with asking(tiny_checkpoint, lambda body: said(["red", "blue", "yes"][body["seed"] % 3])) as (one, double):
        drawn = one.sample(questions[:2], 3, 5)
    assert [len(row) for row in drawn] == [3, 3] and len(double.bodies) == 6
    assert len({body["seed"] for body in double.bodies}) == 6
    assert {tuple(ids) for ids in drawn[0]} == {tuple(ids) for ids in drawn[1]} and len({*map(tuple, drawn[0])}) == 3
    assert sum("n" in body for body in double.bodies) == 1  # learned at the first


def test_a_server_that_gives_too_many_or_some(tiny_checkpoint: Path, questions: list[Sample]) -> None:
    with asking(tiny_checkpoint, lambda body: said(*["yes"] * (2 if body.get("n") == 3 else 5))) as (one, double):
        assert len(one.sample(questions[:1], 3, 5)[0]) == 3
    assert [body.get("n") for body in double.bodies] == [3, None]


def test_a_strict_server_gets_the_settings_in_its_own_manner(tiny_checkpoint: Path, questions: list[Sample]) -> None:
    """As transformers serve does: fields it does not know are refused, `generation_config` is a JSON text."""

    def strict(body: dict[str, Any]) -> Answer:
        if {"top_k", "repetition_penalty"} & set(body):
            return 422, {}, b'{"detail": "Unexpected fields in the request"}'
        return said("yes")

    with asking(tiny_checkpoint, strict) as (one, double):
        one.sample(questions, 2, 5)
    config = json.loads(double.bodies[-1]["generation_config"])
    assert config == {
        "do_sample": True, "temperature": 1.0, "top_p": 0.9, "top_k": 50, "repetition_penalty": 1.05,
        "max_new_tokens": 6, "eos_token_id": one.ends, "pad_token_id": one.ends[0],
    }  # fmt: skip
    assert sum("top_k" in body for body in double.bodies) == 1


def test_settings_no_server_takes_are_never_dropped_in_silence(tiny_checkpoint: Path, questions: list[Sample]) -> None:
    def plain(body: dict[str, Any]) -> Answer:
        known = {"model", "messages", "stream", "temperature", "top_p", "seed", "max_tokens", "n"}
        return said("yes") if set(body) <= known else (400, {}, b'{"error": {"message": "Unrecognized argument"}}')

    with asking(tiny_checkpoint, plain) as (one, double):
        with pytest.raises(EdgekitError) as caught:
            one.sample(questions[:1], 2, 5)
        assert double.url in caught.value.what and "Unrecognized argument" in caught.value.why
        assert "--set masters.gen_data.top_k=0" in caught.value.fix
        one.settings = dataclasses.replace(one.settings, top_k=0, repetition_penalty=1.0)
        assert len(one.sample(questions[:1], 2, 5)[0]) == 2


def test_log_probabilities_where_a_server_gives_them(tiny_checkpoint: Path, questions: list[Sample]) -> None:
    with asking(tiny_checkpoint, lambda _: said(" yes", logp=-0.5)) as (one, double):
        (answer,) = one.answers(questions[:1])
    assert (answer.text, answer.logp) == ("yes", pytest.approx(-0.5))
    assert double.bodies[0]["temperature"] == 0 and double.bodies[0]["logprobs"] is True

    def without(body: dict[str, Any]) -> Answer:
        return (400, {}, b"{}") if "logprobs" in body else said("yes")

    with asking(tiny_checkpoint, without) as (one, _):
        assert one.answers(questions[:1])[0].logp is None


def test_no_more_requests_at_once_than_allowed(tiny_checkpoint: Path, questions: list[Sample]) -> None:
    both = threading.Barrier(2)

    def answer(_: dict[str, Any]) -> Answer:
        both.wait(10)  # passes only when two are under way together
        return said("yes")

    with asking(tiny_checkpoint, answer, concurrency=2) as (one, double):
        one._manner = ("fields", False)
        one.sample(questions, 1, 0)
    assert double.busiest == 2


# ------------------------------------------------------------------------------------------------------ faults


def once(*answers: Answer) -> Callable[[dict[str, Any]], Answer]:
    """Each answer once, the last for ever."""
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def test_busy_then_ready(tiny_checkpoint: Path, questions: list[Sample], waits: list[float]) -> None:
    busy = (429, {"Retry-After": "7"}, b"slow down")
    with asking(tiny_checkpoint, once(busy, (503, {}, b""), said("yes"))) as (one, double):
        assert len(one.sample(questions[:1], 1, 0)[0][0]) > 1
    assert len(double.bodies) == 3 and waits[0] == 7 and 0.5 <= waits[1] <= 1.0


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((500, {}, b"out of memory"), "HTTP 500 Internal Server Error: out of memory"),
        ((200, {}, b"<html>"), "it is no JSON: <html>"),
        ((200, {}, b""), "it is no JSON: (empty)"),
        ((200, {}, b"[]"), "it holds no choices: []"),
        ((200, {}, b'{"choices": []}'), "it holds no choices"),
        ((200, {}, b'{"choices": ["yes"]}'), "it holds no choices"),
        ((200, {}, b'{"error": "\x1b[31mred"}'), r'{"error": "\x1b[31mred"}'),
    ],
)
def test_nonsense_until_the_retries_end(
    tiny_checkpoint: Path, questions: list[Sample], waits: list[float], answer: Answer, reason: str
) -> None:
    with asking(tiny_checkpoint, once(answer)) as (one, double), pytest.raises(EdgekitError) as caught:
        one.sample(questions[:1], 1, 0)
    assert len(double.bodies) == 3 and len(waits) == 2
    assert caught.value.what == f"No usable answer of 'teacher-2-0.2' at {double.url} after 3 attempts."
    assert reason in caught.value.why


def test_a_server_that_says_nothing(tiny_checkpoint: Path, questions: list[Sample], waits: list[float]) -> None:
    released = threading.Event()

    def silent(_: dict[str, Any]) -> Answer:
        released.wait(20)
        return said("yes")

    with asking(tiny_checkpoint, silent, timeout_s=0.1, retries=1) as (one, _):
        with pytest.raises(EdgekitError, match="after 2 attempts"):
            one.sample(questions[:1], 1, 0)
        released.set()
    assert len(waits) == 1


def test_no_server_at_all(tiny_checkpoint: Path, questions: list[Sample], waits: list[float]) -> None:
    with asking(tiny_checkpoint, lambda _: said("yes"), url="http://127.0.0.1:1/v1") as (one, _):  # noqa: SIM117
        with pytest.raises(EdgekitError, match="ConnectError"):
            one.sample(questions[:1], 1, 0)
    assert len(waits) == 2


@pytest.mark.parametrize("status", [301, 307, 401, 403, 404])
def test_what_no_retry_can_help(
    tiny_checkpoint: Path, questions: list[Sample], waits: list[float], status: int
) -> None:
    with asking(tiny_checkpoint, once((status, {"Location": "http://127.0.0.1:1/"}, b"no"))) as (one, double):  # noqa: SIM117
        with pytest.raises(EdgekitError, match=f"HTTP {status}"):
            one.sample(questions[:1], 1, 0)
    assert len(double.bodies) == 1 and not waits


def test_waits_grow_and_retry_after_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_server.random, "random", lambda: 0.0)
    assert [chat_server.backoff_s(k) for k in (0, 1, 2, 6, 7, 400)] == [0.5, 1.0, 2.0, 32.0, 60.0, 60.0]
    monkeypatch.setattr(chat_server.random, "random", lambda: 1.0)
    assert chat_server.backoff_s(2) == 1.0
    monkeypatch.setattr(chat_server.time, "time", lambda: 784111777.0)
    assert chat_server.retry_after_s("Sun, 06 Nov 1994 08:50:07 GMT") == 30
    assert chat_server.retry_after_s("Sun, 06 Nov 1994 08:49:07 GMT") == 0
    # The server's own clock counts where it tells its time: ours may be days away.
    assert chat_server.retry_after_s("Wed, 06 Nov 2030 08:50:07 GMT", "Wed, 06 Nov 2030 08:50:00 GMT") == 7
    assert chat_server.retry_after_s("Sun, 06 Nov 1994 08:50:07 GMT", "no date") == 30
    assert chat_server.retry_after_s("2.5", "Wed, 06 Nov 2030 08:50:00 GMT") == 2.5
    assert chat_server.retry_after_s(None) is None and chat_server.retry_after_s("soon") is None
    for value in ("86400", "inf", "nan"):
        with pytest.raises(EdgekitError, match="come back"):
            chat_server.retry_after_s(value)


# ------------------------------------------------------------------------------------------------------ the recipe


def recipe(server: dict[str, Any], teachers: int = 1, **mask: Any) -> dict[str, Any]:
    return {
        "teachers": [{"checkpoint": "demo:teacher"}] * teachers,
        "student": {"checkpoint": "demo:student"},
        "data": {"train": "easy-vqa:train", "test": "easy-vqa:test"},
        "masters": {"mask": mask, "gen_data": {"generator": "openai", "server": server}},
    }


GOOD = {"url": "http://localhost:8000/v1", "model": "teacher-{ratio}"}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (recipe({}), "server.url: missing\n.*server.model: missing"),
        (recipe({**GOOD, "url": "file:///etc/passwd"}), "not http://HOST"),
        (recipe({**GOOD, "url": "http://[1/v1"}), "not http://HOST"),
        (recipe({**GOOD, "url": "https://me:pass@host/v1"}), "holds a password"),
        (recipe({**GOOD, "api_key_env": "sk-12345"}), "never the key itself"),
        (recipe({**GOOD, "model": "teacher"}), "a server cannot mask its model"),
        (recipe(GOOD, teachers=2), "put {teacher} into model or url"),
        (recipe({**GOOD, "concurrency": 0}), "concurrency: 0 is not at least 1"),
        (recipe({**GOOD, "timeout_s": 0}), "timeout_s: 0.0 is not above 0"),
    ],
)
def test_recipes_a_server_cannot_serve(value: dict[str, Any], problem: str) -> None:
    import re

    with pytest.raises(RecipeError) as caught:
        read_recipe(value)
    assert re.search(problem, str(caught.value), re.DOTALL), caught.value
    assert "sk-12345" not in str(caught.value) and "me:pass" not in str(caught.value)


def test_recipes_a_server_can_serve() -> None:
    read_recipe(recipe(GOOD))
    read_recipe(recipe({**GOOD, "model": "teacher"}, r_max=0.0))
    read_recipe(recipe({"url": "http://h:1/{ratio}/v1", "model": "{teacher}"}, teachers=2))


def test_a_run_goes_on_when_its_server_moves(tmp_path: Path) -> None:
    def load(value: dict[str, Any], **overrides: str) -> str:
        path = tmp_path / "r.yaml"
        path.write_text(yaml.safe_dump(value))
        return load_recipe(path, {key.replace("__", "."): item for key, item in overrides.items()}).hash

    base = load(recipe(GOOD))
    assert load(recipe({**GOOD, "url": "https://elsewhere/v1", "concurrency": 3, "api_key_env": "K"})) == base
    assert load(recipe(GOOD), masters__gen_data__check_images="false") == base
    assert load(recipe({**GOOD, "model": "other-{ratio}"})) != base
    local = load(recipe(GOOD), masters__gen_data__generator="transformers")
    assert load(recipe({}), masters__gen_data__generator="transformers") == local != base


def test_a_key_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(EdgekitError, match="NO_SUCH_KEY holds no key"):
        openai.check(dataclasses.replace(SETTINGS, server=Server(api_key_env="NO_SUCH_KEY")))


# ------------------------------------------------------------------------------------------------------ vLLM


def test_vllm_is_asked_for_when_it_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.distill.generators import vllm

    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtraError, match=r"edgekit\[vllm\]"):
        vllm.check(GenData())


@dataclasses.dataclass
class SamplingParams:
    """The fields of vLLM 0.33's SamplingParams that are inputs, with its checks of those edgekit sets."""

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    watermarking: bool | None = None
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        assert isinstance(self.n, int) and self.n >= 1 and 0 <= self.temperature <= 2 and 0 < self.top_p <= 1
        assert isinstance(self.top_k, int) and self.top_k >= -1 and (self.max_tokens or 0) >= 1
        assert self.repetition_penalty > 0 and (self.logprobs is None or self.logprobs >= -1)
        assert not (self.temperature < 1e-5 and self.n > 1), "n must be 1 when using greedy sampling"
        assert all(isinstance(token, int) for token in self.stop_token_ids or [])
        assert self.seed is None or -(2**63) <= self.seed + self.n < 2**63


@dataclasses.dataclass
class CompletionOutput:
    """vLLM 0.33's, without what only its engine fills."""

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: Any
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class LLM:
    """The signatures of vLLM 0.33 over a transformers model, answering greedily."""

    made: list[LLM] = []  # noqa: RUF012

    def __init__(
        self,
        model: str,
        *,
        runner: str = "auto",
        convert: str = "auto",
        tokenizer: str | None = None,
        tokenizer_mode: str = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        allowed_local_media_path: str = "",
        allowed_media_domains: list[str] | None = None,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        quantization: str | None = None,
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        chat_template: Path | str | None = None,
        seed: int = 0,
        gpu_memory_utilization: float = 0.92,
    ) -> None:
        assert isinstance(model, str) and isinstance(tokenizer, str) and trust_remote_code is False
        self.model, self.processor = load_model(Path(model)), Processor.load(Path(model))
        self.calls: list[tuple[Any, Any]] = []
        LLM.made.append(self)

    def generate(
        self,
        prompts: Any,
        sampling_params: Any = None,
        *,
        use_tqdm: bool = True,
        lora_request: Any = None,
        priority: Any = None,
        tokenization_kwargs: dict[str, Any] | None = None,
        mm_processor_kwargs: dict[str, Any] | None = None,
    ) -> list[Any]:
        assert tokenization_kwargs == {"add_special_tokens": False} and use_tqdm is False
        assert isinstance(sampling_params, list) and len(sampling_params) == len(prompts)
        self.calls.append((prompts, sampling_params))
        return [self._one(*pair) for pair in zip(prompts, sampling_params, strict=True)]

    def _one(self, prompt: dict[str, Any], params: SamplingParams) -> Any:
        assert set(prompt) <= {"prompt", "multi_modal_data"} and isinstance(prompt["prompt"], str)
        images = prompt.get("multi_modal_data", {"image": []})["image"]
        assert all(isinstance(image, Image.Image) and image.mode == "RGB" for image in images)
        assert prompt["prompt"].count("<image>") == len(images)
        pixels = idefics3.preprocess(images, self.processor.params)
        expanded = idefics3.expand(prompt["prompt"], pixels.grids, self.processor.params)
        ids = self.processor.tokenizer.encode(expanded, add_special_tokens=False).ids
        import torch

        from edgekit.distill.batch import Prompts

        positions = [idefics3.FAMILY.positions(ids, pixels.grids, self.processor.params)]
        places = [list(range(len(pixels.grids)))]
        row = Prompts([ids], positions, torch.from_numpy(pixels.values), pixels.grids, places)
        (tokens,) = transformers.greedy(self.model, self.processor, row, params.max_tokens or 16)
        ended = tokens[-1] in (params.stop_token_ids or [])
        reason = "stop" if ended else "length"
        logp = -1.0 if params.logprobs is not None else None
        outputs = [
            CompletionOutput(k, self.processor.decode(tokens), tokens, logp, None, reason) for k in range(params.n)
        ]
        return types.SimpleNamespace(outputs=outputs[::-1])


def test_the_fake_has_the_names_of_the_real_one() -> None:
    """Where vLLM is installed, the copied signatures are held against it."""
    real = pytest.importorskip("vllm", reason="vLLM is not installed")
    for method in ("__init__", "generate"):
        names = set(inspect.signature(getattr(LLM, method)).parameters)
        assert names <= set(inspect.signature(getattr(real.LLM, method)).parameters)
    assert {field.name for field in dataclasses.fields(SamplingParams)} <= set(real.SamplingParams.__annotations__)


def test_vllm_gets_a_masked_checkpoint_and_whole_prompts(
    tiny_teacher: Path, questions: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.distill.generators import vllm

    monkeypatch.setitem(sys.modules, "vllm", types.SimpleNamespace(LLM=LLM, SamplingParams=SamplingParams))  # type: ignore[arg-type]
    LLM.made.clear()
    processor, settings = Processor.load(tiny_teacher), GenData(generator="vllm", max_new_tokens=5, top_k=7)
    source = Source("t", tiny_teacher, processor, settings, lambda: 1 / 0, ratio=0.4, teacher=1, work=tmp_path / "work")
    vllm.check(settings)
    generator = vllm.open_generator(source)
    assert (tmp_path / "work" / "masked-1-0.4" / "model.safetensors").exists()
    drawn = generator.sample(questions, 3, 2**32 - 1)
    model = load_model(tiny_teacher)
    MaskedTeacher(model, tiny_teacher, idefics3.FAMILY).set_ratio(0.4)
    local = transformers.Local(model, processor, settings)
    prompts = transformers.encode_prompts(processor, questions)
    greedy = transformers.greedy(model, processor, prompts, 5)
    assert drawn == [[row] * 3 for row in greedy]
    (_, params) = LLM.made[0].calls[0]
    one = params[0]
    set_there = (one.n, one.temperature, one.top_p, one.top_k, one.repetition_penalty, one.max_tokens)
    assert set_there == (3, 1.0, 0.9, 7, 1.05, 5)
    assert len({p.seed for p in params}) == len(questions) and one.stop_token_ids == generator.ends
    answers = generator.answers(questions)
    assert [a.text for a in answers] == [a.text for a in local.answers(questions)]
    assert {a.logp for a in answers} == {-1.0}
    generator.close()
    assert not list((tmp_path / "work").iterdir())


def test_vllm_end_tokens_left_out_are_put_back(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.distill.generators import vllm

    monkeypatch.setitem(sys.modules, "vllm", types.SimpleNamespace(LLM=LLM, SamplingParams=SamplingParams))  # type: ignore[arg-type]
    settings = GenData(generator="vllm")
    source = Source("t", tiny_checkpoint, Processor.load(tiny_checkpoint), settings, lambda: None, work=tmp_path)
    generator = vllm.open_generator(source)
    generator.ends = [6, 8]
    for tokens, reason, stop, whole in (
        ([5], "stop", None, [5, 6]), ([5], "stop", 8, [5, 8]), ([5, 6], "stop", None, [5, 6]),
        ([5], "length", None, [5]), ([], "stop", None, [6]),
    ):  # fmt: skip
        assert generator._whole(CompletionOutput(0, "", tokens, None, None, reason, stop)) == whole
    monkeypatch.setattr(generator.engine, "generate", lambda *_, **__: [])
    with pytest.raises(EdgekitError, match="0 responses to 1 questions instead of 4"):
        generator.sample(list(read("easy-vqa:test", limit=1)), 4, 0)


# ------------------------------------------------------------------------------------------------------ local


def test_local_answers_are_greedy_with_their_own_log_probability(questions: list[Sample]) -> None:
    import torch

    folder = resolve_checkpoint("demo:teacher")
    model, processor = load_model(folder), Processor.load(folder)
    generator = transformers.Local(model, processor, GenData())
    unlabelled = [dataclasses.replace(question, answer=None, answers=()) for question in questions]
    answers = generator.answers(unlabelled)
    one = processor.encode(questions[0].messages, [questions[0].images[0].open()])
    assert one.pixels is not None
    out = model.generate(
        input_ids=torch.from_numpy(one.ids),
        pixel_values=torch.from_numpy(one.pixels.values)[None],
        do_sample=False,
        max_new_tokens=16,
        output_logits=True,
        return_dict_in_generate=True,
    )
    new = out.sequences[0, one.ids.shape[1] :].tolist()
    logp = sum(float(step[0].log_softmax(-1)[token]) for step, token in zip(out.logits, new, strict=True))
    assert answers[0].text == processor.decode(new) and answers[0].logp == pytest.approx(logp, abs=1e-4)
    swapped = [dataclasses.replace(questions[0], answer="yes" if questions[0].answer != "yes" else "no")]
    assert generator.answers(swapped)[0].logp < -5 < generator.answers(questions[:1])[0].logp  # type: ignore[operator]
