"""Any Linux board behind ssh: a Raspberry Pi, a Jetson, a server.

`edgekit bench --device ssh://pi@raspberrypi` copies the bundle, the questions and edgekit's own sources into a new
folder in the board's temporary directory, runs the same worker there as here, fetches answers and timings, and takes
the folder away. One `ssh` process holds it all: when it ends, however it ends, the board ends the worker and cleans up.

The OpenSSH client does the talking, so `~/.ssh/config`, agents and jump hosts work. The board's key must be known
already, and a key must open the door: nothing is asked.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

import edgekit
from edgekit.console import note
from edgekit.devices import Address, Device, WorkerGone, _questions
from edgekit.devices._line import Line, LineLost, Remote
from edgekit.devices._ssh_command import advice, ssh_command
from edgekit.errors import EdgekitError
from edgekit.files import tree_files
from edgekit.system.dialogue import EndedError, GaveUpError, wait_ready, wait_reply
from edgekit.system.process import how_it_ended
from edgekit.system.temporary import room
from edgekit.system.timeouts import Timeouts

OPTIONS = {
    "python": "a Python of the board that has what the runtime needs; else python3, or an environment made with it",
    "env": "a folder of the board where the environment is made once, and stays",
    "identity": "file of the private key",
    "known_hosts": "file of known host keys, instead of the user's",
}
OLDEST_PYTHON = (3, 11)
SETUP_S = 3600.0  # of silence of what makes an environment
CHECK_S = 300.0  # of silence of a program that says what is there
PINNED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
TRACE = "trace.npz"  # the worker's name for the reference's logits
NEEDED = {"pillow": "PIL", **{name: name for name in ("numpy", "jinja2", "tokenizers", "filelock")}}
"""What every runtime's worker imports: the package's name, and the module's."""

_LEFT_OUT = ("api/", "commands/", "demo/", "distill/", "export/", "optimum_register/")
"""Folders of edgekit that no worker imports."""

CHECK = """
import importlib.util, json, sys
print(json.dumps({"version": sys.version_info[:3],
                  "missing": [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]}))
"""


def reach(address: Address) -> tuple[bool, str]:
    """Whether an agent can be started there; without a place, how to name one."""
    if not address.place:
        missing = "" if shutil.which("ssh") else "the program ssh is missing; then "
        return False, f"{missing}name a board:  --device ssh://user@host:port"
    try:
        with _open_line(address) as line:
            found = line.ask("describe")
    except EdgekitError as error:
        return False, " ".join(str(error).split())
    return True, ", ".join(str(found[key]) for key in ("board", "cpu", "system") if key in found)


@contextmanager
def connect(address: Address) -> Iterator[Board]:
    """A board for as long as the block lasts.

    Raises:
        EdgekitError: it cannot be reached; the message says what to do about it.
    """
    with room("ssh") as aside:
        board = Board(address, aside)
        try:
            board.ready()
            yield board
        finally:
            board.close()


class Board:
    """A board with an agent on it.

    Args:
        address: Where.
        aside: An empty folder here, for packed questions.
    """

    def __init__(self, address: Address, aside: Path) -> None:
        self.name = address.place
        self._address, self._aside = address, aside
        self._line: Line | None = None
        self._there: dict[str, str] = {}
        self._pythons: dict[str, str] = {}
        self._about: dict[str, Any] = {}

    def ready(self) -> Line:
        """The line, opened where it is not."""
        if self._line is None:
            self._line = _open(self._address)
            self._there, self._pythons = {}, {}
            self._about = self._line.ask("describe")
        return self._line

    def describe(self) -> dict[str, Any]:
        """Board, processor, memory, system, temperature."""
        return {"name": self.name, **self._about}

    def open_worker(self, job: Mapping[str, Any], place: Path) -> BoardWorker:
        """Start a worker; see `edgekit.devices.Board`."""
        line = self.ready()
        try:
            python = self._python(job["runtime"])
            there = self._prepare(job)
            pinned = dict.fromkeys(PINNED, str(job["threads"]))
            env = {**pinned, "PYTHONPATH": f"{line.about['place']}/runner", "PYTHONDONTWRITEBYTECODE": "1"}
            process = line.start([python, "-m", "edgekit.runtimes.worker", f"{there}/job.json"], env)
        except LineLost as error:
            raise self.lost(line, error) from error
        return BoardWorker(self, line, process, there, Timeouts(**job.get("timeouts", {})))

    def lost(self, line: Line, error: LineLost) -> WorkerGone:
        """What to tell of a connection that was lost, after cleaning up behind it; the next worker tries it anew."""
        if self._line is line:  # else another worker of the same connection has done it
            self._line = None
            self._clean_up(line)
        return WorkerGone(error.what, why=error.why)

    def _prepare(self, job: Mapping[str, Any]) -> str:
        """Copy what a job needs and is not there yet, and the job with the board's own names in it."""
        line = self.ready()
        out = f"job-{len(self._there)}"
        self._put_tree("runner", Path(edgekit.__file__).parent, "runner/edgekit", _sources())
        source = Path(job["folder"])
        subject = self._put_tree(f"subject {source}", source, f"subject-{len(self._there)}", tree_files(source))
        data = self._put_questions(job["data"], job["limit"]) if job["data"] else ""
        changed = self._aside / "job.json"
        changed.write_text(json.dumps({**job, "folder": subject, "data": data}), encoding="utf-8")
        line.put(changed, f"{out}/job.json")
        self._there[out] = out
        return f"{line.about['place']}/{out}"

    def _put_questions(self, spec: str, count: int | None) -> str:
        key = f"questions {count} {spec}"
        folder = self._aside / f"questions-{len(self._there)}"
        if key not in self._there:
            shutil.rmtree(folder, ignore_errors=True)
            _questions.pack(spec, count, folder)
        names = tree_files(folder) if folder.exists() else []
        return f"{self._put_tree(key, folder, f'questions-{len(self._there)}', names)}/{_questions.FILE}"

    def _put_tree(self, key: str, source: Path, name: str, files: Sequence[str]) -> str:
        """Copy files once; the folder's name on the board."""
        line = self.ready()
        if key not in self._there:
            for file in files:
                line.put(source / file, f"{name}/{file}")
            self._there[key] = f"{line.about['place']}/{name}"
        return self._there[key]

    def _python(self, runtime: str) -> str:
        """A Python on the board that has what a runtime's worker imports."""
        if runtime not in self._pythons:
            self._pythons[runtime] = self._find_python(runtime)
        return self._pythons[runtime]

    def _find_python(self, runtime: str) -> str:
        line = self.ready()
        modules = {**NEEDED, **{package: package for package in _packages(runtime)}}
        own = self._address.options.get("python")
        python = own or line.about["python"]
        missing = self._missing(python, modules)
        if not missing:
            return python
        if own:
            raise EdgekitError(
                f"{own} on {self.name} lacks {', '.join(missing)}.",
                fix=f"Install it there:  {own} -m pip install {' '.join(missing)}\nOr leave out the option python.",
            )
        folder = self._address.options.get("env") or f"{line.about['place']}/env"
        folder = re.sub(r"^~(?=/)", lambda _: line.about["home"], folder)
        return self._make_environment(python, folder, modules)

    def _make_environment(self, python: str, folder: str, modules: dict[str, str]) -> str:
        """A virtual environment on the board with this machine's own versions of what is needed."""
        made = f"{folder}/bin/python"
        with suppress(EdgekitError):
            if not self._missing(made, modules):
                return made
        note(f"Making an environment on {self.name} with {', '.join(modules)}.")
        wanted = [_pinned(package) for package in modules]
        steps = [
            [python, "-m", "venv", folder],
            [made, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted],
        ]
        for argv in steps:
            step = self.ready().start(argv, {})
            if step.finish(note, SETUP_S) != 0:
                raise EdgekitError(
                    f"No environment could be made on {self.name}.",
                    why=f"{shlex.join(argv)} ended with {step.code}: {' / '.join(step.tail)}",
                    fix="Make one there by hand, and name its interpreter:  --device 'ssh://...?python=PATH'",
                )
        return made

    def _missing(self, python: str, modules: dict[str, str]) -> list[str]:
        """Packages that a Python of the board lacks."""
        said: list[str] = []
        check = self.ready().start([python, "-c", CHECK, *modules.values()], {})
        check.finish(said.append, CHECK_S)
        try:
            found = json.loads(said[-1])
            version_there, lacking = tuple(int(part) for part in found["version"]), list(found["missing"])
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise EdgekitError(
                f"{python} on {self.name} does not run.", why=f"exit code {check.code}: {' / '.join(check.tail)}"
            ) from error
        if version_there < OLDEST_PYTHON:
            raise EdgekitError(
                f"{python} on {self.name} is Python {'.'.join(map(str, version_there))}.",
                why=f"edgekit needs {'.'.join(map(str, OLDEST_PYTHON))} or newer.",
                fix="Install a newer one there, and name it:  --device 'ssh://...?python=PATH'",
            )
        return [package for package, module in modules.items() if module in lacking]

    def _clean_up(self, line: Line) -> None:
        """The agent cleans up when the line goes; where it was itself killed, a new one does it."""
        line.close()
        with suppress(EdgekitError), _open_line(self._address) as again:
            if again.ask("sweep", "left", place=line.about["place"])["left"]:
                note(f"{line.about['place']} on {self.name} could not be removed.")

    def close(self) -> None:
        """Let the board clean up."""
        if self._line is not None:
            self._line.close()
            self._line = None


class BoardWorker:
    """A worker on a board; see `edgekit.devices.Worker`.

    Args:
        board: Of it.
        line: To the agent that started it.
        process: Running.
        there: Its folder on the board.
        timeouts: By phase.
    """

    def __init__(self, board: Board, line: Line, process: Remote, there: str, timeouts: Timeouts) -> None:
        self._board, self._line, self._process, self._there = board, line, process, there
        self._timeouts, self._number, self._ready = timeouts, 0, False

    def call(self, do: str, **arguments: Any) -> Any:
        """Have something done there, its files copied to and fro."""
        try:
            value = self._ask(do, self._sent(arguments))
            if do == "trace":
                name = f"{PurePosixPath(self._there).name}/{TRACE}"
                self._line.get(name, Path(arguments["out"]) / TRACE)
        except LineLost as error:
            raise self._board.lost(self._line, error) from error
        return value

    def _ask(self, do: str, arguments: dict[str, Any]) -> Any:
        try:
            if not self._ready:
                wait_ready(self._read, self._timeouts)
                self._ready = True
            self._number += 1
            self._process.write(json.dumps({"ask": self._number, "do": do, "given": arguments}))
            return wait_reply(self._read, self._number, do, self._timeouts)
        except EndedError as error:
            how = how_it_ended(self._process.code or 0, self._process.tail)
            raise WorkerGone(how.replace("its process", f"its process on {self._board.name}", 1)) from error
        except GaveUpError as error:
            self.close()
            raise WorkerGone(f"on {self._board.name}: {error.what}") from error

    def _read(self, seconds: float) -> bytes | None:
        text = self._process.readline(seconds)
        return None if text is None else text.encode()

    def _sent(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Arguments with files of this machine in the board's names."""
        line, folder = self._line, PurePosixPath(self._there).name
        changed = dict(arguments)
        if "out" in arguments:
            changed["out"] = self._there
        if "trace" in arguments:
            line.put(Path(arguments["trace"]), f"{folder}/reference-{TRACE}")
            changed["trace"] = f"{self._there}/reference-{TRACE}"
        if "images" in arguments:
            names = [f"image-{number}" for number in range(len(arguments["images"]))]
            for name, image in zip(names, arguments["images"], strict=True):
                line.put(Path(image), f"{folder}/{name}")
            changed["images"] = [f"{self._there}/{name}" for name in names]
        return changed

    def close(self) -> None:
        """End the process and forget its folder; nothing where the connection is gone."""
        with suppress(LineLost):
            if self._process.code is None and self._process.alive:
                self._process.kill()  # it may be in the middle of something long, and keeps nothing
                self._process.finish(lambda text: None, CHECK_S)


def _sources() -> list[str]:
    """edgekit's own Python files that a worker may import."""
    folder = Path(edgekit.__file__).parent
    # Not tree_files: it does not follow the links that the four lower folders are in a checkout.
    lower = [path for name in ("devices", "runtimes") for path in (folder / name).resolve().rglob("*.py")]
    roots = {(folder / name).resolve(): name for name in ("devices", "runtimes")}
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*.py")]
    files += [
        f"{name}/{path.relative_to(root).as_posix()}"
        for root, name in roots.items()
        for path in lower
        if path.is_relative_to(root)
    ]
    return sorted({name for name in files if not name.startswith(_LEFT_OUT)})


def _packages(runtime: str) -> Sequence[str]:
    """What a runtime's own module says it needs; read without importing the runtimes, which lie above devices."""
    import ast

    path = Path(edgekit.__file__).parent / "runtimes" / f"{runtime}.py"
    if not path.exists():
        raise EdgekitError(f"The runtime {runtime!r} is another package's and cannot be sent to a board.")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(n, ast.Name) and n.id == "PACKAGES" for n in node.targets):
            found: tuple[str, ...] = ast.literal_eval(node.value)
            return found
    return ()


def _pinned(package: str) -> str:
    try:
        return f"{package}=={version(package).partition('+')[0]}"
    except PackageNotFoundError:
        return package


@contextmanager
def _open_line(address: Address) -> Iterator[Line]:
    line = _open(address)
    try:
        yield line
    finally:
        line.close()


def _open(address: Address) -> Line:
    """Start an agent.

    Raises:
        EdgekitError: no agent came up, and why.
    """
    try:
        return Line(ssh_command(address), address.place)
    except LineLost as error:
        raise EdgekitError(
            f"{address.place} cannot be reached by ssh.", why=error.why, fix=error.fix or advice(error.why)
        ) from error


DEVICE = Device(reach, board=connect, options=OPTIONS)
