"""The curves of a report's training: what a network was chosen by stands beside its loss."""

import pytest

from convlstm.report.training_curves import training_curves


@pytest.mark.parametrize(
    ("logged", "beside_the_loss", "alone"),
    [
        (["val/mse"], "validation MSE", []),
        (["val/mse", "val/cross_entropy"], "validation cross-entropy", ["Validation MSE"]),
    ],
)
def test_the_score_that_chose_is_drawn_with_the_loss(
    logged: list[str], beside_the_loss: str, alone: list[str]
) -> None:
    metrics = [{"step": n, "train/loss": 9.0 - n} | dict.fromkeys(logged, 5.0 - n) for n in range(3)]
    html = str(training_curves(metrics))
    legend = html[: html.index("charts")]
    assert "training loss" in legend
    assert beside_the_loss in legend
    assert [title for title in ("Validation MSE",) if title in html] == alone
