"""The benchmarks run from end to end at tiny sizes, and time nothing that computes something else."""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
import torch

import train
from benchmarks import compile_times, contenders, evaluation, speed, timing, train_step
from benchmarks.floor import Layer, make_floor
from convlstm.ops.choice import VARIABLE
from tests.pages import copy_pages

CPU = torch.device("cpu")
PARTS = ("convolutions", "gates")


def test_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(speed, "in_fresh_process", lambda *of: contenders.memory_of(*of, threads=1))
    path = tmp_path / "speed.json"
    arguments = ["--rows", "tiny", "--device", "cpu", "--quick", "--json", str(path)]
    arguments += ["--only", "op", "textbook"]
    shown = timing.read_measured("speed")
    copy_pages(tmp_path, monkeypatch)
    assert speed.main([*arguments, "--write"]) == 0
    head, _, *rows = timing.read_measured("speed").splitlines()
    assert head == shown.splitlines()[0]
    assert rows[3] in shown  # the head of the table of memory
    printed = capsys.readouterr().out
    assert all(f"## {title}" in printed for title in ("Inference", "Training"))
    results = json.loads(path.read_text())
    assert {"command", "machine", "threads", "torch", "rounds"} <= results["header"].keys()
    assert [(r["mode"], r["type"]) for r in results["records"]] == [
        (mode, name) for mode in ("inference", "training") for name in ("float32", "bfloat16")
    ]
    for record in results["records"]:
        op = record["contenders"]["op"]
        assert len(op["all_seconds"]) == 3
        assert op["sequences_per_second"] == pytest.approx(1 / op["seconds"])
        floor = sum(record["floor"][part] for part in PARTS)
        loop = record["contenders"]["textbook"]["seconds"]
        assert record["ratios"]["op/floor"] == pytest.approx(op["seconds"] / floor)
        assert record["ratios"]["textbook/op"] == pytest.approx(loop / op["seconds"])
    ratios = [record["ratios"] for record in results["records"] if record["type"] == "float32"]
    cells = " | ".join(f"{of[name]:.2f}" for of in ratios for name in ("op/floor", "textbook/op"))
    assert rows[0] == f"| 2,1,2,3,6,3 | float32 | {cells} | - | - |"  # two contenders were left out


def test_a_ratio_is_above_1_where_the_first_takes_more() -> None:
    seconds = {"op": 2.0, "compiled": 3.0, "keras": 5.0}
    memory = {"op": 8, "textbook": 16, "recompute": 4}
    contenders = {name: {"seconds": value} for name, value in seconds.items()}
    for name, value in memory.items():
        contenders.setdefault(name, {})["memory_bytes"] = value
    ratios = {"inference": (1.25, 1.5), "training": (1.75, 2.25)}
    records = [
        {"row": {"T": 7}, "type": "float32", "mode": mode, "contenders": contenders}
        | {"ratios": dict(zip(speed.RATIOS, values, strict=False))}
        for mode, values in ratios.items()
    ]
    table = speed.ratio_table(records)
    assert "\n| 7 | float32 | 1.25 | 1.50 | 1.75 | 2.25 | 1.50 | 2.50 |\n" in table
    assert "\n| 7 | float32 | 0.50 | 0.25 |\n" in table


def test_the_time_to_compile_is_what_the_first_call_takes_longer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = itertools.cycle([0.0, 10.0, 20.0, 24.0])  # the start and the end of the first call, of the second
    monkeypatch.setattr(timing, "now", lambda device: next(clock))
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    monkeypatch.setattr(compile_times, "FRAMES", 2)
    monkeypatch.setattr("sys.argv", ["compile_times.py"])
    monkeypatch.setenv(VARIABLE, "auto")  # the script sets it
    compile_times.main()
    assert "| textbook | 6 |\n| ours | 6 |\n" in capsys.readouterr().out


def test_all_but_the_slow_ones_agree() -> None:
    problem = contenders.Problem(contenders.Row(3, 2, 2, 4, 5, 3), CPU)
    truth = contenders.textbook(problem, torch.float64).results()
    for name in ("textbook", "reference", "op", "recompute"):
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.05)):
            results = contenders.KINDS[name].make(problem, dtype).results()
            assert timing.disagreement(results, truth, tolerance) is None


def test_a_contender_that_computes_something_else_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(problem: contenders.Problem, dtype: torch.dtype) -> contenders.Contender:
        contender = contenders.textbook(problem, dtype)
        run = contender.run
        contender.run = lambda: 1.01 * run()
        return contender

    monkeypatch.setitem(contenders.KINDS, "op", contenders.Kind(broken))
    row = speed.ROWS["tiny"][0]
    records, failures = speed.measure(row, ["op"], CPU, 1, [torch.float32], ["inference"])
    assert [failure.split(":")[0] for failure in failures] == ["op float32 on (2, 1, 2, 3, 6, 3)"]
    assert [record["contenders"] for record in records] == [{}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: [x[0], 1.01 * x[1]], "tensor 1 is off by 1.0e-02; at most 1e-03"),
        (lambda x: [x[0], torch.full_like(x[1], float("nan"))], "tensor 1 is off by nan"),
        (lambda x: [x[0], x[1][:1]], "tensor 1 has shape (1, 3); it needs (2, 3)"),
        (lambda x: x[:1], "longer than argument 1"),
    ],
)
def test_disagreement_is_named(change, message: str) -> None:
    truth = [torch.rand(4), torch.rand(2, 3) + 1]
    assert timing.disagreement([truth[0], truth[1] * (1 + 1e-5)], truth, 1e-3) is None
    assert message in (timing.disagreement(change(truth), truth, 1e-3) or "")


def test_rounds_run_every_job_once() -> None:
    order: list[str] = []
    jobs = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = timing.interleave(jobs, 3, CPU)
    assert order == ["a", "b"] * (timing.WARM_UP + 3)
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_peak_memory_counts_what_is_held_at_a_time() -> None:
    size = 64_000_000  # bytes; more than malloc ever keeps for later (32 MiB)
    peak = timing.peak_memory(lambda: [torch.ones(size // 4) for _ in range(2)], CPU)
    if peak is None:
        pytest.skip("only Linux tells a process's peak")
    assert 1.9 * size < peak < 2.5 * size  # some pages may have been held before


@pytest.mark.slow
def test_memory_is_that_of_a_fresh_process() -> None:
    row = contenders.Row(4, 2, 2, 16, 32, 3)
    peaks = speed.in_fresh_process("textbook", row, [torch.float32], ["training"])
    assert list(peaks) == ["textbook training float32"]
    peak = peaks["textbook training float32"]
    if peak is None:
        pytest.skip("only Linux tells a process's peak")
    # Bytes: steps, layers, batch, channels of gates, c, h and tanh, pixels.
    kept = 4 * 2 * 2 * (7 * 16) * 32 * 32 * 4
    assert kept < peak < 4 * kept


def test_a_floor_without_gradients_is_inference_alone() -> None:
    floor = make_floor([Layer(2, 1, 2, 3, 5, 3, input_gradients=0)], torch.float32, CPU, training=False)
    assert set(floor.chosen[0]) == {"forward", "gates"}


@pytest.fixture
def _short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = train.PRESETS["tiny"]
    data = dataclasses.replace(tiny.data, image_size=32)
    short = dataclasses.replace(tiny, context=2, horizon=2, batch_size=1, data=data)
    monkeypatch.setitem(train.PRESETS, "tiny", short)
    monkeypatch.setenv(VARIABLE, "auto")  # restored at the end


@pytest.mark.slow
@pytest.mark.usefixtures("_short_steps")
def test_train_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "step.json"
    assert train_step.main(["--preset", "tiny", "--device", "cpu", "--quick", "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("times the floor (at most 1.3: ") == 4
    assert "sends 0.05 MB of gradients" in printed  # 11,856 parameters of 4 bytes
    records = json.loads(path.read_text())["records"]
    assert len(records) == 8
    for record in records:
        assert set(record["stages"]) == set(record["shares"]) == {"data", "forward", "backward", "optimizer"}
        assert sum(record["shares"].values()) == pytest.approx(1)
        floor = sum(record["floor"][part] for part in PARTS)
        assert record["step/floor"] == pytest.approx(record["seconds"] / floor)


@pytest.mark.usefixtures("_short_steps")
def test_steps_that_disagree_are_not_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gradients = train_step.Step.gradients

    def broken(step: train_step.Step) -> list[torch.Tensor]:
        return [(2 if step._implementation == "fused" else 1) * g for g in gradients(step)]

    monkeypatch.setattr(train_step.Step, "gradients", broken)
    assert train_step.main(["--preset", "tiny", "--device", "cpu", "--quick"]) == 1
    assert "NOT TIMED: gradients of fused" in capsys.readouterr().out


def test_evaluation(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--sequences",
        "3",
        "--batch-size",
        "2",
        "--rounds",
        "1",
        "--thresholds",
        "0.5",
        "--device",
        "cpu",
    ]
    monkeypatch.setitem(train.PRESETS, "default", train.PRESETS["tiny"])
    evaluation.main(options)
    assert "without metrics: they add" in capsys.readouterr().out
    evaluation.main([*options, "--memory", "3"])
    assert "3 sequences of 20 frames of 64 x 64:" in capsys.readouterr().out
