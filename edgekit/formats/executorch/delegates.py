"""What a program leaves to back-ends, and whether this machine can run that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError, NotHereError

FILE = "model.pte"


@dataclass(frozen=True)
class Known:
    """A back-end that programs here are lowered for.

    Attributes:
        delegate: Its name in a program.
        app: What an app must link to run it.
        evaluated: Whether edgekit's own evaluator runs what is in its delegates where ExecuTorch does not.
    """

    delegate: str
    app: str
    evaluated: bool = False


BACKENDS = {
    "xnnpack": Known("XnnpackBackend", "XNNPACK"),
    "vulkan": Known("VulkanBackend", "ExecuTorch's Vulkan back-end (EXECUTORCH_BUILD_VULKAN)"),
    "coreml": Known("CoreMLBackend", "ExecuTorch's Core ML back-end (EXECUTORCH_BUILD_COREML)", evaluated=True),
    "mlx": Known("MLXBackend", "ExecuTorch's MLX back-end (EXECUTORCH_BUILD_MLX)"),
}
"""By the word of `--option backend=`."""


def handed_over(plans: Iterable[Any]) -> dict[str, dict[str, dict[str, int]]]:
    """Of each method with instructions: how often each delegate is called, and each operator outside of them.

    Args:
        plans: A program's execution plans.
    """
    found = {}
    for plan in plans:
        delegates: Counter[str] = Counter()
        left: Counter[str] = Counter()
        for chain in plan.chains or ():
            for instruction in chain.instructions:
                call = instruction.instr_args
                if type(call).__name__ == "DelegateCall":
                    delegates[str(plan.delegates[call.delegate_index].id)] += 1
                elif type(call).__name__ == "KernelCall":
                    operator = plan.operators[call.op_index]
                    left[str(operator.name)] += 1
        if delegates or left:
            found[str(plan.name)] = {"delegates": dict(delegates.most_common()), "left": dict(left.most_common())}
    return found


def details(folder: Path) -> dict[str, Any]:
    """What the manifest keeps: the back-end, and what each method leaves to it, as the program itself says."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    methods = handed_over(deserialize_pte_binary((folder / FILE).read_bytes()).program.execution_plan)
    used = {name for method in methods.values() for name in method["delegates"]}
    names = [name for name, known in BACKENDS.items() if known.delegate in used]
    return {"backend": names[0] if names else "xnnpack", "methods": methods}


def backend_of(told: Mapping[str, Any]) -> str:
    """The back-end that a manifest's details name; bundles from before have none, and are XNNPACK's.

    Raises:
        EdgekitError: it is not known.
    """
    name = told.get("backend", "xnnpack")
    if not isinstance(name, str) or name not in BACKENDS:
        raise EdgekitError(
            f"ExecuTorch's back-end {str(name)[:80]!r} is not known.", fix=f"There are: {', '.join(BACKENDS)}."
        )
    return name


def check_here(name: str, registered: Iterable[str]) -> None:
    """Refuse a program that nothing here runs.

    Args:
        name: Of the back-end.
        registered: Delegates that the ExecuTorch of this process runs.

    Raises:
        NotHereError: its delegate is not among them.
    """
    known = BACKENDS[name]
    if known.delegate not in (there := list(registered)):
        raise NotHereError(
            f"This bundle is for ExecuTorch's back-end {name!r}, which is not in the ExecuTorch of this machine.",
            why=f"It was lowered, and not run. Here are: {', '.join(sorted(there)) or 'none'}.",
            fix=f"Run it in an app that links {known.app}, or export for the CPU:  --option backend=xnnpack",
        )


def told(name: str, methods: Mapping[str, Any]) -> tuple[str, ...]:
    """Notes of one bundle: what each method leaves outside its delegates."""
    notes = []
    for method, found in methods.items():
        if not (isinstance(found, Mapping) and isinstance(found.get("left"), Mapping)):
            continue
        calls = sum(found.get("delegates", {}).values())
        left = ", ".join(f"{operator} {count}" for operator, count in found["left"].items()) or "nothing"
        notes.append(f"{method}: {calls} {'call' if calls == 1 else 'calls'} to {name}, left outside: {left}")
    if name != "xnnpack":
        notes.append(f"what is inside the delegates of {name} is not counted here: parameters, work and states of them")
    return tuple(notes)
