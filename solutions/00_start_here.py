# %% [markdown]
# # Lab 00 - Start here
#
# In ten minutes you see what this machine can run, how an exercise works, and what a figure, a slider and a sound look
# like in this course. Nothing here is graded.
#
# Time: about 10 minutes of yours, a few seconds of the machine's, at every scale.

# %% tags=["parameters"]
SCALE = None  # "smoke", "cpu", "t4", "gpu"; None: what this machine carries
SEED = 0

# %%
import torch
from torch import Tensor

from omni_lab import lab
from omni_lab.lab import exercise

run = lab.start(SCALE, SEED)

# %% [markdown]
# ## What have you got?
# The doctor looks at Python, torch, the GPU, memory, disk and the course's data.

# %%
from omni_lab import doctor

for subject, well, words in doctor.findings():
    print(f"{'ok' if well else '!!'}  {subject:<10} {words}")

# %% [markdown]
# ## How an exercise works
# You write one function. When you run its cell, the check calls it on random inputs and tells you what is wrong. Until
# it holds, the notebook goes on with the package's own version, at zero points. Once it holds, **yours is the one that
# runs**.
#
# ### Exercise 0.1 - Root mean square  (difficulty 1 of 3, 3 minutes, 0 points)
# How loud is a sound? Square each sample, average, take the root: $\sqrt{\tfrac{1}{n}\sum_i wave_i^2}$. The last axis
# is time; all axes before it stay.


# %% tags=["exercise"]
@exercise("start.root_mean_square")
def root_mean_square(wave: Tensor) -> Tensor:
    """Loudness of each wave: (..., samples) -> (...)."""
    # BEGIN SOLUTION
    return wave.square().mean(dim=-1).sqrt()
    # END SOLUTION


# %% [markdown]
# Before you run the next cell: a sine of height 1 has which root mean square?

# %% tags=["nbval-check-output"]
time = torch.arange(16000) / 16000  # one second at 16 kHz
tone = torch.sin(2 * torch.pi * 440 * time)
print(f"{root_mean_square(tone):.3f}")

# %% [markdown]
# ## Something to touch
# Drag the sliders. Where nobody can drag, you see the first picture only.


# %%
def draw(frequency: float, height: float):
    wave = height * torch.sin(2 * torch.pi * frequency * time)
    figure, axis = lab.figure(height=2.4)
    axis.plot(time[:400], wave[:400])
    level = float(root_mean_square(wave))
    axis.axhline(level, color="C1", label=f"root mean square {level:.2f}")
    axis.set(xlabel="time (s)", ylabel="sample", ylim=(-1.1, 1.1))
    axis.legend(loc="upper right")
    return figure


lab.explore(
    draw,
    alt="A sine of {frequency} Hz and height {height}, and its root mean square as a level line.",
    frequency=lab.Slider(50, 1000, 200),
    height=lab.Slider(0.1, 1.0, 0.8),
)

# %% [markdown]
# ## Something to hear

# %%
lab.play(0.3 * tone, 16000, alt="A steady tone at 440 Hz, the A of an orchestra.")

# %% [markdown]
# ## Your summary
# Every lab ends with your points, and with one figure by which the run is judged.

# %%
lab.key_figure("loudness of the tone", float(root_mean_square(tone)))
lab.summary()
