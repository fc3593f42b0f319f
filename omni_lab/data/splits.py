"""What may be seen in training is fixed by rule: a hash of the content, never a list that could go stale.

A maker proposes content (which concepts, which sentence, which numbers) and a key that stands for it; `draw` keeps
proposing until the key's hash falls on the wanted side. So no item of a test can turn
up in training, however long it runs.
"""

import hashlib
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from ..errors import DataError

SPLITS = ("train", "test")
TEST_SHARE = 0.12  # of all contents
Content = TypeVar("Content")


def fraction(kind: str, key: str) -> float:
    """A number in [0, 1) that depends on (kind, key) alone, the same on every machine."""
    digest = hashlib.blake2b(f"{kind}:{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def held_out(kind: str, key: str, share: float = TEST_SHARE) -> bool:
    """Whether content `key` of that kind belongs to the test split."""
    return fraction(kind, key) < share


def check_split(split: str) -> str:
    """Return `split`, or raise DataError for one that does not exist."""
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}: choose train or test")
    return split


def draw(
    rng: np.random.Generator,
    split: str,
    kind: str,
    propose: Callable[[np.random.Generator], tuple[str, Content]],
    share: float = TEST_SHARE,
) -> tuple[str, Content]:
    """The first proposal (key, content) that belongs to `split`. Proposals must be cheap: 1 / share are needed."""
    for _ in range(10_000):
        key, content = propose(rng)
        if held_out(kind, key, share) == (split == "test"):
            return key, content
    raise DataError(f"{kind}: no content for the {split} split in 10,000 proposals")


def generator(task: str, split: str, seed: int, index: int) -> np.random.Generator:
    """The random numbers of one sample: a pure function of its place, so that any run can resume at any index."""
    digest = hashlib.blake2b(f"{task}|{split}|{seed}|{index}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def pick(rng: np.random.Generator, options):
    """One of a sequence, evenly."""
    return options[int(rng.integers(len(options)))]
