"""Signals: noted while a run goes on, an end elsewhere, with the conventional exit codes."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from convlstm import training

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is for tests under nohup
    SIGNALS.append(signal.SIGHUP)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_until_it_is_asked_for(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [signal.getsignal(n) for n in SIGNALS]
    with training.Stopping() as stopping:
        stopping.check()
        os.kill(os.getpid(), number)
        assert stopping.signal == number
        with pytest.raises(training.Stopped, match=f"stopped by {number.name}"):
            stopping.check(32)  # as a progress callback is called
    assert [signal.getsignal(n) for n in SIGNALS] == before
    assert f"{number.name}: ending this step" in capsys.readouterr().err


def test_one_process_stops_when_another_was_asked_to() -> None:
    with training.Stopping() as stopping:
        stopping.stop_if(False)
        with pytest.raises(training.Stopped, match="SIGTERM"):
            stopping.stop_if(True)


@pytest.mark.parametrize(("alone", "expected"), [(True, -signal.SIGINT), (False, 0)])
def test_a_second_ctrl_c_ends_a_lone_process_at_once(alone: bool, expected: int) -> None:
    code = (
        "import os, signal; from convlstm.training.stopping import Stopping\n"
        f"with Stopping(alone={alone}):\n    for _ in range(2): os.kill(os.getpid(), signal.SIGINT)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == expected


def test_before_the_run_too_a_second_ctrl_c_ends_at_once() -> None:
    code = (
        "import os, signal; from convlstm.training import exit_status\n"
        "def run():\n"
        "    try: os.kill(os.getpid(), signal.SIGINT)\n"
        "    finally: os.kill(os.getpid(), signal.SIGINT)\n"
        "exit_status('x.py', run)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == -signal.SIGINT


def test_a_process_whose_torchrun_is_gone_stops(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopping = training.Stopping()
    for torchrun in (False, True):
        if torchrun:
            monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7")
        monkeypatch.setattr(os, "getppid", lambda: 4321)
        stopping = training.Stopping(alone=False)
        assert not stopping.asked()
        monkeypatch.setattr(os, "getppid", lambda: 1)
        assert stopping.asked() == torchrun  # a shell may end
    with pytest.raises(training.Stopped, match="SIGTERM"):
        stopping.check()
    assert capsys.readouterr().err == "\ntorchrun is gone: ending this step, then saving\n"


def test_in_another_thread_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    found: list[object] = []

    def enter() -> None:
        with training.Stopping():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [before]


def raising(error: BaseException) -> Callable[[], None]:
    def run() -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("run", "status", "said"),
    [
        (lambda: None, 0, ""),
        (raising(ValueError("lr is 0;\nit needs more")), 2, "x.py: error: lr is 0; it needs more\n"),
        (raising(MemoryError("out of memory")), 2, "x.py: error: out of memory\n"),
        (raising(training.Stopped(signal.SIGTERM)), 143, "x.py: stopped by SIGTERM\n"),
        (raising(training.Stopped(2, "go on")), 130, "x.py: go on\n"),
    ],
)
def test_the_exit_status_says_what_happened(run, status: int, said: str, capsys) -> None:
    assert training.exit_status("x.py", run) == status
    assert capsys.readouterr().err == said


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError):
        training.exit_status("x.py", raising(RuntimeError()))


@pytest.mark.parametrize("number", SIGNALS)
def test_before_the_run_a_signal_ends_the_script(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    assert training.exit_status("x.py", lambda: os.kill(os.getpid(), number)) == 128 + number
    assert signal.getsignal(number) is before


def test_under_nohup_a_run_outlives_its_terminal() -> None:
    code = (
        "import os, signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from convlstm.training.stopping import Stopping\n"
        "with Stopping() as stopping: os.kill(os.getpid(), signal.SIGHUP); stopping.check()"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


LOSING = """
import os, signal, sys
from tqdm import tqdm
from convlstm.training.stopping import Stopping, exit_status

def run():
    with Stopping() as stopping, tqdm(total=9) as bar:
        print("begins")
        sys.stdin.readline()  # until nobody reads
        {signal}
        bar.update()
        bar.refresh()
        print("step 1")
        tqdm.write("step 2")
        open({done!r}, "w").close()
        stopping.check()

sys.exit(exit_status("x.py", run))
"""


@pytest.mark.parametrize(
    ("sent", "expected"),
    [("", 128 + signal.SIGPIPE), ("os.kill(os.getpid(), signal.SIGINT)", 128 + signal.SIGINT)],
)
def test_output_that_nobody_reads_any_more_ends_the_run_as_a_signal_does(
    tmp_path: Path, sent: str, expected: int
) -> None:
    done = tmp_path / "done"
    code = LOSING.format(signal=sent, done=str(done))
    pipe, both = subprocess.PIPE, subprocess.STDOUT
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, stderr=both)
    assert process.stdin is not None
    assert process.stdout is not None
    while "begins" not in process.stdout.readline():  # shown although it goes to a pipe
        pass
    process.stdout.close()
    process.stdin.write("\n")
    process.stdin.close()
    assert process.wait() == expected
    assert done.exists()
