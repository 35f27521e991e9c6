"""Responses from vLLM's offline engine, for teachers and question sets that need accelerators.

Written against the Python sources of vLLM 0.33 (`LLM`, `LLM.generate`, `SamplingParams`, `TextPrompt`); its tests hold
the calls to signatures copied from there. It has not been run on an engine with a GPU. That version wants transformers
below 5.21 where edgekit wants 5.23, so until vLLM catches up the two share no environment: `vllm serve` in its own and
the generator `openai` are the way that works today.

The engine reads a checkpoint folder, so the masked teacher of a stage is written aside, tensor by tensor, and removed
when the stage's responses are there.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.checkpoint.configuration import end_token_ids
from edgekit.checkpoint.weights import other_files
from edgekit.data import Sample
from edgekit.distill.generators import PROBE_TOKENS, Generator, Said, Source
from edgekit.distill.masking import write_masked
from edgekit.errors import EdgekitError, MissingExtraError
from edgekit.inputs.chat import render
from edgekit.recipe.model import GenData
from edgekit.registry import missing_extra

SEEDS = 2**31
"""vLLM counts up from a seed for the responses of one prompt; seeds stay where that cannot overflow."""


def check(settings: GenData) -> None:
    """vLLM must be installed, and take the temperature.

    Raises:
        MissingExtraError: vLLM is not installed.
        EdgekitError: a temperature above 2.
    """
    _vllm()
    if settings.temperature > 2:
        raise EdgekitError(
            f"vLLM takes temperatures up to 2, not {settings.temperature:g}.", fix="Lower masters.gen_data.temperature."
        )


def open_generator(source: Source) -> VLLM:
    """An engine on the source's checkpoint, masked where the stage asks for it."""
    return VLLM(source)


class VLLM:
    """The generator.

    Args:
        source: Whose responses.
    """

    def __init__(self, source: Source) -> None:
        vllm = _vllm()
        self.processor, self.settings = source.processor, source.settings
        self.ends = end_token_ids(source.folder)
        self._params = vllm.SamplingParams
        self._aside: Path | None = None
        folder = source.folder
        if source.ratio > 0 or other_files(source.folder):  # vLLM loads every safetensors file that it sees
            folder = self._aside = source.work / f"masked-{source.teacher}-{source.ratio:g}"
            write_masked(source.folder, source.ratio, folder, source.scope, source.exclude)
        self.engine: Any = vllm.LLM(model=str(folder), tokenizer=str(source.folder), trust_remote_code=False)

    def sample(self, samples: Sequence[Sample], count: int, seed: int) -> list[list[list[int]]]:
        """See `Generator`; each prompt has its own seed."""
        s = self.settings
        params = [
            self._params(
                n=count,
                temperature=s.temperature,
                top_p=s.top_p,
                top_k=s.top_k,
                repetition_penalty=s.repetition_penalty,
                max_tokens=s.max_new_tokens,
                seed=(seed + number * 65_537) % SEEDS,
                stop_token_ids=self.ends,
            )
            for number in range(len(samples))
        ]
        return [[self._whole(one) for one in row] for row in self._generate(samples, params, count)]

    def answers(self, samples: Sequence[Sample]) -> list[Said]:
        """See `Generator`."""
        params = self._params(temperature=0.0, max_tokens=PROBE_TOKENS, logprobs=0, stop_token_ids=self.ends)
        rows = self._generate(samples, [params] * len(samples), 1)
        return [Said(self.processor.decode(list(row[0].token_ids)), row[0].cumulative_logprob) for row in rows]

    def close(self) -> None:
        """Drop the engine and what was written aside."""
        self.engine = None
        gc.collect()  # the engine's processes end when it is collected
        if self._aside is not None:
            shutil.rmtree(self._aside, ignore_errors=True)

    def _generate(self, samples: Sequence[Sample], params: list[Any], count: int) -> list[list[Any]]:
        prompts = [self._prompt(sample) for sample in samples]
        # The template writes every special token itself.
        given = self.engine.generate(prompts, params, use_tqdm=False, tokenization_kwargs={"add_special_tokens": False})
        rows = [sorted(request.outputs, key=lambda one: int(one.index)) for request in given]
        if [len(row) for row in rows] != [count] * len(samples):
            raise EdgekitError(
                f"vLLM gave {sum(map(len, rows))} responses to {len(samples)} questions instead of "
                f"{count * len(samples)}.",
                fix="Its own log says what befell the others.",
            )
        return rows

    def _prompt(self, sample: Sample) -> dict[str, Any]:
        """vLLM expands the image placeholders itself, one of which stands for each image here."""
        prompt: dict[str, Any] = {"prompt": render(self.processor.template, sample.messages, self.processor.special)}
        if sample.images:
            prompt["multi_modal_data"] = {"image": [image.open().convert("RGB") for image in sample.images]}
        return prompt

    def _whole(self, output: Any) -> list[int]:
        """The token ids, with their end token also where the engine leaves it out."""
        ids = [int(token) for token in output.token_ids]
        if output.finish_reason == "stop" and self.ends and (not ids or ids[-1] not in self.ends):
            ids.append(output.stop_reason if output.stop_reason in self.ends else self.ends[0])
        return ids


def _vllm() -> Any:
    try:
        import vllm
    except ModuleNotFoundError as error:
        if not missing_extra(error, {"vllm"}):
            raise
        ready = "openai, with `vllm serve` in an environment of its own"
        raise MissingExtraError("write responses with vLLM", "vllm", "vllm", ready=ready) from error
    return vllm


GENERATOR = Generator(check, open_generator)
