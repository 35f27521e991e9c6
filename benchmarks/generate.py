"""Speed of Gen-Data: our sampler beside transformers' `generate`, in one process, repetitions interleaved.

    python benchmarks/generate.py --model demo --model mid --json out.json

Ours runs images and prompt once for all G responses of a question. What it stands beside: `generate` with
`num_return_sequences=G`, and one `generate` call per response. All sample with the recipe's default settings; reading
and resizing images is in none of the figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from edgekit.checkpoint.folder import load_model, resolve_checkpoint
from edgekit.data import Sample, samples
from edgekit.demo.architecture import build_tokenizer
from edgekit.distill.batch import encode_prompts
from edgekit.distill.generators.transformers import sample
from edgekit.inputs.processor import Processor
from edgekit.recipe.model import GenData

OURS, ALONE, RETURNS, CALLS = (
    "ours",
    "ours, a question at a time",
    "generate(num_return_sequences=G)",
    "generate per response",
)


def demo() -> tuple[Any, Processor]:
    """The built-in demo teacher: 3.7 M parameters, 16 image tokens, answers of two tokens."""
    folder = resolve_checkpoint("demo:teacher")
    return load_model(folder), Processor.load(folder)


def mid(image_size: int = 256) -> tuple[Any, Processor]:
    """Random weights: vision 8 x 384 at 256/16, text 12 x 576, 64 image tokens (256 at 512); 96 M parameters."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration

    processor = Processor.load(resolve_checkpoint("demo:teacher"))
    tokens = (image_size // 16 // 2) ** 2
    params = {**processor.params, "tile": image_size, "longest_edge": image_size, "image_seq_len": tokens}
    vocabulary = build_tokenizer(["a"]).token_to_id
    ends = {"bos_token_id": vocabulary("<|im_start|>"), "eos_token_id": vocabulary("<end_of_utterance>")}
    text = {"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 12}
    text |= {"num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 32768, **ends}
    vision = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 6}
    config = Idefics3Config(
        text_config={**text, "pad_token_id": vocabulary("<|im_end|>")},
        vision_config={**vision, "image_size": image_size, "patch_size": 16},
        scale_factor=2,
        image_token_id=vocabulary("<image>"),
    )
    torch.manual_seed(0)
    model = Idefics3ForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()
    model.generation_config.update(**ends, pad_token_id=vocabulary("<|im_end|>"))
    return model, dataclasses.replace(processor, params=params)


MODELS: dict[str, Callable[[], tuple[Any, Processor]]] = {"demo": demo, "mid": mid}


def ways(
    model: Any, processor: Processor, rows: Sequence[Sample], count: int, settings: GenData
) -> dict[str, Callable[[int], int]]:
    """Name -> a function of a seed that writes `count` responses to each question and returns how many tokens."""
    together = encode_prompts(processor, rows)
    apart = [encode_prompts(processor, [row]) for row in rows]
    given = []
    for row in rows:
        inputs = processor.encode(row.messages, [image.open() for image in row.images])
        assert inputs.pixels is not None
        ids = torch.from_numpy(inputs.ids)
        pixels = torch.from_numpy(inputs.pixels.values)[None]
        given.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels})
    sampling = {
        "do_sample": True,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k,
        "repetition_penalty": settings.repetition_penalty,
        "max_new_tokens": settings.max_new_tokens,
    }

    def tokens(drawn: list[list[list[int]]]) -> int:
        return sum(len(ids) for row in drawn for ids in row)

    def generated(inputs: dict[str, torch.Tensor], returns: int) -> int:
        out = model.generate(**inputs, **sampling, num_return_sequences=returns)[:, inputs["input_ids"].shape[1] :]
        ended = (out == model.generation_config.eos_token_id).int().cumsum(1)
        return int(((ended - (out == model.generation_config.eos_token_id).int()) == 0).sum())

    def calls(seed: int, returns: int) -> int:
        torch.manual_seed(seed)
        with torch.no_grad():
            return sum(generated(inputs, returns) for inputs in given for _ in range(count // returns))

    return {
        OURS: lambda seed: tokens(sample(model, processor, together, count, settings, seed)),
        ALONE: lambda seed: sum(
            tokens(sample(model, processor, one, count, settings, seed + k)) for k, one in enumerate(apart)
        ),
        RETURNS: lambda seed: calls(seed, count),
        CALLS: lambda seed: calls(seed, 1),
    }


def measure(ready: dict[str, Callable[[int], int]], repeats: int) -> dict[str, list[float]]:
    """Tokens per second of each way, once per repetition; the order turns by one each time."""
    names = list(ready)
    for name in names:
        ready[name](0)  # warm up
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(repeats):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            begun = time.perf_counter()
            tokens = ready[name](number + 1)
            speeds[name].append(tokens / (time.perf_counter() - begun))
    return speeds


def summary(speeds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """One row per way; `ours_over` compares within each repetition: median, lowest and highest."""
    rows = []
    for name, values in speeds.items():
        ratios = sorted(own / other for own, other in zip(speeds[OURS], values, strict=True))
        rows.append(
            {
                "way": name,
                "tokens_per_s": statistics.median(values),
                "tokens_per_s_range": [min(values), max(values)],
                "ours_over": statistics.median(ratios),
                "ours_over_range": [ratios[0], ratios[-1]],
                "raw": values,
            }
        )
    return rows


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=MODELS, help="may be repeated; both when absent")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--responses", type=int, default=8, help="G, per question")
    parser.add_argument("--new-tokens", type=int, default=32, help="per response at most")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write every figure there")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    settings = GenData(max_new_tokens=given.new_tokens)
    found = {}
    for name in given.model or MODELS:
        model, processor = MODELS[name]()
        rows = list(samples("easy-vqa:test", limit=given.questions))
        ready = ways(model, processor, rows, given.responses, settings)
        found[name] = summary(measure(ready, given.repeats))
        parameters = sum(weight.numel() for weight in model.parameters())
        prompt = len(encode_prompts(processor, rows[:1]).ids[0])
        out = f"\n{name}: {parameters:,} parameters, prompts of about {prompt} tokens, {given.questions} questions, "
        out += f"G = {given.responses}, {given.threads} thread(s), {given.repeats} repetitions\n"
        out += f"{'':36} {'tokens/s':>10} {'range':>17} {'ours is':>9} {'range':>15}\n"
        for row in found[name]:
            low, high = row["tokens_per_s_range"]
            least, most = row["ours_over_range"]
            out += f"{row['way']:36} {row['tokens_per_s']:10.1f} {f'{low:.1f} - {high:.1f}':>17} "
            out += f"{row['ours_over']:8.2f}x {f'{least:.2f} - {most:.2f}':>15}\n"
        sys.stdout.write(out)
    if given.json:
        given.json.write_text(json.dumps({"settings": vars(given) | {"json": None}, "models": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
