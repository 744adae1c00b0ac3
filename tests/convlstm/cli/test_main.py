"""python -m convlstm: its commands, and how it ends."""

import subprocess
import sys

import pytest

from convlstm.__main__ import main
from convlstm.hub import pretrained


def test_help_names_the_commands_and_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    options = {
        "rollout": "--horizon",
        "evaluate": "--json",
        "import": "--source",
        "export": "--form",
        "list": "",
    }
    for command, option in options.items():
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        assert option in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    out = capsys.readouterr().out
    assert all(f"\n    {command} " in out for command in options)


@pytest.mark.slow
def test_as_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "convlstm", "list"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("name ")


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrained, "list_models", interrupt)
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "python -m convlstm: interrupted\n"
