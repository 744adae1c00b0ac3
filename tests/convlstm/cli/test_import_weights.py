"""python -m convlstm import: what it says, checks and writes, and its errors in a line."""

import numpy as np
import pytest
import torch

from convlstm import ConvLSTM
from convlstm.__main__ import main
from convlstm.hub.checkpoint import load_checkpoint, read_config
from tests.convlstm.importers.foreign_models import Ndrplz, OpenSTL, Sladewinter


@pytest.fixture(autouse=True)
def _saved() -> None:
    """Save models of other projects, and what one of them makes of an input."""
    stack, frames = Ndrplz(2, [4, 4], [3, 3]), torch.randn(2, 3, 2, 8, 6)
    torch.save({"state_dict": stack.state_dict(), "epoch": 3}, "stack.pth")
    openstl = OpenSTL(1, [4, 3], 2, None, old=True).state_dict()
    torch.save(openstl, "openstl.pth")
    torch.save({"a.b": torch.ones(2)}, "none.pth")
    torch.save(stack.state_dict() | openstl, "both.pth")
    names = [f"conv{n}.{m}.{end}" for n in (1, 2) for m in (0, 1) for end in ("weight", "bias")]
    torch.save(dict.fromkeys(names, torch.ones(1)), "gru.pth")
    torch.save(Sladewinter(1, 2, (8, 6), "relu").state_dict(), "sladewinter.pth")
    np.save("input.npy", frames.numpy())
    np.save("output.npy", stack(frames).detach().numpy())
    np.save("zeros.npy", np.zeros((2, 3, 4, 8, 6), np.float32))


def test_what_is_recognised_checked_and_written(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["import", "stack.pth", "-o", "run", "--option", "batch_first=True"]
    assert main([*command, "--check", "input.npy", "output.npy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:6] == [
        "stack.pth",
        "  source     ndrplz/ConvLSTM_pytorch, or conv-lstm of PyPI",
        "  becomes    ConvLSTM, 2,048 parameters",
        "  layers     recurrent(input_channels=2, hidden_channels=4, kernel_size=(3, 3))",
        "             recurrent(input_channels=4, hidden_channels=4, kernel_size=(3, 3))",
        "  gates      i, f, o, g in the file",
    ]
    assert lines[6].startswith("  check      largest difference from output.npy: ")
    assert lines[7:] == ["run: model.safetensors, config.json, README.md"]
    frames, expected = (torch.from_numpy(np.load(f"{name}.npy")) for name in ("input", "output"))
    model = load_checkpoint("run")
    assert isinstance(model, ConvLSTM)
    torch.testing.assert_close(model(frames)[0], expected, rtol=0, atol=1e-5)
    notes = read_config("run")["imported"]
    assert (notes["file"], notes["options"]) == ("stack.pth", {"batch_first": True})


def test_what_was_guessed_and_dropped_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "stack.pth"]) == 0
    assert capsys.readouterr().out.endswith(
        "  guessed    the input has its batch first\n  not written: give -o DIRECTORY\n"
    )
    assert main(["import", "openstl.pth", "--option", "generation=old", "--option", "patch_size=2"]) == 0
    out = capsys.readouterr().out
    assert "  becomes    ImportedNetwork, " in out
    assert "output='candidate'" in out
    assert ": the project's cells never run it\n" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("stack.pth --source other", "source is 'other'; it needs 'auto' or one of ndrplz, automan"),
        ("stack.pth --option step=3", "step is no option of ndrplz, whose options are: batch_first"),
        ("stack.pth --option prefix=enc", "prefix is 'enc.', but stack.pth has cell_list.0"),
        ("stack.pth --check input.npy zeros.npy", "the model differs from the output"),
        ("openstl.pth", "generation is not in the file"),
        ("openstl.pth --option generation=oldest", "generation is 'oldest'; it needs one of 'old', "),
        ("sladewinter.pth", "--option activation=tanh"),
        ("none.pth", "none.pth is of no known project by its names (a.b); where it is one of ndrplz,"),
        ("both.pth", "say source='ndrplz' or source='openstl'"),
        ("gru.pth", "this is the ConvGRU of jhhuang96/ConvLSTM-PyTorch"),
    ],
)
def test_what_is_not_imported(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", *arguments.split()]) == 2
    assert message in capsys.readouterr().err
