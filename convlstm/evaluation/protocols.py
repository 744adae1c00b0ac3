"""The conventions under which forecasts are scored: what each metric is, and which of them a table shows."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number of a frame, and the conventions that decide what it compares with."""

    name: str
    """In JSON, such as "mse_clipped"."""
    label: str
    """In tables; see `title`."""
    per: Literal["sum", "mean"]
    """Over the values of a frame (channels and pixels; for SSIM its windows)."""
    clipped: bool
    """Whether predictions are clipped to [0, 1] first."""
    data_range: float | None = None
    """What SSIM and PSNR take the range of the values to be; None for other metrics."""
    better: Literal["lower", "higher"] = "lower"
    decimals: int = 2
    """That tables show."""
    physical: int = 0
    """The power of the physical unit that it is in; 0 of pixels in [0, 1]. Only sources that name a unit have
    physical metrics."""

    def title(self, unit: str) -> str:
        """Return the label, with the unit if the metric is physical: "MAE per pixel in mm/h"."""
        return self.label + ("", f" {unit}", f" ({unit})²")[self.physical]


_SIMILARITY: dict[str, Any] = {"per": "mean", "clipped": True, "better": "higher"}
_METRICS = (
    Metric(name="mse", label="MSE", per="sum", clipped=False),
    Metric(name="mae", label="MAE", per="sum", clipped=False),
    Metric(name="mse_clipped", label="MSE, clipped", per="sum", clipped=True),
    Metric(name="mae_clipped", label="MAE, clipped", per="sum", clipped=True),
    Metric(name="mse_pixel", label="MSE per pixel", per="mean", clipped=False, decimals=5),
    Metric(name="mae_pixel", label="MAE per pixel", per="mean", clipped=False, decimals=5),
    Metric(name="mse_pixel_clipped", label="MSE per pixel, clipped", per="mean", clipped=True, decimals=5),
    Metric(name="mae_pixel_clipped", label="MAE per pixel, clipped", per="mean", clipped=True, decimals=5),
    Metric(name="mse_physical", label="MSE per pixel in", per="mean", clipped=False, decimals=4, physical=2),
    Metric(name="mae_physical", label="MAE per pixel in", per="mean", clipped=False, decimals=4, physical=1),
    Metric(name="ssim", label="SSIM (range 1)", data_range=1.0, decimals=4, **_SIMILARITY),
    Metric(name="ssim_range2", label="SSIM (range 2)", data_range=2.0, decimals=4, **_SIMILARITY),
    Metric(name="psnr", label="PSNR (dB)", data_range=1.0, **_SIMILARITY),
    Metric(name="cross_entropy", label="cross-entropy (nats)", per="sum", clipped=False),
)
METRICS = {metric.name: metric for metric in _METRICS}
"""Every metric by its name, in the order of tables. Only predictions that are probabilities have a
"cross_entropy", only sources that name a unit have "mse_physical" and "mae_physical"."""


class Ratio(NamedTuple):
    """A ratio of counts at a threshold."""

    label: str
    words: str
    best: float


RATIOS = {
    "csi": Ratio("CSI", "critical success index: hits / (hits + misses + false alarms); 1 is best", 1.0),
    "pod": Ratio("POD", "probability of detection: hits / (hits + misses); 1 is best", 1.0),
    "far": Ratio("FAR", "false alarm ratio: false alarms / (hits + false alarms); 0 is best", 0.0),
    "bias": Ratio("bias", "frequency bias: (hits + false alarms) / (hits + misses); 1 is best", 1.0),
}
"""The ratios of the counts at a threshold, by the names of `Contingency`'s methods."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Which metrics an evaluation reports, and their conventions in words."""

    name: str
    columns: tuple[Metric, ...]
    note: str = ""
    """The conventions in words, under a table."""


STRICT = Protocol(
    name="strict",
    columns=_METRICS,
    note="MSE, MAE and cross-entropy are summed over a frame unless per pixel, of predictions that are "
    "unclipped unless said so; SSIM and PSNR are of predictions clipped to [0, 1].",
)
"""All metrics, each with its convention in its name."""

OPENSTL = Protocol(
    name="openstl",
    columns=tuple(METRICS[name] for name in ("mse", "mae", "ssim_range2", "psnr")),
    note="The conventions of OpenSTL: MSE and MAE are summed over a frame, of unclipped predictions; SSIM "
    "(data range 2, which reads high) and PSNR (range 1, per frame) are of predictions clipped to [0, 1].",
)
"""The conventions of OpenSTL's table of Moving MNIST, to the letter."""

TRAINING = Protocol(
    name="training",
    columns=tuple(METRICS[name] for name in ("mse", "mae", "ssim", "ssim_range2", "psnr", "cross_entropy")),
    note="MSE, MAE and cross-entropy are sums over a frame, of unclipped predictions; SSIM and PSNR are of "
    "predictions clipped to [0, 1].",
)
"""What a training run measures in its validations and its test."""

PROTOCOLS = {"strict": STRICT, "openstl": OPENSTL}
"""The protocols that `convlstm.evaluate` takes by name."""
