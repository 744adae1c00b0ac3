"""The command line of the training script: settings from presets, errors in one line that leave nothing."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import train
from convlstm.training.stopping import exit_status

TINY = train.PRESETS["tiny"]
pytestmark = pytest.mark.usefixtures("in_a_folder_of_its_own")


def test_the_command_line_starts_from_the_preset() -> None:
    config = train.parse(["--preset", "tiny", "--steps", "3", "--model.hidden-channels", "5", "4"])
    assert config == dataclasses.replace(
        TINY, steps=3, model=dataclasses.replace(TINY.model, hidden_channels=(5, 4))
    )
    assert train.parse([]) == train.PRESETS["default"]


def status_of(arguments: list[str]) -> int:
    """What the script would exit with."""
    try:
        return exit_status("train.py", lambda: train.main(train.parse(arguments)))
    except SystemExit as end:  # tyro's
        return int(end.code or 0)


def test_the_script_is_what_the_other_tests_call() -> None:
    script = Path(train.__file__)
    environment = {**os.environ, "PYTHONPATH": str(script.parent)}
    command = [sys.executable, str(script), "--steps", "0"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == status_of(["--steps", "0"]) == 2
    assert result.stdout == ""
    assert "steps is 0; it needs a whole number of 1 or more" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "huge"], "invalid choice: 'huge'"),
        (
            ["--preset", "paper", "--teacher-forcing", "0.5"],
            "teacher_forcing is 0.5, but EncoderForecaster",
        ),
        (["--steps", "0"], "steps is 0; it needs a whole number of 1 or more"),
        (["--test-sequences", "10001"], "test_sequences is 10001; it needs a whole number of 1 to 10,000"),
        (["--data.image-size", "66"], "image_size is 66, which patches of 4 x 4 do not divide"),
        (["--data.image-size", "28"], "image_size is 28; digits of 28 x 28 pixels need a larger frame"),
        (["--seed", str(2**64)], "seed is 18446744073709551616; it needs a whole number of -9,223"),
        (["--lr", "1e38"], "lr is 1e+38; it needs a finite number, above 0, at most 1,000"),
        (["--preset", "paper", "--model.cell", "gru"], "--model.peephole None"),
        (["--name", "../mine"], "name is '../mine'; it needs the name of a folder"),
        (["--model.channels", "3"], "model.channels is 3; Moving MNIST is gray"),
        (["--model.cell", "gru", "--model.peephole", "channel"], "a gru has no cell state"),
        (["--device", "abacus"], "device is 'abacus'"),
        (
            ["--loss", "cross-entropy"],
            "model.output is linear, which gives no probabilities; pass",
        ),
        (["--resume", "runs/none"], "runs/none is no checkpoint"),
        (["--score", "runs/none"], "runs/none is no checkpoint"),
    ],
)
def test_an_error_is_one_line_and_leaves_nothing(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(arguments) == 2
    # tyro frames its errors: put the words of the box back together.
    assert message in " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().err).split())
    assert not Path("runs").exists()
