"""R_acc by a language model in this process: a text or vision-language checkpoint, read without images.

The verdict is the likelier of "1" and "0" as the next token, so there always is one. The model stays loaded beside
teacher and student for as long as responses are judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from edgekit.checkpoint.configuration import CONFIG, refuse_quantised
from edgekit.checkpoint.folder import checkpoint_hash, resolve_checkpoint
from edgekit.checkpoint.weights import check_weights
from edgekit.distill import judge_cache
from edgekit.distill.judges import Judge, Verdicts
from edgekit.errors import CheckpointError, DataError, RecipeError
from edgekit.families import read_optional_json
from edgekit.inputs.chat import Message, read_chat_template, render
from edgekit.recipe.model import LlmJudge
from edgekit.recipe.per_dataset import Choice


def check(llm: LlmJudge, base: Path) -> None:
    """Whether the settings name a checkpoint that is there, whole, in safetensors, with a chat template.

    Raises:
        EdgekitError: not.
    """
    folder = _folder(llm, base)
    refuse_quantised(folder / CONFIG, read_optional_json(folder / CONFIG))
    check_weights(folder)
    read_chat_template(folder)


def make(scoring: Choice, llm: LlmJudge, folder: Path, base: Path) -> Verdicts:
    """A judge that asks the checkpoint `llm.judge_model`; its verdicts are kept in `folder`."""
    del scoring
    check(llm, base)
    model = LocalModel(_folder(llm, base), llm.judge_concurrency)
    name = f"{llm.judge_model} ({checkpoint_hash(model.folder)[:12]})"
    return judge_cache.AskedJudge(name, judge_cache.VerdictStore(folder / judge_cache.FILE), model.ask)


def _folder(llm: LlmJudge, base: Path) -> Path:
    if not llm.judge_model:
        raise RecipeError(
            "The judge 'local' needs masters.rewards.llm.judge_model.", fix="Name a checkpoint folder or a hub name."
        )
    return resolve_checkpoint(llm.judge_model, base)


class LocalModel:
    """A checkpoint that is loaded when it is first asked.

    Args:
        folder: Hugging Face folder.
        batch: Prompts at a time.
    """

    def __init__(self, folder: Path, batch: int) -> None:
        self.folder, self.batch = folder, batch
        self.template = read_chat_template(folder)

    def ask(self, cases: Sequence[judge_cache.Case]) -> judge_cache.Answers:
        """(place, verdict) of each case, a batch at a time."""
        for start in range(0, len(cases), self.batch):
            group = cases[start : start + self.batch]
            first = [self._ids(self.render(judge_cache.analysis_prompt(case))) for case in group]
            analyses = [self._text(ids) for ids in self._generate(first, judge_cache.ANALYSIS_TOKENS).sequences]
            pairs = zip(group, analyses, strict=True)
            second = [self.render(judge_cache.verdict_prompt(case, said)) for case, said in pairs]
            for place, value in enumerate(self.decide(second), start):
                yield place, judge_cache.Verdict(value)

    def render(self, messages: list[Message]) -> str:
        """The prompt of a conversation, with contents as text or as parts, whichever the template knows.

        Raises:
            CheckpointError: the template shows neither.
        """
        parts = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in messages]
        special = {key: str(value) for key, value in self._tokenizer.special_tokens_map.items()}
        for form in (messages, parts):
            try:
                text = render(self.template, form, special)
            except DataError:
                continue  # many templates raise at the form they do not know
            if messages[-1]["content"].strip() in text:
                return text
        raise CheckpointError(f"The chat template of {self.folder} does not show a user's text.")

    def decide(self, prompts: Sequence[str]) -> list[int]:
        """1 where "1" is likelier after a prompt than "0", else 0."""
        heads, ones, zeros = zip(*(self._fork(prompt) for prompt in prompts), strict=True)
        logits = self._generate(heads, 1).logits[0]
        return [int(row[one] > row[zero]) for row, one, zero in zip(logits, ones, zeros, strict=True)]

    def _fork(self, prompt: str) -> tuple[list[int], int, int]:
        """The ids both verdicts begin with, and the one in which each ends."""
        one, zero = self._ids(f"{prompt}1"), self._ids(f"{prompt}0")
        if one[:-1] != zero[:-1] or one[-1] == zero[-1]:
            raise CheckpointError(f"The tokenizer of {self.folder} does not end a text in '1' or '0' by one token.")
        return one[:-1], one[-1], zero[-1]

    def _generate(self, rows: Sequence[list[int]], tokens: int) -> Any:
        import torch

        width = max(len(ids) for ids in rows)
        pad = next((i for i in (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id) if i is not None), 0)
        device = self._model.device
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
        with torch.no_grad():
            out = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=tokens,
                do_sample=False,
                pad_token_id=pad,
                output_logits=tokens == 1,
                return_dict_in_generate=True,
            )
        out.sequences = out.sequences[:, width:].tolist()
        return out

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _text(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)).strip()

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"Cannot load the tokenizer of {self.folder}.", why=_first_line(error)) from error

    @cached_property
    def _model(self) -> Any:
        import torch
        from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as IMAGED

        kind = read_optional_json(self.folder / "config.json").get("model_type")
        auto = AutoModelForImageTextToText if kind in IMAGED else AutoModelForCausalLM
        on_gpu = torch.cuda.is_available()
        try:
            model, report = auto.from_pretrained(
                self.folder,
                dtype=torch.bfloat16 if on_gpu else torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
        except (RuntimeError, ValueError, OSError, KeyError) as error:
            raise CheckpointError(f"Cannot load the judge {self.folder}.", why=_first_line(error)) from error
        if missing := sorted(report["missing_keys"]):
            raise CheckpointError(
                f"{self.folder} lacks {len(missing)} tensors, the first: {missing[0]}.",
                why="They would be left at random values.",
            )
        if strangers := sorted(report["unexpected_keys"]):
            raise CheckpointError(
                f"{self.folder} holds {len(strangers)} tensors that its model has no place for: {strangers[0]}.",
                why="They would be left out, and the judge would be another model.",
                fix="Save the judge once with transformers, without them or merged.",
            )
        return model.to("cuda" if on_gpu else "cpu").eval()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


JUDGE = Judge(make, check)
