# %% [markdown]
# # Lab 04 - TMRoPE
#
# A bell rings while three things lie still and one hops. Which one hopped? To answer, a model must know that a sound
# and a frame belong to the same moment. In the row of tokens they may stand dozens of places apart.
#
# Qwen2.5-Omni's answer is TMRoPE, time-aligned multimodal rotary position embedding (report, section 2.2): each token
# carries its time, height and width, and one temporal id is 40 ms, whatever the frame rate. You build it from the
# rotation up. Then you take time away and see what the model no longer knows. The report does not show that experiment.
#
# | scale | what runs |
# |---|---|
# | smoke | two schemes for a few steps; recorded curves |
# | cpu | four schemes of positions, trained until they know or fail |
# | t4, gpu | the same for longer |
#
# When the lab starts, it prints the time and the memory that were measured at each scale.
#
# Eight exercises, 100 points, about two hours of yours.

# %% tags=["parameters"]
SCALE = None  # "smoke", "cpu", "t4", "gpu"; None: what this machine carries
SEED = 0
VIDEOS = ""  # a folder of your own videos with a metadata.jsonl, for the last section

# %%
import json
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from omni_lab import config, lab, layers, tmrope
from omni_lab.data import folders, readers
from omni_lab.lab import exercise, synchrony

run = lab.start(SCALE, SEED, lab="04")

# %% [markdown]
# ## The question
# Here is a clip of the course's world: eight moments of it, and its sound. When does the bell ring? What moves then?

# %%
videos = folders.samples_folder() / "video"
sample = next(s for s in readers.videos(videos) if s.task == "av_synchrony")
film = next(part["video"] for part in sample.messages[0]["content"] if part["type"] == "video")
frames, fps, sound = film["frames"], film["fps"], film["audio"]
shown = np.linspace(0, len(frames) - 1, 8).astype(int)
figure, axes = lab.figure(2, 1, width=8, height=2.8, height_ratios=(1.4, 1))
axes[0].imshow(np.concatenate(list(frames[shown]), axis=1))
axes[0].set_axis_off()
axes[1].plot(np.arange(len(sound)) / 16000, sound, linewidth=0.5)
axes[1].set(xlabel="time (s)", xlim=(0, len(sound) / 16000))
lab.show(
    figure, alt="Eight frames of four things of which one hops at a time, and the sound with the stroke of a bell."
)
lab.play(torch.from_numpy(sound), 16000, alt="the sound of the clip: a bell rings once", spectrogram=False)
print(f"{sample.messages[0]['content'][-1]['text']}  {sample.answer}.")

# %% [markdown]
# ## Position as a turn
# Attention compares a query with a key by their product. On its own it does not know where they stand. RoPE (Su et al.
# 2021, section 3.2) turns each pair of numbers of query and key by an angle that grows with the position: the first
# pair fastest, later ones ever more slowly, the larger theta the more so. Turn both by the same angle and their product
# stays. So only the *distance* counts.
#
# ### Exercise 4.1 - Turn by position  (difficulty 2 of 3, 12 minutes, 10 points)
# Pair neighbours, as the paper does: pair `i` is `x[..., 2 * i]` with `x[..., 2 * i + 1]`. At position `p` it turns by
# `angle = p * theta ** (-2 * i / dim)`:
#
# $$\text{first}' = \text{first}\,\cos(\text{angle}) - \text{second}\,\sin(\text{angle}), \qquad
# \text{second}' = \text{second}\,\cos(\text{angle}) + \text{first}\,\sin(\text{angle})$$


# %% tags=["exercise"]
@exercise("rope.rotate")
def rotate(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """RoPE in one dimension: (..., length, dim) and (length,) -> turned, of the same shape."""
    # BEGIN SOLUTION
    half = x.shape[-1] // 2
    angle = positions[:, None].float() * theta ** (-torch.arange(half) / half)  # (length, half)
    first, second = x[..., 0::2], x[..., 1::2]
    turned = first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()
    return torch.stack(turned, dim=-1).flatten(-2)
    # END SOLUTION


# %%
if rotate:
    query, key = torch.randn(2, 1, 64, generator=run.generator)
    for place in (0, 100, 1000):
        turned = rotate(query, torch.tensor([place]), 1e4), rotate(key, torch.tensor([place + 3]), 1e4)
        print(f"query at {place:>4}, key 3 further on: {float((turned[0] * turned[1]).sum()):.3f}")

# %% [markdown]
# The released models pair the two halves instead: number `i` with number `i + dim / 2`. For a model that learns its
# weights so, that is only another order of its numbers, and the package does it, to be able to load theirs.
#
# ### Something to touch: only the distance counts
# One query, one key, moved apart. The slider moves **both** along the row. Predict: does the curve move? With a smaller
# `theta` the slowest pairs turn faster. What does that do to far distances?


# %%
def product(place: int, log10_theta: float):
    distance = torch.arange(0, 200)
    ones = torch.ones(1, 64)
    ids = torch.cat([distance + place, torch.tensor([place])]).expand(3, 1, -1)
    cos, sin = layers.rotary_tables(ids, 64, 10**log10_theta, (3, 3, 26), torch.float32)
    turned = layers.apply_rotary(ones.expand(1, 1, 201, 64), cos, sin)[0, 0]
    figure, axis = lab.figure(height=2.6)
    axis.plot(distance, turned[:-1] @ turned[-1] / 64)
    axis.set(xlabel="distance", ylabel="query times key", ylim=(-0.3, 1.05), title=f"query at {place}")
    return figure


# %%
lab.explore(
    product,
    alt="Query times key against their distance, with the query at place {place} and theta 10 to the {log10_theta}.",
    place=lab.Slider(0, 1000, 0),
    log10_theta=lab.Slider(2.0, 6.0, 6.0, 0.5),
)

# %% [markdown]
# ## Three axes
# A picture has no one order. So M-RoPE (Wang et al. 2024, Qwen2-VL, section 2.1) gives each token three ids: time,
# height, width. The pairs of a head are shared out: the first `sections[0]` turn with time, the next with height, the
# last with width. The published model's are 16, 24 and 24 of 64 pairs.
#
# Who gets which pairs decides what an axis can say. The last pairs are the slowest: at theta = 1e6 the published width
# begins with pair 40 of 64 and turns by 0.00018 from one column to the next, so two columns look nearly the same
# (Qwen3-VL later dealt the pairs out in turns). The nano model, with 32 pairs, has 3, 3 and 26: its fastest for time,
# three more for height, and width begins at 0.075 a column.
#
# ### Exercise 4.2 - Three axes  (difficulty 2 of 3, 15 minutes, 15 points)
# Return the angle of every pair of every token. Frequencies run on over all pairs: pair `i` of `pairs` has
# `theta ** (-i / pairs)`, whichever axis it turns with.


# %% tags=["exercise"]
@exercise("rope.mrope_angles")
def mrope_angles(ids: Tensor, sections: list[int], theta: float) -> Tensor:
    """Angles of M-RoPE: (3, length) ids -> (length, pairs), with pairs = sum(sections)."""
    # BEGIN SOLUTION
    pairs = sum(sections)
    angles = ids[..., None].float() * theta ** (-torch.arange(pairs) / pairs)  # (3, length, pairs)
    parts = angles.split(sections, dim=-1)
    return torch.cat([part[axis] for axis, part in enumerate(parts)], dim=-1)
    # END SOLUTION


# %%
if mrope_angles:
    ids = torch.randint(0, 50, (3, 9), generator=run.generator)
    cos, _ = layers.rotary_tables(ids[:, None], 64, 1e6, (3, 3, 26), torch.float32)
    mine = mrope_angles(ids, [3, 3, 26], 1e6).cos()
    print(f"furthest from the package's cosines: {float((mine - cos[0, 0, :, :32]).abs().max()):.1e}")

# %% [markdown]
# ## Which ids does a token get?
# Text and sound walk along the diagonal: t = h = w, one step a token. For sound a step is 40 ms.
#
# ### Exercise 4.3 - A grid of tokens  (difficulty 2 of 3, 15 minutes, 15 points)
# A picture stands still in time and spreads over height and width. A video is several such grids. Tokens stand frame by
# frame, row by row. `times`, (frames,), are the frames' temporal ids; like height and width they count from `start`,
# the first id of this picture or video. Return rows t, h and w.


# %% tags=["exercise"]
@exercise("tmrope.grid_ids")
def grid_ids(start: int, times: Tensor, height: int, width: int) -> Tensor:
    """Ids of len(times) frames of height x width tokens: (3, frames * height * width)."""
    # BEGIN SOLUTION
    t, h, w = torch.meshgrid(times, torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([t, h, w]).reshape(3, -1) + start
    # END SOLUTION


# %% tags=["nbval-check-output"]
print(tmrope.image_ids(start=10, frames=1, height=2, width=3))

# %% [markdown]
# ## Time, not frames
# Qwen2-VL counted frames: one step each, at any rate (its section 2.1). TMRoPE counts time (section 2.2): a second is
# 25 ids, whether it holds one frame or ten. The encoder takes two frames at a time and makes one grid of tokens of
# them. At two frames a second that is one grid a second: neighbours are 25 ids apart. Below, "frame" means such a grid.
#
# ### Exercise 4.4 - Frames in time  (difficulty 2 of 3, 10 minutes, 10 points)
# Frame `i` begins at `i * second_per_grid` seconds. Its temporal id is that time in ids, `ids_per_second` of them a
# second, rounded **down** to int64. Hand the times to `tmrope.grid_ids`; if exercise 4.3 is not solved, write its lines
# here.


# %% tags=["exercise"]
@exercise("tmrope.video_ids")
def video_ids(
    start: int, frames: int, height: int, width: int, second_per_grid: float, ids_per_second: int = 25
) -> Tensor:
    """Ids of a video with `second_per_grid` seconds between frames: (3, frames * height * width)."""
    # BEGIN SOLUTION
    seconds = torch.arange(frames) * torch.tensor(second_per_grid, dtype=torch.float32)
    return tmrope.grid_ids(start, (seconds * ids_per_second).long(), height, width)
    # END SOLUTION


# %% tags=["nbval-check-output"]
for second_per_grid in (1.0, 0.5, 0.125):
    print(f"{second_per_grid} s apart: t =", video_ids(0, 5, 1, 1, second_per_grid)[0].tolist())

# %% [markdown]
# ## One clock
# Ids of sound and frames now tell the same time. So they can be compared.
#
# ### Exercise 4.5 - What was seen just then?  (difficulty 2 of 3, 10 minutes, 10 points)
# A frame is seen from its own temporal id until the next frame's, the last one for ever after. Which frame is seen at
# each moment? `times` ascend and begin at 0; no moment lies before.


# %% tags=["exercise"]
@exercise("rope.frame_at")
def frame_at(times: Tensor, moments: Tensor) -> Tensor:
    """Number of the frame that is seen at each moment: (frames,) and (n,) temporal ids -> (n,) int64."""
    # BEGIN SOLUTION
    return torch.searchsorted(times, moments, right=True) - 1
    # END SOLUTION


# %% [markdown]
# Here a frame is again a single picture of the film, `1 / fps` seconds after the last.

# %%
if frame_at:
    loud = int(np.abs(sound).argmax()) / 16000  # s, where the bell is loudest
    moment = torch.tensor([int(25 * loud)])
    seen = int(frame_at(tmrope.video_ids(0, len(frames), 1, 1, 1 / fps)[0], moment))
    figure, axis = lab.figure(width=2.4, height=2.4)
    axis.imshow(frames[seen])
    axis.set(title=f"{loud:.2f} s: frame {seen}", xticks=[], yticks=[])
    lab.show(figure, alt="The frame that is seen when the bell is loudest: one of the four things has left its place.")

# %% [markdown]
# ## Two seconds at a time
# Where do the tokens stand in the row? All frames first and then all sound would keep the model waiting for the end. So
# they alternate every 2 s: the chunk's frames first, then its sound (section 2.2).
#
# ### Exercise 4.6 - Cut by time  (difficulty 3 of 3, 20 minutes, 15 points)
# `times` ascend from 0; the tokens of one frame share a time. For each limit `ids_per_chunk`, `2 * ids_per_chunk`, ...
# up to and including the last time, a chunk begins at the first token whose time is **at or beyond** the limit. If that
# token has begun a chunk already, the token after the last cut begins this one: `[0, 0, 120, 120, 120]` with 50 gives
# `[(0, 2), (2, 3), (3, 5)]`. (The reference does so, and released weights know it.) When no token is left, stop. Return
# `(first, end)` places, the end exclusive.


# %% tags=["exercise"]
@exercise("tmrope.chunk_spans")
def chunk_spans(times: Tensor, ids_per_chunk: int) -> list[tuple[int, int]]:
    """Chunks of ascending temporal ids (tokens,), as (first, end) places; no tokens: no chunks."""
    # BEGIN SOLUTION
    total, cuts, last = len(times), [0], -1
    if total == 0:
        return []
    for limit in range(ids_per_chunk, int(times[-1]) + 1, ids_per_chunk):
        last = max(int((times < limit).sum()), last + 1)
        if last >= total:
            break
        cuts.append(last)
    return list(zip(cuts, [*cuts[1:], total], strict=True))
    # END SOLUTION


# %% [markdown]
# ### Exercise 4.7 - Video first, then its sound  (difficulty 2 of 3, 12 minutes, 10 points)
# Cut both by their times, row 0, with `tmrope.chunk_spans`, and let the chunks alternate, video first. It wants times
# from 0, so subtract `start` for the cutting only: what you return keeps it. Where one has run out, the other goes on
# alone. The experiment below adds a fourth row that names each token: cut all rows alike. If exercise 4.6 is not
# solved, write its lines here.


# %% tags=["exercise"]
@exercise("tmrope.interleave")
def interleave(video: Tensor, sound: Tensor, start: int, ids_per_chunk: int = 50) -> list[Tensor]:
    """Chunks of ids in the order of the row: (3, n) and (3, m) from the same start -> list of (3, ...)."""
    # BEGIN SOLUTION
    by_video = tmrope.chunk_spans(video[0] - start, ids_per_chunk)
    by_sound = tmrope.chunk_spans(sound[0] - start, ids_per_chunk)
    chunks = []
    for i in range(max(len(by_video), len(by_sound))):
        chunks += [video[:, first:end] for first, end in by_video[i : i + 1]]
        chunks += [sound[:, first:end] for first, end in by_sound[i : i + 1]]
    return chunks
    # END SOLUTION


# %% [markdown]
# The released code has one rule more, which the report does not mention. A video and its sound each bring a token that
# begins them and one that ends them. The two that begin share one position, and so do the two that end.
#
# ### Something to touch: the row of tokens
# Every cell is a token, in the order of the row: blue ones are video (a frame has 1 x 2), orange ones sound. Each shows
# its t, and below it h and w. Change the frame rate: do the t of the sound change? Change the chunk: what moves?


# %%
def row_of(frames_per_second: float, seconds: float, chunk_seconds: float) -> list[list[int]]:
    """t, h, w and kind (0 video, 1 sound) of each token, in the order of the row: four lists."""
    video = tmrope.video_ids(0, max(1, round(frames_per_second * seconds)), 1, 2, 1 / frames_per_second)
    heard = tmrope.audio_ids(0, round(25 * seconds))
    named = [torch.cat([ids, torch.full((1, ids.shape[1]), kind)]) for kind, ids in enumerate((video, heard))]
    return torch.cat(tmrope.interleave(*named, 0, round(25 * chunk_seconds)), dim=1).tolist()


# %%
def token_row(frames_per_second: float, seconds: float, chunk_seconds: float):
    row = row_of(frames_per_second, seconds, chunk_seconds)
    figure, axis = lab.figure(width=11, height=0.6 + 0.42 * (1 + len(row[0]) // 25))
    for place, (t, h, w, kind) in enumerate(zip(*row, strict=True)):
        x, y = place % 25, -(place // 25)
        axis.add_patch(synchrony.cell(x, y, kind))
        axis.text(x, y, f"{t}\n{h} {w}", ha="center", va="center", fontsize=6.5)
    axis.set(xlim=(-0.5, 24.5), ylim=(-(len(row[0]) // 25) - 0.5, 0.5), title="t above, h and w below")
    axis.set_axis_off()
    return figure


# %%
lab.explore(
    token_row,
    alt="Tokens of {seconds} s of video at {frames_per_second} frames a second and its sound, in chunks of "
    "{chunk_seconds} s; each cell shows time, height and width.",
    frames_per_second=lab.Slider(0.5, 8.0, 2.0, 0.5),
    seconds=lab.Slider(1.0, 8.0, 4.0, 0.5),
    chunk_seconds=lab.Slider(0.5, 4.0, 2.0, 0.5),
)

# %% [markdown]
# ## A whole dialogue
# Segments follow one another: text, a picture, text, a video. Each starts at the largest id before it, plus 1 (section
# 2.2). So a picture of 4 x 6 tokens costs six positions, not 24.
#
# ### Exercise 4.8 - Counting on  (difficulty 3 of 3, 20 minutes, 15 points)
# Segments are `("text", tokens)`, `("audio", tokens)`, `("image", height, width)` and `("video", frames, height, width,
# seconds between frames)`, sizes in tokens. Return the start of each, and last where a next one would start. The
# largest id may be one of time, height or width.


# %% tags=["exercise"]
@exercise("rope.segment_starts")
def segment_starts(segments: list[tuple]) -> list[int]:
    """Start of every segment, and of the one that would follow: n segments -> n + 1 integers, from 0."""
    # BEGIN SOLUTION
    starts = [0]
    for kind, *size in segments:
        if kind in ("text", "audio"):
            largest = size[0] - 1
        elif kind == "image":
            largest = max(size) - 1
        else:
            frames, height, width, seconds = size
            largest = max(int((frames - 1) * seconds * 25), height - 1, width - 1)
        starts.append(starts[-1] + largest + 1)
    return starts
    # END SOLUTION


# %% [markdown]
# The package's `position_ids` does all this for a row of placeholders, here with 5 for any text token. Grids are
# (frames, height, width) in patches, and 2 x 2 patches make a token: 8 x 12 patches are 4 x 6 tokens. Do you agree with
# it?

# %%
if segment_starts:
    thinker = config.nano().thinker_config
    row = [5] * 4 + [thinker.image_token_index] * 24 + [5] * 3 + [thinker.video_token_index] * 16 + [5] * 2
    grids = torch.tensor([[1, 8, 12]]), torch.tensor([[4, 4, 4]])  # of the picture, of the video
    found, delta = tmrope.position_ids(torch.tensor([row]), *grids, second_per_grids=[0.5], config=thinker)
    dialogue = [("text", 4), ("image", 4, 6), ("text", 3), ("video", 4, 2, 2, 0.5), ("text", 2)]
    print("yours:  ", segment_starts(dialogue))
    firsts = found[0, 0, [0, 4, 28, 31, 47]].tolist()  # of each segment's first token
    print("package:", [*firsts, len(row) + int(delta)])  # the last: what a next token would get

# %% [markdown]
# ## The experiment: what moved when the bell rang?
# Now the question from the beginning, for a decoder small enough to train here: the package's own, with two layers. A
# clip has a token a frame, which names what moves, and 25 audio tokens a second; four bells of different tones ring
# among silence, each as a frame begins. At the end stand four questions, one for each tone that rang. The frame rate
# differs from clip to clip.
#
# It learns under four schemes. **Full TMRoPE.** **Frames counted**: video takes one temporal id a frame, as in
# Qwen2-VL. **Sequential ids**: the place in the row, on all axes. **Time removed**: t is 0 for all that is seen and
# heard; h and w stay. So all frames have the ids 0, 0, 0, and the sound still counts in h and w.
#
# Before you run it: which of the four can answer at all? There are eight things, so chance is one in eight.
#
# First, does it fit? A learning weight takes 16 bytes: itself, its gradient, and two moments of Adam. Each layer keeps
# about 16 vectors a token for the way back, and for each head a table of every token with every other, twice. All of it
# in 32 bits: so small a model has no need of 16, on a T4 either.


# %%
def memory(batch: int, seconds: float = 4.0) -> float:
    """Gigabytes of a training step of one watcher, by the formula above, at the highest frame rate."""
    text = synchrony.CONFIG
    length = 25 * seconds + seconds / min(synchrony.SECONDS_PER_GRID) + 4  # sound, frames, questions
    weights = sum(p.numel() for p in synchrony.Watcher().parameters())
    vectors = 16 * text.num_hidden_layers * batch * length * text.hidden_size
    tables = 2 * text.num_hidden_layers * text.num_attention_heads * batch * length**2
    return (16 * weights + 4 * (vectors + tables)) / 1e9


batch = run.pick(smoke=8, cpu=32, t4=128)
print(f"here about {memory(batch):.2f} GB; at t4 {memory(128):.2f} GB of 16")
lab.need_memory(2 * memory(batch), run.here)

# %%
schemes = run.pick(smoke=synchrony.SCHEMES[::3], cpu=synchrony.SCHEMES)
steps = run.pick(smoke=8, cpu=400, t4=1000)
watchers, losses = {}, {}
for scheme in schemes:
    watchers[scheme], losses[scheme] = synchrony.train(scheme, steps, batch=batch, seed=SEED, device=run.device)
    print(f"{scheme:<16} loss {losses[scheme][0]:.2f} -> {losses[scheme][-1]:.2f} nats")

# %%
figure, axis = lab.figure(height=2.8)
for scheme, values in losses.items():
    axis.plot(np.convolve(values, np.ones(5) / 5, mode="valid"), label=scheme)
axis.axhline(np.log(synchrony.THINGS), color="black", linestyle="--", label="knowing nothing")
axis.set(xlabel="step", ylabel="loss (nats)", ylim=(0, None), title=f"trained here, {steps} steps")
axis.legend(bbox_to_anchor=(1, 1))
lab.show(figure, alt="Loss over the training steps for each scheme of positions, beside the loss of knowing nothing.")

# %% [markdown]
# ## Ten times as long
# Training clips last 4 s. Now ask about clips of up to 40 s. The curves with circles are **recorded**, with the command
# that the cell prints; crosses are what your run just trained.

# %%
record = json.loads((folders.samples_folder() / "tmrope_synchrony.json").read_text())
lengths = run.pick(smoke=(1, 2), cpu=(1, 2, 4, 10))
tested = {
    scheme: [synchrony.accuracy(w, scheme, 4.0 * n, run.pick(smoke=8, cpu=48)) for n in lengths]
    for scheme, w in watchers.items()
}
print("recorded:", record["command"])
for scheme, values in tested.items():
    print(f"{scheme:<16}", "  ".join(f"x{n:g}: {v:.0%}" for n, v in zip(lengths, values, strict=True)))

# %%
figure, axis = lab.figure(width=7, height=3.6)
for number, scheme in enumerate(synchrony.SCHEMES):
    if scheme in record["curves"]:
        values = [100 * v for v in record["curves"][scheme]["accuracy"]]
        axis.plot(record["lengths"], values, marker="o", color=f"C{number}", label=scheme)
    if scheme in tested:
        axis.plot(lengths, [100 * v for v in tested[scheme]], "x", color=f"C{number}")
axis.axhline(100 * synchrony.CHANCE, color="black", linestyle="--", label="chance")
axis.set(xscale="log", xlabel="length of the clip over training's", ylabel="right answers (%)", ylim=(0, 102))
axis.set_xticks(record["lengths"], [f"{n:g}" for n in record["lengths"]])
axis.set_title(f"circles recorded {record['date']}, {record['machine']}, {record['steps']} steps", fontsize="small")
axis.legend(loc="center right")
lab.show(figure, alt="Right answers against the length of the clip for four schemes of positions, with chance level.")

# %% [markdown]
# With time in the ids, a bell and its frame differ by nothing on the time axis. The model learns that once, and it
# holds in every chunk at every frame rate. Without it the model has numbers of frames, places in the row, or (time
# removed) a clock for the sound alone: of frames it has no more than the order. None of these tells a frame's moment at
# every frame rate. Then why more than chance at training's length? When a bell is read, few frames have come: naming
# the commonest thing among them is right more often than one time in eight. Sequential ids get more out of the order
# than that (tokens of sound tell how much time has passed), and lose it as the clip grows. All four had equally many
# steps; more of them, or a larger model, may get more out of it.
#
# What fails at ten times the length? There are two steps: the bell finds its frame, and the question finds its bell.
# The model was trained to answer at each bell too. So you can ask there. Predict which of the two steps fails.

# %%
full = watchers["full TMRoPE"]
for place in ("bells", "questions"):
    values = [synchrony.accuracy(full, "full TMRoPE", 4.0 * n, run.pick(smoke=8, cpu=32), at=place) for n in lengths]
    print(f"asked at the {place:<10}", "  ".join(f"x{n:g}: {v:.0%}" for n, v in zip(lengths, values, strict=True)))
noted = {"bells": record["asked at the bells"], "questions": record["curves"]["full TMRoPE"]["accuracy"]}
for place, values in noted.items():
    found = "  ".join(f"x{n:g}: {v:.0%}" for n, v in zip(record["lengths"], values, strict=True))
    print(f"recorded, at the {place:<10}", found)

# %% [markdown]
# In the recorded run it is the second step. A question stands up to a thousand ids behind its bell, in training about
# a hundred: turns that large were never learnt. The first loses little, though the sound's h and w grow with time as
# well, beyond anything in training, and a thousand tokens compete for attention where a hundred did. (After smoke's few
# steps neither is learnt: a few right of some 32, where blind guessing gives 4.)
#
# ## Break it: a clock that is wrong
# Play the sound late by some ids, as a bad recording does. Frames are 160 to 400 ms apart, and in training a bell rang
# exactly as its frame began. Predict: will the model be right until the next frame begins, or fail sooner? (At smoke
# scale it has learnt nothing, and these figures say nothing.)

# %%
for late in run.pick(smoke=(0, 8), cpu=(0, 1, 2, 4, 8)):
    right = synchrony.accuracy(full, "full TMRoPE", 4.0, run.pick(smoke=8, cpu=48), late=late)
    print(f"sound {40 * late:>3} ms late: {right:.0%} right")
print("recorded:", ", ".join(f"{late} ms {right:.0%}" for late, right in record["late by ms"].items()))

# %% [markdown]
# It fails sooner: 80 ms late it begins to, 160 ms late it is lost, and most frames last longer. So it has not learnt
# "the last frame before the bell". It has learnt "the frame whose id is the bell's", because in training that was
# enough. If the sound may lag in use, let it lag in training.

# %% [markdown]
# ## The field's own videos
# Your own set, say a part of `lmms-lab/LLaVA-Video-178K`, is read from a folder with MP4 files and a `metadata.jsonl`,
# a line a clip: `{"file": "one.mp4", "question": "What rang?", "answer": "a bell"}`. Set `VIDEOS` to it. Without it the
# cell reads the shipped clips, which lie in the same form. Two frames a second, a grid of 8 x 16 tokens for every two
# (the processor's lower bound), 25 tokens of sound a second. The ids do not ask how many tokens there are. What do they
# follow?

# %%
for clip in islice(readers.videos(VIDEOS or videos), 0, 12, 3):
    film = next(part["video"] for part in clip.messages[0]["content"] if part["type"] == "video")
    seconds = len(film["frames"]) / film["fps"]
    seen = tmrope.video_ids(0, max(1, round(seconds)), 8, 16, 1.0)
    seen = f"{seen.shape[1]} tokens of video up to t = {int(seen[0, -1])}"
    if film["audio"] is not None:
        heard = round(25 * len(film["audio"]) / 16000)
        seen += f", {heard} of sound up to t = {heard - 1}"
    print(f"{clip.meta['key']}: {seconds:.1f} s, {seen}. {clip.messages[0]['content'][-1]['text']}")

# %% [markdown]
# ## The real thing
# The published models use sections 16, 24, 24, theta 1e6 (their configuration), two frames a second unless told
# otherwise, and chunks of 2 s; `position_ids` agrees with the reference id for id. On a GPU, `omni-lab train thinker`
# learns the question from rendered videos such as the one above. What does the KV cache take?

# %%
for name in ("nano", "qwen2_5_omni_3b", "qwen2_5_omni_7b"):
    text = config.preset(name).thinker_config.text_config
    a_token = 2 * 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim  # keys and values, fp16
    tokens = 60 * (25 + 128)  # a minute: sound, and a grid a second of 128 tokens, the processor's lower bound
    print(f"{name:<16} {a_token / 1e3:.1f} kB a token, {tokens * a_token / 1e9:.3f} GB a minute of video with sound")

# %% [markdown]
# ## What you have built
# A rotation that knows only distance, three axes for what spreads in space, and one clock for all that is seen and
# heard. In lab 05 the thinker and the talker speak about it.

# %%
lab.key_figure("what moved, full TMRoPE, training's length", 100 * tested["full TMRoPE"][0], "%")
lab.summary()
