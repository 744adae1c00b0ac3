"""The conventions under which forecasts are scored: what each metric is, and which ones a table shows."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["METRICS", "OPENSTL", "PROTOCOLS", "STRICT", "TRAINING", "Metric", "Protocol", "protocol_of"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number of a frame, and the conventions that decide what it can be compared with."""

    name: str
    """In JSON, such as "mse_clipped"."""
    label: str
    """In tables; see `title`."""
    per: Literal["sum", "mean"]
    """Over the values of a frame (channels and pixels; for SSIM its windows)."""
    clipped: bool
    """Whether predictions are clipped to [0, 1] first."""
    data_range: float | None = None
    """What SSIM and PSNR take the range of the values to be; None where it plays no part."""
    better: Literal["lower", "higher"] = "lower"
    decimals: int = 2
    """That tables show."""
    physical: int = 0
    """The power of the physical unit that it is in, and is scored in only where the source names one; 0 of
    pixels in [0, 1]."""

    def title(self, unit: str) -> str:
        """Return the label and, of a physical one, the unit: "MAE per pixel in mm/h"."""
        return self.label + ("", f" {unit}", f" ({unit})²")[self.physical]


METRICS = {
    metric.name: metric
    for metric in (
        Metric(name="mse", label="MSE", per="sum", clipped=False),
        Metric(name="mae", label="MAE", per="sum", clipped=False),
        Metric(name="mse_clipped", label="MSE, clipped", per="sum", clipped=True),
        Metric(name="mae_clipped", label="MAE, clipped", per="sum", clipped=True),
        Metric(name="mse_pixel", label="MSE per pixel", per="mean", clipped=False, decimals=5),
        Metric(name="mae_pixel", label="MAE per pixel", per="mean", clipped=False, decimals=5),
        Metric(
            name="mse_pixel_clipped", label="MSE per pixel, clipped", per="mean", clipped=True, decimals=5
        ),
        Metric(
            name="mae_pixel_clipped", label="MAE per pixel, clipped", per="mean", clipped=True, decimals=5
        ),
        Metric(
            name="mse_physical", label="MSE per pixel in", per="mean", clipped=False, decimals=4, physical=2
        ),
        Metric(
            name="mae_physical", label="MAE per pixel in", per="mean", clipped=False, decimals=4, physical=1
        ),
        Metric(
            name="ssim",
            label="SSIM (range 1)",
            per="mean",
            clipped=True,
            data_range=1.0,
            better="higher",
            decimals=4,
        ),
        Metric(
            name="ssim_range2",
            label="SSIM (range 2)",
            per="mean",
            clipped=True,
            data_range=2.0,
            better="higher",
            decimals=4,
        ),
        Metric(name="psnr", label="PSNR (dB)", per="mean", clipped=True, data_range=1.0, better="higher"),
        Metric(name="cross_entropy", label="cross-entropy (nats)", per="sum", clipped=False),
    )
}
"""Every metric by its name, in the order of tables. Only predictions that are probabilities have a
"cross_entropy", only sources that name a unit have "mse_physical" and "mae_physical"."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Which metrics an evaluation shows, and what their averages are over."""

    name: str
    columns: tuple[Metric, ...]
    average: str = "over all frames of all sequences"
    """What a mean is over; never batches."""
    note: str = ""
    """The conventions in words, under a table."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as what JSON knows."""
        return asdict(self) | {"columns": [asdict(metric) for metric in self.columns]}


STRICT = Protocol(
    name="strict",
    columns=tuple(METRICS.values()),
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
    note="MSE, MAE and cross-entropy are summed over a frame, of unclipped predictions; SSIM and PSNR are of "
    "predictions clipped to [0, 1].",
)
"""What a training run measures in its validations and its test."""

PROTOCOLS = {protocol.name: protocol for protocol in (STRICT, OPENSTL)}


def protocol_of(protocol: Protocol | str) -> Protocol:
    """Return a protocol, also by its name; raise ValueError where there is none of the name."""
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}; it needs one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[protocol]
