"""The models of other projects, written anew as plainly as can be from what their files hold.

Each has the names, the gate order and the quirks of its project, and computes with torch alone.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def states(x: Tensor, hidden: int) -> tuple[Tensor, Tensor]:
    """Zeros for h and c, at the frames of x (B, I, H, W)."""
    h = x.new_zeros(len(x), hidden, *x.shape[-2:])
    return h, h


class Model(nn.Module):
    """A module whose parts go by names that only their project chose."""

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)


class FusedCell(Model):
    """One convolution over [x | h], gates in any order, per-pixel peepholes where there are any."""

    def __init__(
        self, inputs: int, hidden: int, kernel: int, order: str, bias: bool = True, name: str = "conv"
    ):
        super().__init__()
        self.order, self.hidden, self.name = order, hidden, name
        self.add_module(name, nn.Conv2d(inputs + hidden, 4 * hidden, kernel, padding=kernel // 2, bias=bias))
        self.peepholes: dict[str, str] = {}
        self.activation = torch.tanh

    def add_peepholes(self, names: str, *shape: int) -> None:
        for gate, name in zip("ifo", names.split(), strict=True):
            self.peepholes[gate] = name
            self.register_parameter(name, nn.Parameter(torch.randn(*shape) / 3))

    def total(self, x: Tensor, h: Tensor) -> Tensor:
        return getattr(self, self.name)(torch.cat([x, h], dim=1))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        gate = dict(zip(self.order, self.total(x, h).chunk(4, dim=1), strict=True))
        w = {g: getattr(self, name) for g, name in self.peepholes.items()}
        i = torch.sigmoid(gate["i"] + w.get("i", 0) * c)
        f = torch.sigmoid(gate["f"] + w.get("f", 0) * c)
        c = f * c + i * self.activation(gate["g"])
        return torch.sigmoid(gate["o"] + w.get("o", 0) * c) * self.activation(c), c


def over_time(cell: Any, frames: Tensor, first: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, ...]:
    """Run a cell over (B, T, I, H, W); return (B, T, C, H, W), h and c."""
    h, c = states(frames[:, 0], cell.hidden) if first is None else first
    outputs = []
    for x in frames.unbind(1):
        h, c = cell(x, h, c)
        outputs.append(h)
    return torch.stack(outputs, dim=1), h, c


class Ndrplz(Model):
    """A stack of cells."""

    def __init__(self, inputs: int, widths: list[int], kernels: list[int], bias: bool = True):
        super().__init__()
        ends = [inputs, *widths]
        cells = [FusedCell(*sizes, "ifog", bias) for sizes in zip(ends, widths, kernels, strict=False)]
        self.cell_list = nn.ModuleList(cells)

    def forward(self, x: Tensor) -> Tensor:
        for cell in self.cell_list:
            x = over_time(cell, x)[0]
        return x


class AutomanCell(FusedCell):
    """Eight convolutions in place of one."""

    def __init__(self, inputs: int, hidden: int, frame: tuple[int, int] | None):
        super().__init__(inputs, hidden, 1, "ifgo")
        del self.conv
        for gate in "ifco":
            self.add_module(f"Wx{gate}", nn.Conv2d(inputs, hidden, 3, padding=1))
            self.add_module(f"Wh{gate}", nn.Conv2d(hidden, hidden, 3, padding=1, bias=False))
        if frame:
            self.add_peepholes("Wci Wcf Wco", 1, hidden, *frame)

    def total(self, x: Tensor, h: Tensor) -> Tensor:
        sums = [getattr(self, f"Wx{gate}")(x) + getattr(self, f"Wh{gate}")(h) for gate in "ifco"]
        return torch.cat(sums, dim=1)


class Automan(Model):
    """A stack that reads one frame again and again."""

    def __init__(self, inputs: int, widths: list[int], frame: tuple[int, int] | None):
        super().__init__()
        for n, sizes in enumerate(zip([inputs, *widths], widths, strict=False)):
            self.add_module(f"cell{n}", AutomanCell(*sizes, frame))

    def forward(self, frame: Tensor, step: int, kept: list[int]) -> Tensor:
        x = torch.stack([frame] * step, dim=1)  # (B, T, C, H, W)
        for cell in self.children():
            x = over_time(cell, x)[0]
        return x[:, kept]


class Sladewinter(Model):
    """Layers with batch norms between; the next frame out. Frames are (B, C, T, H, W)."""

    def __init__(self, channels: int, hidden: int, frame: tuple[int, int], activation: str):
        super().__init__()
        self.sequential = nn.Sequential()
        for n, inputs in enumerate((channels, hidden), start=1):
            layer = Model()
            layer.convLSTMcell = FusedCell(inputs, hidden, 3, "ifgo")
            layer.convLSTMcell.add_peepholes("W_ci W_cf W_co", hidden, *frame)
            layer.convLSTMcell.activation = getattr(torch, activation)
            self.sequential.add_module(f"convlstm{n}", layer)
            norm: Any = nn.BatchNorm3d(hidden)
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            self.sequential.add_module(f"batchnorm{n}", norm)
        self.conv = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for n in (1, 2):
            cell = getattr(self.sequential, f"convlstm{n}").convLSTMcell
            x = over_time(cell, x.transpose(1, 2))[0].transpose(1, 2)
            x = getattr(self.sequential, f"batchnorm{n}")(x)
        return torch.sigmoid(self.conv(x[:, :, -1]))


class Holmdk(Model):
    """Two cells encode, two decode from zeros; out come (B, 1, T, H, W)."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        for name, inputs in (
            ("encoder_1", channels),
            ("encoder_2", hidden),
            ("decoder_1", hidden),
            ("decoder_2", hidden),
        ):
            self.add_module(f"{name}_convlstm", FusedCell(inputs, hidden, 3, "ifog"))
        self.decoder_CNN = nn.Conv3d(hidden, 1, (1, 3, 3), padding=(0, 1, 1))

    def forward(self, x: Tensor, horizon: int) -> Tensor:
        x = over_time(self.encoder_1_convlstm, x)[0]
        x = over_time(self.encoder_2_convlstm, x)[0][:, -1]
        one, two = (states(x, self.encoder_1_convlstm.hidden) for _ in range(2))
        outputs = []
        for _ in range(horizon):
            one = self.decoder_1_convlstm(x, *one)
            two = self.decoder_2_convlstm(one[0], *two)
            x = two[0]
            outputs.append(x)
        return torch.sigmoid(self.decoder_CNN(torch.stack(outputs, dim=2)))


class NormedCell(FusedCell):
    """jhhuang96's cell: a group norm on the sum of the gates."""

    def __init__(self, inputs: int, hidden: int, kernel: int):
        super().__init__(inputs, hidden, kernel, "ifgo")
        norm = nn.GroupNorm(4 * hidden // 32, 4 * hidden)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        self.conv = nn.Sequential(self.conv, norm)


class EncoderForecaster(Model):
    """Down by strided convolutions and up again, with the kernels that the projects have.

    The one whose second part is a "forecaster", Hzzone's, has its time first.
    """

    def __init__(self, make_cell, second: str, stages: list[tuple[int, int, int]], widths: list[int]):
        super().__init__()
        self.second, self.depth = second, len(stages)
        self.encoder, forecaster = nn.Module(), nn.Module()
        self.add_module(second, forecaster)
        below = 1
        for n, ((channels, kernel, stride), width) in enumerate(zip(stages, widths, strict=True), start=1):
            padding = 1
            stage, back = nn.Module(), nn.Module()
            stage.add_module(f"conv{n}_leaky_1", nn.Conv2d(below, channels, kernel, stride, padding))
            self.encoder.add_module(f"stage{n}", stage)
            self.encoder.add_module(f"rnn{n}", make_cell(channels, width))
            above = 3 if n == self.depth else stages[n][0] + 1
            forecaster.add_module(f"rnn{n}", make_cell(above, width))
            out = channels + 1 if n > 1 else 4
            name, kind = (
                (f"deconv{n}_leaky_1", nn.ConvTranspose2d) if stride > 1 else (f"conv{n}_leaky_1", nn.Conv2d)
            )
            back.add_module(name, kind(width, out, stride + 2 if stride > 1 else 3, stride, 1))
            if n == 1:
                back.add_module("conv1_2", nn.Conv2d(out, 1, 1))
            forecaster.add_module(f"stage{n}", back)
            below = width

    def forward(self, x: Tensor, horizon: int) -> Tensor:
        memory: list[tuple[Tensor, Tensor]] = []
        time_first = self.second == "forecaster"
        x = x.transpose(0, 1) if time_first else x
        for n in range(1, self.depth + 1):
            x = self.stage(getattr(self.encoder, f"stage{n}"), x)
            x, h, c = over_time(getattr(self.encoder, f"rnn{n}"), x)
            memory.append((h, c))
        x = x.new_zeros(len(x), horizon, 3, *x.shape[-2:])
        for n in range(self.depth, 0, -1):
            part = getattr(self, self.second)
            x = over_time(getattr(part, f"rnn{n}"), x, memory[n - 1])[0]
            x = self.stage(getattr(part, f"stage{n}"), x)
        return x.transpose(0, 1) if time_first else x

    def stage(self, layers: nn.Module, x: Tensor) -> Tensor:
        batch, x = len(x), x.flatten(0, 1)
        for name, layer in layers.named_children():
            x = F.leaky_relu(layer(x), 0.2) if "leaky" in name else layer(x)
        return x.unflatten(0, (batch, -1))


class OpenSTL(Model):
    """A stack over patches that reads its own frames after the context."""

    def __init__(
        self, channels: int, widths: list[int], patch: int, frame: tuple[int, int] | None, old: bool
    ):
        super().__init__()
        self.widths, self.patch, self.old = widths, patch, old
        self.cell_list = nn.ModuleList()
        ends = [channels * patch**2, *widths]
        for i, c in zip(ends, widths, strict=False):
            cell = Model()
            for name, inputs, rows in (("conv_x", i, 4 * c), ("conv_h", c, 4 * c), ("conv_o", 2 * c, c)):
                layers: list[Any] = [nn.Conv2d(inputs, rows, 3, padding=1, bias=False)]
                if frame:
                    layers.append(nn.LayerNorm([rows, *frame]))
                    nn.init.normal_(layers[1].weight)
                    nn.init.normal_(layers[1].bias)
                cell.add_module(name, nn.Sequential(*layers))
            self.cell_list.append(cell)
        self.conv_last = nn.Conv2d(widths[-1], ends[0], 1, bias=False)

    def forward(self, frames: Tensor, horizon: int) -> Tensor:
        p, given = self.patch, frames.shape[1]
        B, _, C, H, W = frames.shape
        memory: list[Any] = [None] * len(self.widths)
        x, outputs = frames[:, 0], []
        for t in range(given + horizon - 1):
            if t < given:  # (B, C, H, W) -> (B, p p C, H / p, W / p), index (dy p + dx) C + c
                x = frames[:, t].reshape(B, C, H // p, p, W // p, p).permute(0, 3, 5, 1, 2, 4)
                x = x.reshape(B, -1, H // p, W // p)
            for n in range(len(self.cell_list)):
                cell: Any = self.cell_list[n]
                h, c = memory[n] or states(x, self.widths[n])
                ix, fx, gx, ox = cell.conv_x(x).chunk(4, dim=1)
                ih, fh, gh, oh = cell.conv_h(h).chunk(4, dim=1)
                g = torch.tanh(gx + gh)
                c = torch.sigmoid(fx + fh) * c + torch.sigmoid(ix + ih) * g
                x = torch.sigmoid(ox + oh) * (g if self.old else torch.tanh(c))
                memory[n] = (x, c)
            x = self.conv_last(x)
            if t >= given - 1:
                frame = x.reshape(B, p, p, C, H // p, W // p).permute(0, 3, 4, 1, 5, 2)
                outputs.append(frame.reshape(B, C, H, W))
        return torch.stack(outputs, dim=1)
