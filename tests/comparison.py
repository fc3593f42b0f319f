"""How far two tensors lie apart; every value is kept, so that `benchmarks/parity.py` can make a table of them."""

from torch import Tensor

MEASURED: list[float] = []  # of the test that is running


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference as a share of the reference's largest value."""
    assert ours.shape == theirs.shape
    MEASURED.append(((ours - theirs).abs().max() / theirs.abs().max()).item())
    return MEASURED[-1]
