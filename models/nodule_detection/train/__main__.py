"""`python -m models.nodule_detection.train`: see `main`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file

from fhir_ext.phantom import KernelName
from models.nodule_detection.train.backgrounds import (
    Annotated,
    Background,
    from_volume,
    halves,
    phantom,
    read_annotations,
    read_series,
)
from models.nodule_detection.train.export import export
from models.nodule_detection.train.loop import Plan, train
from models.nodule_detection.train.report import write_report

#: Seeds of the phantoms that are learnt from, with both kernels.
LEARN_PHANTOMS = (1, 2)
#: Those that are tested on.
TEST_PHANTOMS: tuple[tuple[int, KernelName], ...] = ((101, "soft"), (102, "sharp"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, export, and say what was found.

    Writes `network.pt2` (what is shipped), `network.safetensors` (the same numbers without the
    program) and `training.json` (how it was made, and what it finds).
    """
    options = _parser().parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()

    def say(text: str) -> None:
        sys.stdout.write(f"[{time.monotonic() - begun:6.0f} s] {text}\n")
        sys.stdout.flush()

    annotated = {} if options.annotations is None else read_annotations(options.annotations)
    plan = Plan(options.seed, options.steps, autocast=options.autocast, threads=options.threads)
    learn, test = _own(options.backgrounds, annotated, options.phantoms)
    if not options.only_test:
        network = train(learn, plan, say)
        state = {name: value.contiguous() for name, value in network.state_dict().items()}
        save_file(state, options.out / "network.safetensors")
        size = export(network, options.out / "network.pt2")
        say(f"network.pt2: {size / 1e6:.1f} MB")
    if not options.no_test:
        if options.held_out is not None:
            test += _scans(options.held_out, annotated, "other patients, series")
        test += [phantom(seed, kernel) for seed, kernel in TEST_PHANTOMS]
        write_report(options.out, plan, learn, test, say)
    return 0


def _own(
    folder: Path, annotated: Annotated, phantoms: int
) -> tuple[list[Background], list[Background]]:
    """What is learnt from, and what of the same patients is kept for the test."""
    pairs = [halves(scan, "left") for scan in _scans(folder, annotated, "series")]
    learn, test = [seen for seen, _ in pairs], [tested for _, tested in pairs]
    for seed in LEARN_PHANTOMS[:phantoms]:
        learn += [phantom(seed, "soft"), phantom(seed, "sharp")]
    return learn, test


def _scans(folder: Path, annotated: Annotated, name: str) -> list[Background]:
    found = []
    for number, volume in enumerate(read_series(folder), start=1):
        kernel = volume.acquisition.convolution_kernel or "not stated"
        found.append(from_volume(volume, f"{name} {number}, kernel {kernel}", annotated))
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m models.nodule_detection.train",
        description="Trains the reference nodule detector on synthetic nodules.",
    )
    add = parser.add_argument
    add("--backgrounds", type=Path, required=True, help="folder of DICOM series to learn from")
    add("--out", type=Path, required=True, help="folder for the results")
    add("--seed", type=int, required=True)
    add("--annotations", type=Path, help="folder of boxes of tumours, one XML file a slice")
    add("--held-out", type=Path, help="folder of DICOM series to test on")
    add("--steps", type=int, default=900)
    add("--phantoms", type=int, default=2, help="drawn chests to learn from, besides")
    add("--threads", type=int, default=2, help="another number gives other last digits")
    add("--autocast", choices=("off", "bfloat16"), default="bfloat16")
    add("--no-test", action="store_true", help="train only")
    add("--only-test", action="store_true", help="test what is in the folder already")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
