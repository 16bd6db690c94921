"""Options of benchmarks of one simulation, and the allocator that they keep. Without torch: this comes first."""

import os
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter

ALLOCATOR = {
    "MALLOC_TOP_PAD_": str(2**30),
    "MALLOC_MMAP_THRESHOLD_": str(2**34),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
}
"""glibc keeps what is freed, instead of giving it back and having every page zeroed again."""


def parser(description: str | None, **defaults: object) -> ArgumentParser:
    """Options for a network at a spike rate, and how often it runs; other defaults by name."""
    made = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    made.add_argument(
        "--network",
        default="cnn7",
        help="vgg16, resnet20 or cnn7; or a trained network of the zoo, by name or file",
    )
    made.add_argument("--weights", help="trained model of vgg16, resnet20 or cnn7: a file of 'equispike train'")
    made.add_argument("--batch", type=int, default=1)
    made.add_argument("--timesteps", type=int, default=64)
    made.add_argument("--rate", type=float, default=3.5, help="spike rate of each layer, in percent; 0: as converted")
    made.add_argument("--bits", type=int, help="round weights and thresholds to integers of so many bits first")
    made.add_argument("--threads", type=int, default=0, help="default: torch's own number")
    made.add_argument("--repeats", type=int, default=5, help="turns of each, or runs where nobody takes turns")
    made.set_defaults(**defaults)
    return made


def keep_what_is_freed() -> None:
    """Start this process again with the allocator's settings, which are read when one starts."""
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **ALLOCATOR})
