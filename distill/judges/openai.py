"""R_acc by a language model behind an OpenAI-compatible server; it reads question, references and response, no image.

Two requests a response at temperature 0, `judge_concurrency` at a time; the verdicts are kept in the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from edgekit.distill import judge_cache
from edgekit.distill.chat_server import ChatServer
from edgekit.distill.judges import Judge, Verdicts
from edgekit.errors import RecipeError
from edgekit.inputs.chat import Message
from edgekit.recipe.model import LlmJudge
from edgekit.recipe.per_dataset import Choice

VERDICT_TOKENS = 16


def check(llm: LlmJudge, base: Path) -> None:
    """Whether the settings name a model, an address and, if any, a key that is there; nothing is sent.

    Raises:
        RecipeError: not.
    """
    del base
    _server(llm)


def make(scoring: Choice, llm: LlmJudge, folder: Path, base: Path) -> Verdicts:
    """A judge that asks `llm.judge_model` on `llm.judge_url`; its verdicts are kept in `folder`."""
    del scoring, base
    server = _server(llm)

    def ask(cases: Sequence[judge_cache.Case]) -> judge_cache.Answers:
        pool = ThreadPoolExecutor(llm.judge_concurrency, "judge")
        places = {pool.submit(_verdict, server, case): place for place, case in enumerate(cases)}
        try:
            for done in as_completed(places):
                yield places[done], done.result()
        except BaseException as error:
            server.stop()
            # Ctrl-C does not wait for a server, which may be silent for as long as it is allowed to.
            pool.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
            raise
        pool.shutdown()

    return judge_cache.AskedJudge(server.model, judge_cache.VerdictStore(folder / judge_cache.FILE), ask)


def _server(llm: LlmJudge) -> ChatServer:
    missing = [key for key in ("judge_model", "judge_url") if not getattr(llm, key)]
    if missing:
        raise RecipeError(
            f"The judge 'openai' needs {' and '.join(f'masters.rewards.llm.{key}' for key in missing)}.",
            fix="For example:  judge_url: http://localhost:8000/v1",
        )
    return ChatServer(
        str(llm.judge_url),
        str(llm.judge_model),
        llm.judge_api_key_env,
        llm.judge_concurrency,
        llm.judge_retries,
        llm.judge_timeout_s,
    )


def _verdict(server: ChatServer, case: judge_cache.Case) -> judge_cache.Verdict:
    analysis = _say(server, judge_cache.analysis_prompt(case), judge_cache.ANALYSIS_TOKENS)
    conversation = judge_cache.verdict_prompt(case, analysis)
    said = _say(server, conversation, VERDICT_TOKENS)
    value = judge_cache.read_verdict(said)
    if value is None:
        said = _say(server, judge_cache.reminder_prompt(conversation, said), VERDICT_TOKENS)
        value = judge_cache.read_verdict(said)
    return judge_cache.Verdict(value, said)


def _say(server: ChatServer, messages: list[Message], max_tokens: int) -> str:
    texts = server.complete(messages, temperature=0.0, max_tokens=max_tokens)
    return texts[0] if texts else ""


JUDGE = Judge(make, check)
