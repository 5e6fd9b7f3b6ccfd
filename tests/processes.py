"""Python in processes of their own, for tests of commands, pages and scripts, without importing PyTorch for each.

To import PyTorch and Lightning takes five seconds and more of a slow core, longer than most of what these tests run.
So the first :func:`run_python` starts a server that imports what oneshot needs, but nothing of oneshot, and every call
is a fork of it: its own folder, environment, `sys.path`, `sys.argv`, `__main__` and end, and one thread.

What depends on how Python itself starts or ends (encodings, warnings, the seed of hashes, what is imported and when,
destructors, processes that are left behind) needs `subprocess`, and so do other folders of libraries (`HOME`,
`HF_HOME`). With ONESHOT_REAL_PROCESSES in the environment (`make test-nightly`) every call is a Python of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import NoReturn

import numpy as np

ROOT = Path(__file__).parents[1]
THIRD_PARTY = (
    "PIL.Image",
    "scipy.stats",
    "matplotlib.figure",
    "sklearn.datasets",
    "torch",
    "torchvision",
    "torchmetrics",
    "pytorch_lightning",
    "jsonargparse",
    "timm",
    "onnx",
    "onnxscript",
    "safetensors.torch",
)
# Read while Python or a library starts, so a fork would not heed another value.
AT_START = (
    *(f"PYTHON{name}" for name in ("IOENCODING", "UTF8", "WARNINGS", "HASHSEED", "SAFEPATH")),
    *("LANG", "LC_ALL", "TZ", "MPLBACKEND"),
)
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}  # others cannot be forked
_AT_IMPORT = dict(os.environ)
_server: subprocess.Popen[str] | None = None


def run_python(
    *words: object, cwd: str | Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run([sys.executable, *words], capture_output=True, text=True)`.

    Args:
        *words: ``-c CODE``, ``-m MODULE`` or the path of a script, and its arguments.
        cwd: The folder it runs in; the current one if ``None``.
        env: All of its environment; that of this process if ``None``.

    Raises:
        ValueError: For another option of Python, or a variable that is read when Python starts and has another value.
    """
    command = [str(word) for word in words]
    environment = dict(os.environ) if env is None else env
    if command[0].startswith("-") and command[0] not in ("-c", "-m"):
        raise ValueError(f"run_python takes -c, -m or a script, but got {command[0]}. Use subprocess.")
    if os.environ.get("ONESHOT_REAL_PROCESSES") or sys.platform != "linux":  # only there are forks of PyTorch safe
        real = [sys.executable, *command]
        return subprocess.run(real, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if other := [name for name in AT_START if environment.get(name) != _AT_IMPORT.get(name)]:
        raise ValueError(f"{other} must be as when this process began, since Python has started. Use subprocess.")
    server = _start()
    assert server.stdin and server.stdout
    with TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr")]
        job = {"words": command, "cwd": str(cwd or Path.cwd()), "env": environment, "files": [*map(str, files)]}
        try:
            server.stdin.write(json.dumps(job) + "\n")
            server.stdin.flush()
            answer = server.stdout.readline()
        except BaseException:  # a timeout or Ctrl-C: the fork still runs, and its answer would be the next one's
            _end()
            raise
        if not answer:
            raise RuntimeError(f"The server of processes ended with {server.wait()}.")
        return subprocess.CompletedProcess(command, int(answer), *(file.read_text(encoding="utf-8") for file in files))


def _start() -> subprocess.Popen[str]:
    global _server
    if _server is None or _server.poll() is not None:
        environment = {**_AT_IMPORT, **ONE_THREAD, "PYTHONPATH": str(ROOT)}
        _server = subprocess.Popen(
            [sys.executable, "-m", "tests.processes"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        atexit.register(_end)
    return _server


def _end() -> None:
    """End the server, and what still runs as a fork of it."""
    global _server
    if _server is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(_server.pid, signal.SIGKILL)
        _server.wait()
        for pipe in (_server.stdin, _server.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        _server = None


def _serve() -> None:
    """Fork for every line of standard input, and answer with the exit status."""
    for name in THIRD_PARTY:
        importlib.import_module(name)
    assert not [name for name in sys.modules if name.partition(".")[0] == "oneshot"]
    threads = len(os.listdir("/proc/self/task"))
    assert threads == 1, "A library that starts threads, such as onnxruntime, is in the list."
    gc.collect()
    gc.freeze()  # or the collector of every fork would copy all of these modules
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _run(**json.loads(line))
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()


def _run(words: list[str], cwd: str, env: dict[str, str], files: list[str]) -> NoReturn:
    """Run what Python would run, and end as it would, but without taking all modules apart, which takes seconds."""
    for number, file in enumerate((os.devnull, *files)):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    random.seed(), np.random.seed()  # a process that starts by itself has other numbers than the one before
    code = 0
    try:
        _main(words, env.get("PYTHONPATH", ""))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if end.code is not None and not isinstance(end.code, int):
            sys.stderr.write(f"{end.code}\n")
    except KeyboardInterrupt:
        traceback.print_exc()
        code = -signal.SIGINT
    except BaseException:  # noqa: BLE001 - as Python does with whatever ends a program
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush(), sys.stderr.flush()
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code)


def _main(words: list[str], path: str) -> None:
    libraries = [entry for entry in sys.path[1:] if entry != str(ROOT)]
    sys.path[1:] = [*([entry or os.getcwd() for entry in path.split(os.pathsep)] if path else []), *libraries]
    how, *rest = words
    if how == "-c":
        sys.path[0], sys.argv = "", ["-c", *rest[1:]]
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(main))
    elif how == "-m":
        sys.path[0], sys.argv = os.getcwd(), ["-m", *rest[1:]]  # as it is until the module is found
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0], sys.argv = str(Path(how).resolve().parent), words
        runpy.run_path(how, run_name="__main__")


if __name__ == "__main__":
    _serve()
