# %% [markdown]
# # Lab 90 - Toy
# A lab small enough to be graded in a second. CANARY-SOLUTION

# %% tags=["parameters"]
SCALE = None
SEED = 0

# %%
import numpy as np  # noqa: E402
import torch  # noqa: E402

from omni_lab.lab import exercise  # noqa: E402

# %% [markdown]
# ### Exercise 90.1 - Double  (difficulty 1 of 3, 1 minutes, 5 points)


# %% tags=["exercise"]
@exercise("toy.double")
def double(x: torch.Tensor) -> torch.Tensor:
    """Twice x, of any shape."""
    # BEGIN SOLUTION
    return 2 * x
    # END SOLUTION


# %% [markdown]
# ### Exercise 90.2 - Mean square  (difficulty 1 of 3, 1 minutes, 10 points)


# %% tags=["exercise"]
@exercise("toy.mean_square")
def mean_square(values: list[float]) -> float:
    """Mean of the squares of a list of numbers."""
    # BEGIN SOLUTION
    return sum(v * v for v in values) / len(values)
    # END SOLUTION


# %% [markdown]
# ### Exercise 90.3 - Running total  (difficulty 1 of 3, 1 minutes, 5 points)


# %% tags=["exercise"]
@exercise("toy.running_total")
def running_total(values: np.ndarray) -> np.ndarray:
    """Sums of the first 1, 2, ... entries."""
    # BEGIN SOLUTION
    return np.cumsum(values)
    # END SOLUTION
