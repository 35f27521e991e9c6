"""An evaluator of Core ML's ML Programs for any machine.

    package = Package(Path("model.mlpackage"))
    function = package.function()                   # or package.function("decode")
    state = function.make_state()
    outputs = function.predict({"x": array}, state)

It runs the program in the saved package, with its own weights as they are stored there. It checks the program that
ships; it says nothing of Apple's rounding, of where Core ML places an operation, or of speed.

Rounding: float16 values are float16. An operation on them computes in float32, sums included, and rounds its result
to float16 once; a device may sum in float16, or fuse operations and round less often.
"""

from __future__ import annotations

from edgekit.formats.coreml.mil.package import Function, Input, Package, Shapes, State
from edgekit.formats.coreml.mil.programs import checked_packages, open_programs

__all__ = ["Function", "Input", "Package", "Shapes", "State", "checked_packages", "open_programs"]
