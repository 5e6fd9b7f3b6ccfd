"""What runs in a fork of the server of processes ends and sees what it would in a Python of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import processes
from tests.processes import run_python

REAL = bool(os.environ.get("ONESHOT_REAL_PROCESSES")) or sys.platform != "linux"
FORKS = pytest.mark.skipif(REAL, reason="processes are real here, not forks")
ENDS = [
    "print('said'); import sys; print('warned', file=sys.stderr)",
    "import sys; sys.exit(7)",
    "raise SystemExit('said at the end')",
    "raise SystemExit(('neither', 1))",
    "1 / 0",
    "raise KeyboardInterrupt",
    "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "import atexit; atexit.register(print, 'at the end')",
    "import threading, time; threading.Thread(target=lambda: (time.sleep(0.2), print('late'))).start()",
    "import sys; print(sys.argv, __name__, sys.path[0], 'oneshot' in sys.modules)",
    "import os; print(os.getcwd(), os.environ['MARK'], os.environ.get('PYTHONPATH'))",
]


@pytest.mark.slow
@pytest.mark.parametrize("code", ENDS)
def test_a_fork_is_as_a_python_of_its_own(code: str, tmp_path: Path) -> None:
    environment = {**os.environ, "MARK": "here", "PYTHONPATH": str(tmp_path)}
    words = ["-c", code, "an", "--argument"]
    fork = run_python(*words, cwd=tmp_path, env=environment)
    real = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (fork.returncode, fork.stdout) == (real.returncode, real.stdout)
    assert fork.stderr.splitlines()[-1:] == real.stderr.splitlines()[-1:]


@pytest.mark.slow
def test_modules_and_scripts_have_their_own_folder_first(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for path in (tmp_path / "said.py", tmp_path / "other/script.py"):
        path.write_text("import sys\nprint(__name__, sys.argv[1:], sys.path[0], sys.argv[0])\n", encoding="utf-8")
    for words in (["-m", "said", "a"], [str(tmp_path / "other/script.py"), "b"]):
        real = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert run_python(*words, cwd=tmp_path).stdout == real.stdout


@pytest.mark.slow
@FORKS
def test_after_a_timeout_the_next_answer_is_its_own(tmp_path: Path) -> None:
    assert run_python("-c", "print(1)").stdout == "1\n"

    def out_of_time(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(1)
    try:
        with pytest.raises(TimeoutError):
            run_python("-c", f"import time; time.sleep(30); open({str(tmp_path / 'late')!r}, 'w')")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert processes._server is None
    done = run_python("-c", "raise SystemExit(3)")
    assert done.returncode == 3 and not (tmp_path / "late").exists()


@FORKS
def test_what_a_fork_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="-c, -m or a script, but got -W"):
        run_python("-W", "error", "-c", "pass")
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    with pytest.raises(ValueError, match="PYTHONWARNINGS.*must be as when this process began"):
        run_python("-c", "pass")
