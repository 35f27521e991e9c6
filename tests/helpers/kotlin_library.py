"""The Android library's core compiled by kotlinc and run on the JVM; `make test-kotlin` and tests/apps/test_kotlin.py.

The compiler comes from npm into a folder of its own (EDGEKIT_KOTLIN, else ~/.cache/edgekit/kotlin). The adapter for
ONNX Runtime is the very file that an app has: under it stands a Java API of the same signatures, tests/apps/kotlin/ort,
over ONNX Runtime's C API in the library that the Python package brings.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]
ANDROID = ROOT / "edgekit" / "apps" / "android"
TESTS = ROOT / "tests" / "apps" / "kotlin"
COMPILER = "kotlin-compiler@2.4.20"
TYPES = "@nativescript/types-android@9.1.1"
FAST = "-Xmx1200M -XX:+UseSerialGC -XX:TieredStopAtLevel=1"
"""For a compiler that runs for seconds; with its own settings it takes three times as long."""
ADAPTERS = ANDROID / "adapters"
CORE = [ANDROID / "core/src/main/kotlin", *(ADAPTERS / one / "src/main/kotlin" for one in ("onnx", "gguf"))]
"""What runs on a desktop's JVM too."""


class Missing(Exception):
    """What is not on this machine, for a skip."""


def place() -> Path:
    """Where compiler and compiled files are kept."""
    given = os.environ.get("EDGEKIT_KOTLIN")
    return Path(given) if given else Path.home() / ".cache" / "edgekit" / "kotlin"


def _run(command: Sequence[object], timeout: int, **environment: str) -> str:
    """Its output; an error shows the end of it."""
    given = [str(part) for part in command]
    env = {**os.environ, **environment}
    ran = subprocess.run(given, capture_output=True, text=True, encoding="utf-8", timeout=timeout, env=env)
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-6000:]
    return ran.stdout


@cache
def java_home() -> Path:
    """The JDK's folder.

    Raises:
        Missing: there is none.
    """
    javac = shutil.which("javac")
    if javac is None:
        raise Missing("javac is not installed (Java 17 or newer)")
    return Path(javac).resolve().parents[1]


def _from_npm(package: str, has: str) -> Path:
    """The folder of a package, fetched the first time.

    Args:
        package: Name and version.
        has: A file of it.

    Raises:
        Missing: no npm, or no network.
    """
    name = package.rpartition("@")[0]
    folder = place() / name.rpartition("/")[2]
    found = folder / "node_modules" / name
    if (found / has).is_file():
        return found
    npm = shutil.which("npm")
    if npm is None:
        raise Missing(f"npm is not installed, and {package} comes from there")
    folder.mkdir(parents=True, exist_ok=True)
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", package]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    if ran.returncode:
        raise Missing(f"npm does not bring {package}: {ran.stderr[-300:]}")
    return found


@cache
def compiler() -> Path:
    """The folder of the Kotlin compiler.

    Raises:
        Missing: it cannot be had.
    """
    return _from_npm(COMPILER, "lib/kotlin-compiler.jar")


def android_declarations() -> Path:
    """All public signatures of Android's API 37, as TypeScript.

    Raises:
        Missing: they cannot be had.
    """
    file = "lib/android/android-platform-37.d.ts"
    return _from_npm(TYPES, file) / file


def libraries() -> list[Path]:
    """What Kotlin programs run with."""
    return [compiler() / "lib" / name for name in ("kotlin-stdlib.jar", "kotlinx-coroutines-core-jvm.jar")]


def kotlinc(sources: Iterable[Path], classpath: Iterable[Path], jar: Path, *flags: str) -> None:
    """Compile Kotlin; every warning is an error."""
    sources, classpath = list(sources), list(classpath)

    def compile_all() -> None:
        paths = ":".join(map(str, [*classpath, *libraries()]))
        command = ["bash", compiler() / "bin" / "kotlinc", "-Werror", "-jvm-target", "17", *flags, "-cp", paths]
        _run([*command, "-d", jar, *sources], 3600, JAVA_OPTS=FAST)

    _once(jar, [*sources, *classpath], flags, compile_all)


def _once(out: Path, sources: Iterable[Path], flags: Sequence[str], make: Callable[[], object]) -> None:
    """Make something, unless it was made before from the same sources."""
    key, mark = _key(sources, flags), out.with_suffix(".key")
    if out.exists() and mark.exists() and mark.read_text() == key:
        return
    mark.unlink(missing_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    make()
    mark.write_text(key)


def _key(paths: Iterable[Path], flags: Sequence[str]) -> str:
    found = hashlib.sha256(" ".join([COMPILER, *flags]).encode())
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                found.update(str(file.name).encode() + file.read_bytes())
    return found.hexdigest()


def onnxruntime_library() -> Path:
    """The C library in the Python package.

    Raises:
        Missing: there is none.
    """
    spec = find_spec("onnxruntime")
    found = [] if spec is None else sorted((Path(str(spec.origin)).parent / "capi").glob("libonnxruntime.so*"))
    if not found:
        raise Missing("onnxruntime brings no libonnxruntime.so here")
    return found[0]


def shim(out: Path) -> Path:
    """The C side of the Java API, compiled.

    Raises:
        Missing: no C compiler.
    """
    gcc = shutil.which("gcc") or shutil.which("cc")
    if gcc is None:
        raise Missing("there is no C compiler")
    found = out / "libshim.so"
    include = java_home() / "include"
    flags = ["-O1", "-w", "-shared", "-fPIC", f"-I{include}", f"-I{include / 'linux'}"]
    command = [gcc, *flags, TESTS / "shim.c", "-o", found, "-ldl"]
    _once(found, [TESTS / "shim.c"], flags, lambda: _run(command, 120))
    return found


def llama_library(out: Path) -> Path:
    """The C++ side of the llama.cpp adapter, compiled against the Python package's libraries.

    Raises:
        Missing: llama-cpp-python or a C++ compiler is not installed.
    """
    spec, compiler = find_spec("llama_cpp"), shutil.which("g++") or shutil.which("c++")
    package = Path(str(spec.origin)).parent if spec is not None else Path()
    headers = package.parent / "include"
    if spec is None or compiler is None or not (headers / "mtmd.h").is_file():
        raise Missing("llama-cpp-python with its headers and a C++ compiler are not installed")
    found, java = out / "libedgekit_llama.so", java_home() / "include"
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", f"-I{headers}", f"-I{java}"]
    libraries = [f"-L{package / 'lib'}", "-lmtmd", "-lllama", "-lggml", "-lggml-base", f"-Wl,-rpath,{package / 'lib'}"]
    source = ADAPTERS / "gguf/src/main/cpp/llama_jni.cpp"
    command = [compiler, *flags, f"-I{java / 'linux'}", source, *libraries, "-o", found]
    _once(found, [source], flags, lambda: _run(command, 300))
    return found


@cache
def build() -> tuple[Path, ...]:
    """Compile all that runs on the JVM: the class path, the tests last.

    Raises:
        Missing: a tool that is not here.
    """
    out = place() / "out"
    ort = out / "ort"
    compiler()
    shim(out)
    ort.mkdir(parents=True, exist_ok=True)
    javac = [java_home() / "bin" / "javac", "-d", ort, *sorted((TESTS / "ort").rglob("*.java"))]
    _once(ort, [TESTS / "ort"], (), lambda: _run(javac, 300))
    kotlinc(CORE, [ort], out / "core.jar")
    kotlinc([TESTS / "src"], [ort, out / "core.jar"], out / "tests.jar")
    return ort, out / "core.jar", out / "tests.jar"


def run(*arguments: str | Path, timeout: int = 900) -> str:
    """Run the tests' main: its output. What failed is in the error."""
    classpath = ":".join(map(str, [*build(), *libraries()]))
    out = place() / "out"
    own = [f"-Dedgekit.shim={out / 'libshim.so'}", f"-Dedgekit.onnxruntime={onnxruntime_library()}"]
    own.append(f"-Djava.library.path={out}")
    java = java_home() / "bin" / "java"
    return _run([java, "-Xmx2g", "-Djava.awt.headless=true", *own, "-cp", classpath, "MainKt", *arguments], timeout)


def check_android(out: Path) -> None:
    """Type-check the adapters and the sample app against stubs of the Android SDK's declarations.

    Args:
        out: For what is compiled, which nobody runs.
    """
    jars = build()[:-1]
    resources = out / "resources"
    (package := resources / "edgekit" / "app").mkdir(parents=True, exist_ok=True)
    (package / "R.java").write_text(resource_class())
    app, executorch = ANDROID / "app" / "src", ANDROID / "adapters/executorch/src/main/kotlin"
    stubs = [TESTS / "stubs", resources]
    kotlinc([*stubs, executorch, app / "main/kotlin", app / "onnx/kotlin"], jars, out / "app.jar")
    for other in ("executorch", "gguf"):
        kotlinc([app / other / "kotlin"], [*jars, out / "app.jar"], out / f"app-{other}.jar")


def resource_class() -> str:
    """`R` as aapt makes it of the app's texts, for the type check."""
    names = []
    for file in sorted((ANDROID / "app/src/main/res/values").glob("*.xml")):
        names += [str(one.get("name")) for one in ElementTree.parse(file).getroot().iter("string")]
    fields = " ".join(f"public static final int {name} = {number};" for number, name in enumerate(names, 1))
    return f"package edgekit.app;\n\npublic final class R {{ public static final class string {{ {fields} }} }}\n"
