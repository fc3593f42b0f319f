# %% [markdown]
# # Lab 00 - Meet the model
#
# You have probably talked to a machine that heard you, looked at what you showed it, and answered aloud. By the end of
# this course you will have built every part of one. Today you only talk to it, look where its time goes, and learn how
# an exercise works. Nothing here is graded, and nothing needs installing beyond the set-up.
#
# It follows the Qwen2.5-Omni technical report (arXiv 2503.20215); today section 2 and its figure 2.
#
# About ten minutes of yours. What the machine needs, as measured, is printed when the lab starts.

# %% tags=["parameters"]
SCALE = None  # "smoke", "cpu", "t4", "gpu"; None: what this machine carries
SEED = 0

# %%
import numpy as np
import torch
from torch import Tensor

from omni_lab import lab
from omni_lab.data import music, readers, rendered
from omni_lab.data.folders import samples_folder
from omni_lab.lab import exercise
from omni_lab.lab.nano import nano_model
from omni_lab.streaming import AudioChunk, TextDelta, simulate, timeline

run = lab.start(SCALE, SEED, lab="00")

# %% [markdown]
# ## What have you got?
# The doctor looks at Python, torch, the GPU, memory, disk and the course's data.

# %%
from omni_lab import doctor

for subject, well, words in doctor.findings():
    print(f"{'ok' if well else '!!'}  {subject:<10} {words}")

# %% [markdown]
# ## What flows where
# Three transformers in a row. The **thinker** takes in everything as one row of vectors and writes text. The **talker**
# reads what the thinker writes *and means*, and speaks in codes, 50 a second. The **codec** turns codes into sound in
# two steps: the *DiT* draws a mel spectrogram, which says how strong each pitch is, moment by moment; the *vocoder*
# makes the wave from it. Each box names the lab that builds it.


# %%
def draw_model() -> object:
    figure, axis = lab.figure(width=8.0, height=3.2)
    boxes = {
        "text": (0, 3), "pictures\nlabs 1, 2": (0, 2), "sound\nlab 3": (0, 1), "video\nlab 4": (0, 0),
        "thinker\nlab 5": (1.6, 1.5), "text out": (3.2, 2.6), "talker\nlabs 5, 6": (3.2, 1.0),
        "DiT\nlab 7": (4.8, 1.0), "vocoder\nlab 7": (6.2, 1.0), "sound out": (7.5, 1.0),
    }  # fmt: skip
    flows = [(name, "thinker\nlab 5") for name in list(boxes)[:4]] + [
        ("thinker\nlab 5", "text out"), ("thinker\nlab 5", "talker\nlabs 5, 6"), ("talker\nlabs 5, 6", "DiT\nlab 7"),
        ("DiT\nlab 7", "vocoder\nlab 7"), ("vocoder\nlab 7", "sound out"),
    ]  # fmt: skip
    for start, end in flows:
        axis.annotate("", boxes[end], boxes[start], arrowprops={"arrowstyle": "->", "shrinkA": 32, "shrinkB": 32})
    for name, place in boxes.items():
        axis.text(*place, name, ha="center", va="center", bbox={"boxstyle": "round", "facecolor": "white"})
    axis.set(xlim=(-0.7, 8.1), ylim=(-0.6, 3.5))
    axis.axis("off")
    return figure


lab.show(
    draw_model(),
    alt="Text, pictures, sound and video flow into the thinker. It writes text, and feeds the talker, whose codes "
    "become sound by way of the DiT and the vocoder.",
)

# %% [markdown]
# ## Four conversations
# Here it is, in the smallest size. The model of this course knows a small world (emoji, short sentences, simple music),
# so do not ask it for the news. It has under 15 million parameters and often errs; the truth stands below each answer
# that has one. What stands between `<think>` and `</think>` is a thought: the model looks up there what the answer
# needs, and does not speak it. At smoke scale speech is cut after 2.4 s, though the text goes on. If your copy came
# without trained weights, it babbles: then watch *when* things come, and return when you have trained it.

# %%
model, trained = nano_model(run.device)
print("the shipped checkpoint" if trained else "random weights: it babbles, at the true speed")
print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters; voices: {', '.join(model.speakers)}")
LENGTH = {"max_new_tokens": 120, "max_codes": run.pick(smoke=120, cpu=750)}  # codes: 50 are a second of sound
if not trained:  # nothing would ever end it
    LENGTH = {"max_new_tokens": 12, "max_codes": run.pick(smoke=26, cpu=100)}


def converse(question: str, aloud: bool = True, **media: list) -> object:
    """Ask, print the text as it comes, then play what was said."""
    reply, sound = model.stream(question, seed=SEED, **media, **LENGTH), []
    for event in reply:
        if isinstance(event, TextDelta):
            print(event.text, end="", flush=True)
        elif isinstance(event, AudioChunk):
            sound.append(event.samples)
    print()
    if aloud and sound:
        said = reply.text.split("</think>")[-1]
        lab.play(torch.cat(sound), 24_000, alt=f"The model's answer, spoken: {said[:60]}", spectrogram=False)
    return reply


# %% [markdown]
# **1. A video with sound.** Two figures speak, one on the left and one on the right. To answer, it must know who moved
# when which words were heard (lab 4).

# %%
sample = next(s for s in readers.videos(samples_folder() / "video") if s.task == "who_said_what")
frames = next(part["video"] for part in sample.messages[0]["content"] if part["type"] == "video")["frames"]
figure, axis = lab.figure(width=8.0, height=1.6)
axis.imshow(np.concatenate(list(frames[:: max(1, len(frames) // 6)][:6]), axis=1))
axis.axis("off")
lab.show(figure, alt="Six frames of the film: two figures, of which the one that speaks hops.")
film = samples_folder() / "video" / sample.meta["key"]
_ = converse("What did the person on the left and the person on the right say?", videos=[film])
print("truth:", sample.answer)

# %% [markdown]
# **2. A picture with a sum in it.** Read, and reckon. It was taught this request in several wordings. Ask "Solve the
# picture.", which was not among them, and see whether the answer stays.

# %%
from omni_lab.data.rendered import SHEET

sheet, _ = rendered.write(["X + Y = 10", "X = 2", "Y = ?"], SHEET, np.random.default_rng(SEED), "test")
figure, axis = lab.figure(width=2.4, height=1.8)
axis.imshow(sheet)
axis.axis("off")
lab.show(figure, alt="A sheet of paper that says: X + Y = 10, X = 2, Y = ?")
_ = converse("Solve it.", images=[sheet])
print("truth: Y = 8")

# %% [markdown]
# **3. Text.**

# %%
_ = converse("Write a Mother's Day message from Anna with flowers. Say that you always listen.")

# %% [markdown]
# **4. Music.** Which key, which metre, how fast? Guess before you look at the answer.

# %%
piece = music.Piece(7, "major", 4, 120)
track = music.render(piece, np.random.default_rng(SEED))
lab.play(track, 16_000, alt="Six seconds of a simple loop with chords and drums.", spectrogram=False)
reply = converse("Describe this music.", audio=[track])
print("truth:", piece.words)

# %% [markdown]
# ## Where the time went
# An answer that comes after two seconds is a lecture; one that comes after a third of a second is a conversation. The
# report names four sources of delay (section 2.4: reading the input; from the first text to the first code; from the
# first codes to sound; the model's own size). The first three add up to the delay of the first sound; the fourth is the
# work for each second of sound after it. Predict: which of the three was the largest just now?

# %%
print(reply.account.table())
figure, axis = lab.figure(width=8.0, height=2.8)
words = timeline.draw(reply.account, axis, until=1.0)
lab.show(figure, alt=words)

# %% [markdown]
# ## What if?
# The *real-time factor* is seconds of work for a second of sound, from first to last; source 4 is the same from the
# first sound on. While both are well below 1, the machine keeps up in the long run, and only the first three are felt
# as waiting. It can still fall silent early: the first sound it gives out lasts 0.1 s only.
#
# Here are the costs of your machine, measured now, in a simulator. The DiT works on a block of codes at a time (12
# codes are 0.24 s) and waits for some of what follows: `ahead`, in blocks. Only the first 0.1 s of sound is given out
# without waiting for that, so that you wait less. `calls` is how often the DiT runs for one chunk of sound. `thinker`
# is how many times as dear a token is, `machine` how many times as fast everything runs.
#
# Silence is when the player has run out of sound. Is there any at the first setting? Which slider takes it away, and
# which brings more?

# %%
costs = simulate.measure(model, model.prepare("What is on the left?"), repeats=1)


def what_if(block_codes: int, ahead: int, calls: int, thinker: float, machine: float) -> object:
    setting = simulate.Setting(block_codes, ahead, calls, thinker=thinker, machine=machine, seconds=4.0)
    account = simulate.simulate(costs, setting)
    figure, axis = lab.figure(width=8.0, height=2.8)
    timeline.draw(account, axis, until=1.0)
    first, silence = 1000 * account.marks["first sound"], 1000 * account.underrun()
    axis.set_title(
        f"first sound {first:.0f} ms, work {account.real_time_factor():.2f} s a second, silent {silence:.0f} ms"
    )
    return figure


# %%
lab.explore(
    what_if,
    alt="Timeline of a reply with blocks of {block_codes} codes, {ahead} ahead, {calls} calls of the DiT a chunk, a "
    "thinker {thinker} times as dear, on a machine {machine} times as fast.",
    block_codes=lab.Slider(4, 48, 12, 4),
    ahead=lab.Slider(0, 3, 1),
    calls=lab.Slider(1, 72, 8),
    thinker=lab.Slider(0.5, 100.0, 1.0, 0.5),
    machine=lab.Slider(0.2, 10.0, 1.0, 0.2),
)

# %% [markdown]
# ## Your turn
# Type, add a picture, a sound or a video, choose a voice. *Stop* interrupts it, and so does asking the next thing.

# %%
from omni_lab.chat.notebook import Chat

chat = Chat(model, **LENGTH)

# %% [markdown]
# With a microphone, `omni-lab chat --web` in a terminal does the same in a page of its own; what you say is then taken
# in while you say it.

# %% [markdown]
# ## How an exercise works
# You write one function. When you run its cell, the check calls it on random inputs and tells you what is wrong. Each
# case that holds earns its share of the points. Until all hold, the notebook goes on with the package's own version;
# for more than a third of them there is none, and cells that need yours stay silent. Once all hold, **yours is the one
# that runs**.
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
# ## What you have seen
# - One model that reads, looks and listens, writes and speaks, at once.
# - Its first sound needs the question, the first words, 12 codes, 8 calls of the DiT and one of the vocoder.
# - A check that says what is wrong, and your function running inside the real thing.
#
# Every lab ends with your points, and with one figure by which the run is judged.

# %%
lab.key_figure("delay of the first sound", reply.account.marks.get("first sound", 0.0), "s")
lab.summary()
