# %% [markdown]
# # Lab 02 - LLaVA
#
# A language model has read of dogs and never seen one. CLIP has seen dogs and cannot say a sentence. LLaVA (Liu et al.
# 2023, "Visual Instruction Tuning") joins the two by one matrix, W, and teaches them to talk about pictures.
#
# You build all of it: the data, written by a teacher who is blind; the two forms in which a dialogue is written; the
# loss that counts answers only; the place where a picture enters a sentence; two stages of training. The omni model of
# the later labs sees in this way (report, section 2.2).
#
# The question of this lab: **does it look?** A model can talk well about pictures without ever looking at one.
#
# | scale | what runs |
# |---|---|
# | smoke | a few steps of each training: enough to run, too few to answer well |
# | cpu | the language model, stage 1, stage 2 and an ablation, from nothing |
# | t4, gpu | a language model of 8 layers, 512 wide, and more steps |
#
# When the lab starts, it prints the time and the memory of each scale that has been measured.
#
# Eleven exercises, 100 points, about two hours and a half of yours.

# %% tags=["parameters"]
SCALE = None  # "smoke", "cpu", "t4", "gpu"; None: what this machine carries
SEED = 0
TEACHER = ""  # an OpenAI-compatible server such as "http://localhost:8000/v1"; "": the teacher that goes by rules
TEACHER_MODEL = ""  # the model's name on that server
INSTRUCT = ""  # a folder with llava_instruct_150k.json and its pictures, for the last section
HUB = ""  # with INSTRUCT: a language model such as "Qwen/Qwen2.5-0.5B-Instruct", behind the paper's CLIP

# %%
import json
import re
import tempfile
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from omni_lab import clip, lab, llava
from omni_lab.data import dialogues, instructions, readers, scenes, teacher
from omni_lab.data.folders import samples_folder
from omni_lab.errors import DataError
from omni_lab.lab import exercise
from omni_lab.train.loop import train
from omni_lab.train.recipes import llava as recipes
from omni_lab.train.recipes import llava_hub

run = lab.start(SCALE, SEED, lab="02")
encoder = clip.CLIP.load(samples_folder() / "checkpoints" / "clip")

# %% [markdown]
# ## A teacher who is blind
# Where do a hundred thousand dialogues about pictures come from? From a language model that cannot see. It is told two
# things about each picture: captions, and the boxes of what stands in it (section 3 of the paper): left, upper, right
# and lower edge, as shares of the picture's side. Here is a picture and all that the teacher knows of it, its
# **context**.

# %%
shown = instructions.board(np.random.default_rng(SEED + 3), ["dog", "cat", "banana"], "train", "noto")
captions, boxes = dialogues.captions(shown), dialogues.boxes(shown)
figure, axis = lab.figure(width=2.4, height=2.4)
axis.imshow(scenes.draw(shown))
for thing in shown.things:
    x1, y1, x2, y2 = thing.box
    axis.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], color="C4", linewidth=1)
axis.set_axis_off()
lab.show(figure, alt="A small picture with a dog, a cat and a banana, a box around each.")
print(teacher.context(captions, boxes))

# %% [markdown]
# ### Exercise 2.1 - Asking the teacher  (difficulty 1 of 3, 5 minutes, 5 points)
# The teacher learns its task from examples in the prompt (table 13, in the paper's appendix, prints such a prompt). The
# list of messages is: the system prompt; for each example its context from the "user" and its reply from the
# "assistant"; at the end the query, which is the new picture's context, from the "user". Each message is a dict with
# "role" and "content".


# %% tags=["exercise"]
@exercise("llava.messages")
def messages(system: str, examples: list[tuple[str, str]], query: str) -> list[dict[str, str]]:
    """A few-shot chat: system prompt, each example's (context, reply), then the query."""
    # BEGIN SOLUTION
    found = [{"role": "system", "content": system}]
    for context, reply in examples:
        found += [{"role": "user", "content": context}, {"role": "assistant", "content": reply}]
    return [*found, {"role": "user", "content": query}]
    # END SOLUTION


# %%
for message in teacher.prompt("conversation", captions, boxes, teacher.examples("conversation", 1)):
    lines = f"{message['role']}: {message['content']}".splitlines()
    print("\n".join(textwrap.fill(line, 100) for line in lines), end="\n\n")

# %% [markdown]
# The paper asks for three kinds of data: conversations, detailed descriptions, and complex reasoning, 158 thousand in
# all (section 3). Offline our teacher goes by rules. Set `TEACHER` in the parameters cell to the address of a server
# with the OpenAI interface, and the same prompts go there, two examples before each query. An answer about things that
# are not there is refused: the cell names them and goes on to the next kind.

# %%
server = teacher.Server(TEACHER, TEACHER_MODEL) if TEACHER else None
rng = np.random.default_rng(SEED)
for kind in dialogues.KINDS:
    try:
        for question, answer in teacher.teach(kind, shown, rng, server):
            print(f"{kind:<13} {question}\n{'':<13} {answer}")
    except DataError as error:
        print(f"{kind:<13} refused: {error}")

# %% [markdown]
# ### Exercise 2.2 - Things that are not there  (difficulty 2 of 3, 15 minutes, 10 points)
# A teacher who cannot see invents. So every answer is checked before it becomes data. Return the known things that the
# answer mentions, in singular or plural, though they are not in `present` (singular, lower case). Only whole words
# count; capitals do not matter.


# %% tags=["exercise"]
@exercise("llava.absent")
def absent(answer: str, present: list[str], plurals: dict[str, str]) -> list[str]:
    """Things mentioned but not there, in the order of `plurals` (each known thing -> its plural)."""
    # BEGIN SOLUTION
    said = set(re.findall(r"\w+", answer.lower()))
    return [word for word, many in plurals.items() if word not in present and {word, many} & said]
    # END SOLUTION


# %%
here = [thing.word for thing in shown.things]
for claim in ("The dog looks at two mice.", "The cat is about to catch the banana.", "There is no fox here."):
    print(f"{claim:<40} invented: {absent(claim, here, teacher.PLURALS)}")

# %% [markdown]
# The last answer is true, and still rejected. A filter that is too strict costs some data; one that is too lax teaches
# the model to invent.
#
# ## Two ways to write a dialogue
# A language model reads one long text. So a dialogue needs a form that says who speaks, and when he has ended. The
# paper's form (section 4.2, table 2) ends every message with `###`:
#
# ```text
# You see a picture.###
# Human: What is it?###
# Assistant: A dog.###
# ```
#
# What of this must the model learn to write? Its answer, and the stop behind it (section 4.2, equation 3). A model that
# never learned to stop goes on and plays the human too.
#
# ### Exercise 2.3 - The paper's form  (difficulty 2 of 3, 15 minutes, 10 points)
# Return the dialogue as a list of pieces, each a tuple (text, whether it is learned). First the system's line with its
# stop and line break, not learned. Then three pieces for each turn: all that stands before the answer, up to and with
# `Assistant:`; the answer with the blank before it and the stop behind it; the line break.


# %% tags=["exercise"]
@exercise("llava.human_assistant")
def human_assistant(turns: list[tuple[str, str]], system: str, stop: str = "###") -> list[tuple[str, bool]]:
    """The paper's form: (question, answer) pairs -> pieces (text, learned)."""
    # BEGIN SOLUTION
    pieces = [(f"{system}{stop}\n", False)]
    for question, answer in turns:
        pieces += [(f"Human: {question}{stop}\nAssistant:", False), (f" {answer}{stop}", True), ("\n", False)]
    return pieces
    # END SOLUTION


# %% [markdown]
# ### Exercise 2.4 - ChatML  (difficulty 1 of 3, 8 minutes, 5 points)
# Qwen writes the same in ChatML, where begin and end are tokens of their own, which no text can contain by accident:
#
# ```text
# <|im_start|>user
# What is it?<|im_end|>
# <|im_start|>assistant
# A dog.<|im_end|>
# ```
#
# The system's message comes first, in the same form. Cut each turn into three pieces as before: up to and with the line
# break behind `assistant`; the answer with its `<|im_end|>`; the last line break.


# %% tags=["exercise"]
@exercise("llava.chatml")
def chatml(turns: list[tuple[str, str]], system: str) -> list[tuple[str, bool]]:
    """Qwen's form: (question, answer) pairs -> pieces (text, learned)."""
    # BEGIN SOLUTION
    pieces = [(f"<|im_start|>system\n{system}<|im_end|>\n", False)]
    for question, answer in turns:
        pieces.append((f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n", False))
        pieces += [(f"{answer}<|im_end|>", True), ("\n", False)]
    return pieces
    # END SOLUTION


# %% [markdown]
# ### Exercise 2.5 - What is learned  (difficulty 1 of 3, 8 minutes, 10 points)
# Each piece has become token ids. Join them to the ids of the whole dialogue, and make its labels: the token itself
# where the piece is learned, else -100, which PyTorch's cross-entropy leaves out. Do not shift anything yet.


# %% tags=["exercise"]
@exercise("llava.answer_labels")
def answer_labels(pieces: list[list[int]], learned: list[bool]) -> tuple[Tensor, Tensor]:
    """Token ids of the pieces -> ids and labels of the dialogue, each (length,) int64."""
    # BEGIN SOLUTION
    ids = [token for piece in pieces for token in piece]
    labels = [token if counts else -100 for piece, counts in zip(pieces, learned, strict=True) for token in piece]
    return torch.tensor(ids, dtype=torch.long), torch.tensor(labels, dtype=torch.long)
    # END SOLUTION


# %% [markdown]
# ### Something to touch: which tokens count?
# Orange tokens are learned, grey ones only read. Change the form and the answer. How many tokens does one `###` cost,
# and how many one `<|im_end|>`?

# %%
tokenizer = recipes.Llava(recipes.CPU).tokenizer


def coded(form: str, answer: str) -> tuple[Tensor, Tensor]:
    """Ids and labels of a dialogue of two turns, by your functions."""
    write = human_assistant if form.startswith("###") else chatml
    pieces = write([("What is in the picture?", answer), ("Thank you.", "You are welcome.")], llava.SYSTEM)
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text, _ in pieces]
    return answer_labels(ids, [learned for _, learned in pieces])


# %%
def written(form: str, answer: str):
    ids, labels = coded(form, answer)
    figure, axis = lab.figure(width=7, height=2.2)
    x, y = 0, 0
    for token, label in zip(ids.tolist(), labels.tolist(), strict=True):
        text = tokenizer.decode([token], skip_special_tokens=False)
        box = {"facecolor": "#eeeeee" if label == -100 else "#E69F00", "edgecolor": "white", "pad": 1.5}
        axis.text(x, y, text.replace("\n", "\\n"), family="monospace", fontsize=8, bbox=box)
        x, y = (0, y - 1) if "\n" in text else (x + len(text) + 0.8, y)
    axis.set(xlim=(0, 100), ylim=(y - 1, 1))
    axis.set_title(f"{int((labels != -100).sum())} of {len(ids)} tokens are learned", loc="left")
    axis.set_axis_off()
    return figure


# %%
lab.explore(
    written,
    alt="A dialogue of two turns in the form {form}, token by token; the answer {answer} and its stop are learned.",
    form=lab.Choice("### of the paper", "ChatML"),
    answer=lab.Text("There is a dog and a cat."),
)

# %% [markdown]
# ## How a picture enters a sentence
# Take CLIP's image tower before its pool. It gives one vector for each place of a grid (lab 01). A matrix W turns each
# into a vector as wide as a word's embedding (section 4.1, equation 1): `H = W Z` (and a bias). That is all. The
# language model reads these vectors as if they were words. (Ours first brings all channels of Z to one scale, because W
# has minutes to learn, not hours.)

# %%
untrained = llava.LLaVA(llava.LlavaConfig(), tokenizer, encoder.visual).eval()
pixels = clip.to_input(np.asarray(scenes.draw(shown))[None], 96)
grid = untrained.look(pixels)
print(f"picture {tuple(pixels.shape)} -> grid Z {tuple(grid.shape)} -> W Z {tuple(untrained.project(grid).shape)}")

# %% [markdown]
# ### Exercise 2.6 - The picture among the words  (difficulty 3 of 3, 20 minutes, 15 points)
# In the text stands a placeholder token, once for each place of the grid. Put the picture's vectors there, the first
# vector at the first placeholder of the row, and so on. All other embeddings stay as they are. The gradient must reach
# both: the words' embeddings and, through the features, W. On a GPU the features may come in 16 bits: return the dtype
# of `embeddings`.


# %% tags=["exercise"]
@exercise("llava.place_features")
def place_features(embeddings: Tensor, ids: Tensor, features: Tensor, image_token: int) -> Tensor:
    """embeddings (batch, length, dim) of ids (batch, length), features (batch, places, dim) -> new embeddings."""
    # BEGIN SOLUTION
    here = ids == image_token
    return embeddings.masked_scatter(here[..., None], features.to(embeddings.dtype))
    # END SOLUTION


# %% [markdown]
# ### Something to touch: what does a picture cost?
# A place of our tower's grid is 16 pixels wide. Twice the side is four times the places, and each place is a token that
# every layer has to read. How large may a picture be if at most 256 tokens are to be spent?


# %%
def cost(side: int):
    step = 96 // untrained.side
    sides = np.arange(2, 31) * step
    figure, axis = lab.figure(height=2.8)
    axis.plot(sides, (sides // step) ** 2, label="one token a place")
    axis.plot(sides, (sides // step // 2) ** 2, linestyle="--", label="one token for 2 x 2 places (exercise 2.11)")
    axis.axhline(256, color="C4", linewidth=1, label="256 tokens")
    axis.plot([side], [(side // step) ** 2], "o", color="C6")
    axis.set(xlabel="pixels of a side", ylabel="tokens", title=f"{side} pixels: {(side // step) ** 2} tokens")
    axis.legend()
    return figure


lab.explore(cost, alt="Tokens against the size of a picture, two curves; {side} pixels are marked.",
            side=lab.Slider(32, 480, 96, 16))  # fmt: skip

# %% [markdown]
# ## Learn the answer, nothing else
# The logits at place i have read the tokens up to i. They guess token i + 1. So logits and labels meet one place apart:
#
# $$\text{answer\_loss} = -\frac{1}{\#\text{learned}}\sum_{i:\ \text{label}_{i+1}\ \neq -100}
# \log p_i(\text{label}_{i+1})$$
#
# ### Exercise 2.7 - The loss of the answer  (difficulty 2 of 3, 10 minutes, 10 points)
# One mean over all learned tokens of the batch: #learned counts the terms of the sum. A label in the first place is no
# term, since no logits come before it.


# %% tags=["exercise"]
@exercise("llava.answer_loss")
def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the learned tokens: (batch, length, vocab), (batch, length) -> scalar, in nats."""
    # BEGIN SOLUTION
    guesses, targets = logits[:, :-1], labels[:, 1:]
    return F.cross_entropy(guesses.flatten(0, 1).float(), targets.flatten(), ignore_index=-100)
    # END SOLUTION


# %% [markdown]
# ## Three trainings
# | | what learns | on what |
# |---|---|---|
# | before | the language model | all of what follows, its pictures told in words: each place's thing, or nothing |
# | stage 1, `align` | W | captions |
# | stage 2, `instruct` | W and the language model | captions, conversations, descriptions, reasoning, science |
#
# The image tower never learns (section 4.2). The first row is ours: Vicuna and Qwen have read the world's text and know
# what stands left of what. Our language model is tiny and reads a world of its own.
#
# ### Exercise 2.8 - Who learns when  (difficulty 1 of 3, 5 minutes, 5 points)
# The names of W's parameters begin with `projector.`, those of the language model with `language_model.`. Return, in
# their order, the names that learn in the stage: "language", "align" or "instruct".


# %% tags=["exercise"]
@exercise("llava.trainable")
def trainable(names: list[str], stage: str) -> list[str]:
    """Those of the parameters' names that learn in a stage."""
    # BEGIN SOLUTION
    beginnings = {
        "language": ("language_model.",),
        "align": ("projector.",),
        "instruct": ("projector.", "language_model."),
    }
    return [name for name in names if name.startswith(beginnings[stage])]
    # END SOLUTION


# %%
sizes = {name: p.numel() for name, p in untrained.named_parameters()}
for stage in llava.STAGES:
    learning = sum(sizes[name] for name in trainable(list(sizes), stage))
    print(f"{stage:<9} {learning / 1e6:6.3f} of {sum(sizes.values()) / 1e6:.2f} million parameters learn")

# %% [markdown]
# How much memory does that take? Each learning weight needs itself, its gradient and two moments of Adam, 16 bytes in
# all; a frozen one 4. Each layer keeps about 16 vectors a token for the way back (counted roughly: inputs and outputs
# of its norms and matrices, 4 bytes a number), and the logits come twice. Before training we ask for twice the result,
# for what the formula leaves out.


# %%
def memory(recipe: recipes.Llava, tokens: int) -> float:
    """Gigabytes of a training step on dialogues of so many tokens, by the formula above."""
    text, rows = recipe.config.text, recipe.settings.batch_size * tokens
    per_layer = 4 * text.hidden_size**2 + 3 * text.hidden_size * text.intermediate_size
    weights = text.num_hidden_layers * per_layer + text.vocab_size * text.hidden_size
    frozen = sum(p.numel() for p in encoder.visual.parameters())
    kept = rows * (16 * text.hidden_size * text.num_hidden_layers + 2 * text.vocab_size)
    return (16 * weights + 4 * frozen + 4 * kept) / 1e9


recipe = recipes.LlavaInstruct.at(run.scale, SEED)
tokens = recipe.collate(recipe.examples("train", 0))["ids"].shape[1]
need = memory(recipe, tokens)
print(f"{tokens} tokens a dialogue, {grid.shape[1]} of them the picture's: at this scale about {need:.2f} GB;", end=" ")
print(f"at t4 {memory(recipes.LlavaInstruct.at('t4'), tokens):.2f} GB of 16")
lab.need_memory(2 * need, run.here)

# %% [markdown]
# ### How large does a weight begin?
# This language model starts from nothing, so its first weights are random. How large should they be? The published
# models' configurations say 0.02 (`initializer_range`). Each output of a matrix sums over its whole input, so what
# comes out also grows with the root of the width. Before you run it: which width is 0.02 right for?

# %%
for width in (untrained.config.text.hidden_size, 256, 3584):
    given = torch.randn(64, width, generator=run.generator)
    for title, std in (("0.02", 0.02), ("1 / sqrt(width)", width**-0.5)):
        kept = (given @ (std * torch.randn(width, width, generator=run.generator))).std() / given.std()
        print(f"{width:>4} wide, standard deviation {title:<15}: {float(kept):.2f} of what is given comes out")

# %% [markdown]
# 0.02 keeps the size at a width of 1 / 0.02^2 = 2500. What nearly suits a model 3584 wide lets little through in a
# small one. Its layers begin by saying almost nothing, and the first steps go into making them louder. PyTorch's own
# first weights, which this model's matrices keep, follow the width too: `1 / sqrt(3 * width)`, of which 0.58 comes out
# at every width. So do those of lab 05's thinker.

# %%
work = tempfile.TemporaryDirectory()
parts = Path(work.name) / "parts"


def run_stage(kind: type[recipes.Llava], name: str, **changes):
    """Train one stage; returns the result and its log."""
    settings = replace(kind.scales[run.scale], **changes)
    out = Path(work.name) / name
    result = train(kind(settings, SEED, parts), out, device=run.device, progress=False)
    print(f"{name}: {result.step} steps in {result.seconds:.0f} s;", end=" ")
    print(", ".join(f"{k} {v:.2f}" for k, v in result.figures.items()))
    return result, np.genfromtxt(out / "log.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")


_, language_log = run_stage(recipes.LlavaLanguage, "language")

# %% [markdown]
# Two numbers stand there: the loss of held-out answers with the right picture, and with the picture of the dialogue
# before. A model that does not look finds no difference. **Their gap is how much the picture tells.**
#
# Now stage 1. Only W learns: it has to write, in the language model's own words, what stands at each place.
#
# Predict before you run on: W begins at random, the language model is ready. In which of the two stages will the loss
# with the right picture fall further? And does the loss with another's picture move at all?

# %%
_, align_log = run_stage(recipes.LlavaAlign, "align")

# %%
trained, instruct_log = run_stage(recipes.LlavaInstruct, "instruct")


# %%
def curve(axis, log, name: str, label: str, **style) -> None:
    points = log[log["name"] == name]
    axis.plot(points["step"], points["value"], label=label, **style)


figure, axes = lab.figure(1, 3, width=7.5, height=2.8, sharey=True)
for axis, log, title in zip(
    axes, (language_log, align_log, instruct_log), ("language", "align", "instruct"), strict=True
):
    curve(axis, log, "held-out answer loss", "right picture", marker="o")
    curve(axis, log, "held-out answer loss with another's picture", "another's", marker="s", linestyle="--")
    axis.set(title=title, xlabel="step")
axes[0].set(ylabel="held-out loss (nats a token)", ylim=(0, None))
axes[0].legend()
lab.show(figure, alt="Held-out loss over the steps of three trainings, with the right picture and with another's.")

# %% [markdown]
# These curves are **recorded** at cpu scale; `python -m benchmarks.llava_stages` records them anew. The green area is
# what the picture tells. Does it grow, and which curve moves, the lower or the upper? A model that only learns to talk
# lowers both.

# %%
record = json.loads((samples_folder() / "llava_stages.json").read_text())
figure, axes = lab.figure(1, 3, width=7.5, height=2.8, sharey=True)
for axis, title in zip(axes, ("language", "align", "instruct"), strict=True):
    steps, right, other = zip(*record["curves"][title], strict=True)
    axis.plot(steps, right, marker="o", label="right picture")
    axis.plot(steps, other, marker="s", linestyle="--", label="another's")
    axis.fill_between(steps, right, other, color="C2", alpha=0.2, label="what the picture tells")
    axis.set(title=title, xlabel="step", xlim=(0, None))
axes[0].set(ylabel="held-out loss (nats a token)", ylim=(0, None))
axes[1].legend(loc="lower left", fontsize="small")
figure.suptitle(f"recorded {record['date']}, {record['machine']}", fontsize="small")
lab.show(figure, alt="Recorded: in all three trainings the loss with the right picture falls well below that with "
         "another's.")  # fmt: skip

# %% [markdown]
# In both stages the upper curve hardly moves. What falls is the lower one, in stage 2 further than in stage 1: the
# model learns from the picture, not only to talk. (The stages' answers differ: compare falls, not heights.)
#
# ## What W writes
# The paper calls stage 1 the training of a "visual tokenizer" (section 4.2). You can read what it writes: for each
# place, take the word whose embedding is nearest to W's vector. At smoke scale you look into the shipped model, if
# there is one (this lab's recipes make it); at all other scales into yours.
#
# Look at the places where a thing stands: a W that has learnt writes its name there, and the brighter the place, the
# nearer the word (cosine from 0 to 1). Where nothing stands, the word means nothing: there W has none to write. After
# smoke's few steps all words are chance. After cpu's few minutes some pictures are named, many by the name of something
# else of the same kind. In how many of the eight does it say the right one?
#
# ### Something to touch: read the picture as the language model does

# %%
shipped = samples_folder() / "checkpoints" / "llava"
ready = run.scale == "smoke" and shipped.is_dir()
model = llava.LLaVA.load(shipped, encoder.visual) if ready else trained.model.to("cpu").eval()
print("The shipped model." if ready else f"The model that you have just trained for {trained.step} steps of stage 2.")
vocabulary = list(teacher.PLURALS)
word_ids = torch.tensor([tokenizer.encode(f" {word}", add_special_tokens=False).ids[0] for word in vocabulary])
album = [instructions.example(np.random.default_rng([SEED, i]), "test", "caption") for i in range(8)]


# %%
@torch.no_grad()
def nearest(picture: int):
    example = album[picture]
    vectors, known = model.see(example.picture)[0], model.language_model.embed_tokens(word_ids)
    scores = clip.similarity(vectors, known)  # (places, words)
    figure, (left, right) = lab.figure(1, 2, width=7, height=3.2)
    left.imshow(example.picture)
    right.imshow(scores.max(dim=1).values.view(model.side, -1), vmin=0, vmax=1, alpha=0.6)
    for place, best in enumerate(scores.argmax(dim=1).tolist()):
        right.text(place % model.side, place // model.side, vocabulary[best], ha="center", va="center", fontsize=6.5)
    for axis in (left, right):
        axis.set_axis_off()
    return figure


lab.explore(nearest, alt="Picture {picture} and, for each place of the grid, the word nearest to what W makes of it.",
            picture=lab.Slider(0, len(album) - 1, 1))  # fmt: skip

# %% [markdown]
# ## Let it answer
# ### Exercise 2.9 - Answering  (difficulty 2 of 3, 12 minutes, 10 points)
# The most likely token, again and again: guess it, append it, read all again. The stop ends the answer and is not part
# of it. `logits_of` is the model: ids (1, length) -> logits (1, length, vocab).


# %% tags=["exercise"]
@exercise("llava.greedy")
def greedy(logits_of, ids: Tensor, stop: int, longest: int) -> list[int]:
    """The most likely continuation of ids (1, length): at most `longest` new ids, without `stop`."""
    # BEGIN SOLUTION
    new = []
    while len(new) < longest:
        token = int(logits_of(ids)[0, -1].argmax())
        if token == stop:
            break
        new.append(token)
        ids = torch.cat([ids, ids.new_tensor([[token]])], dim=1)
    return new
    # END SOLUTION


# %% [markdown]
# ### Something to touch: chat about a new picture
# No picture of this album was in the training. Ask what you like; the model knows the questions of its small world
# best.


# %%
def chat(picture: int, question: str):
    example = album[picture]
    figure, axis = lab.figure(width=5, height=2.8)
    axis.imshow(example.picture)
    axis.set_axis_off()
    reply = model.answer(example.picture, question, longest=24)
    axis.set_title(f"{question}\n{reply}")
    invented = absent(reply, [t.word for t in example.scene.things], teacher.PLURALS)
    axis.text(0, 102, f"invented: {', '.join(invented) or 'nothing'}", va="top")
    return figure


# %%
lab.explore(
    chat,
    alt="Picture {picture} of the album with the model's answer to: {question}",
    picture=lab.Slider(0, len(album) - 1, 1),
    question=lab.Text("What is in the picture?"),
)

# %% [markdown]
# Answers are checked as the teacher's were, by your `absent`. Over many new pictures: how many of the things that are
# there does the model name, and how many does it invent? The last row is a style that no training has shown, neither
# this one's nor CLIP's. (After smoke's four steps the model names nothing: figures mean nothing, here and below.)


# %%
def named(split_style: str | None, count: int) -> tuple[float, float]:
    """Share of the things that captions name, and invented things a picture, over new pictures."""
    right, invented, total = 0, 0, 0
    for i in range(count):
        example = instructions.example(np.random.default_rng([SEED, 99, i]), "test", "caption", split_style)
        here = {thing.word for thing in example.scene.things}
        reply = model.answer(example.picture, instructions.BRIEF[0], longest=24)
        right += sum(bool(absent(reply, [], {word: teacher.PLURALS[word]})) for word in here)
        invented += len(absent(reply, list(here), teacher.PLURALS))
        total += len(here)
    return right / total, invented / count


figures = {}
for title, style in (("known styles", None), ("OpenMoji, never seen", "openmoji")):
    figures[title] = named(style, run.pick(smoke=4, cpu=60))
    print(f"{title:<21} named {figures[title][0]:5.0%} of what is there; invented {figures[title][1]:.2f} a picture")
print(f"two different words of {len(teacher.PLURALS)}, said blindly, name {2 / len(teacher.PLURALS):.1%}")

# %% [markdown]
# ## Science questions
# The paper's hard test is ScienceQA: multiple choice, some of it with pictures. LLaVA answers 90.92 % of it right, and
# 92.53 % together with GPT-4 as a judge (section 5.2, table 7). Ours is small: what kind of thing, how many legs, where
# it lives, what it says.
#
# A model need not be able to write "B". Let it read each option as the answer and see which it finds likeliest.
#
# ### Exercise 2.10 - Which option is likeliest?  (difficulty 2 of 3, 15 minutes, 10 points)
# Row i holds the dialogue with option i as its answer, and labels as in exercise 2.5. Return a score for each option:
# the mean log-probability of its tokens. A long option must not lose because it is long.


# %% tags=["exercise"]
@exercise("llava.option_scores")
def option_scores(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean log-probability of each row's learned tokens: (options, length, vocab), (options, length) -> (options,)."""
    # BEGIN SOLUTION
    targets = labels[:, 1:]
    log_p = logits[:, :-1].log_softmax(dim=-1).gather(2, targets.clamp(min=0)[..., None])[..., 0]
    counts = (targets != -100).float()
    return (log_p * counts).sum(dim=1) / counts.sum(dim=1)
    # END SOLUTION


# %% [markdown]
# Yours at work: with the picture, with the picture of another question, and with none. What do you expect of the last,
# when chance is 25 %? If the lowest bar is longer than the other two, the model looks. What the other two have above
# chance comes from the questions alone: most animals with legs have four. (The plot needs your exercise 2.10; without
# it the next cells show nothing.)


# %%
@torch.no_grad()
def choose(example: instructions.Example, picture) -> int:
    """The option that the model finds likeliest, looking at `picture` (None: at nothing)."""
    reader = recipes.Llava(recipes.CPU)
    asked = [replace(example, turns=[(example.turns[0][0], option)], picture=picture) for option in example.options]
    if picture is None:
        rows = [model.tokenize(llava.chatml(e.turns, llava.SYSTEM)) for e in asked]
        longest = max(len(ids) for ids, _ in rows)
        ids, labels = (torch.stack([F.pad(row[i], (0, longest - len(row[i])), value=v) for row in rows])
                       for i, v in ((0, 0), (1, -100)))  # fmt: skip
        return int(option_scores(model(ids), labels).argmax())
    batch = reader.collate(asked)
    return int(option_scores(model(batch["ids"], reader.features(model, batch)), batch["labels"]).argmax())


# %%
questions = [
    instructions.example(np.random.default_rng([SEED, 7, i]), "test", "science")
    for i in range(run.pick(smoke=8, cpu=120))
]

# %%
if option_scores:
    pictures = [q.picture for q in questions]
    looks = {"its picture": pictures, "another's": pictures[1:] + pictures[:1], "none": [None] * len(pictures)}
    figure, axis = lab.figure(height=2.2)
    for title, seen in looks.items():
        right = [q.options[choose(q, p)] == q.turns[0][1] for q, p in zip(questions, seen, strict=True)]
        axis.barh(title, 100 * np.mean(right))
        print(f"looking at {title:<12} {np.mean(right):5.0%} of {len(right)} right")
    axis.axvline(25, color="black", linestyle="--", label="chance")
    axis.set(xlim=(0, 100), xlabel=f"right of {len(questions)} questions (%)", ylabel="looking at")
    axis.legend()
    lab.show(figure, alt="Share of science questions answered right with the picture, another's and none, with chance.")

# %% [markdown]
# ## Break it: skip stage 1
# The paper reports 85.81 % instead of 90.92 % on ScienceQA for a model that skips stage 1 (section 5.2, table 8). Here
# is such an experiment: stage 2 as before, with a fresh W, straight behind the language model. Guess the second curve
# before you look.

# %%
_, skipped_log = run_stage(recipes.LlavaInstruct, "skipped", start="llava_language")
figure, (here, before) = lab.figure(1, 2, width=7, height=3)
for log, name, label, mark in (
    (instruct_log, "instruct", "after stage 1", "o"),
    (skipped_log, "skipped", "stage 1 skipped", "s"),
):
    curve(here, log, "held-out answer loss", label, marker=mark)
    if name in record["curves"]:
        steps, right, _ = zip(*record["curves"][name], strict=True)
        before.plot(steps, right, marker=mark, label=label)
here.set(title="yours", xlabel="step of stage 2", ylabel="held-out loss (nats a token)")
before.set(title=f"recorded {record['date']}", xlabel="step of stage 2")
here.legend()
lab.show(figure, alt="Held-out loss over the steps of stage 2, with stage 1 before it and without; yours and recorded.")
for name, label in (("instruct", "after stage 1"), ("skipped", "stage 1 skipped")):
    if name in record["curves"]:
        _, right, other = record["curves"][name][-1]
        print(f"recorded, {label}: {right:.2f} nats with the right picture, {other:.2f} with another's")

# %% [markdown]
# As recorded, the loss stays higher without stage 1, to the end, and the gap between the right picture and another's is
# smaller: less of the picture gets through.
#
# ## Fewer tokens for the same picture
# ### Exercise 2.11 - Four places in one  (difficulty 3 of 3, 15 minutes, 10 points)
# Qwen2.5-VL and the omni model join each square of 2 x 2 neighbours to one token, before the projection (report,
# section 2.4): four times fewer tokens, four times as wide. The places of the square grid come row by row, and so do
# the squares; within a square the order is upper left, upper right, lower left, lower right, their vectors side by
# side.


# %% tags=["exercise"]
@exercise("llava.merge_places")
def merge_places(features: Tensor) -> Tensor:
    """Join squares of 2 x 2 places: (batch, side * side, dim), side even -> (batch, side * side / 4, 4 * dim)."""
    # BEGIN SOLUTION
    batch, places, dim = features.shape
    half = round(places**0.5) // 2
    x = features.view(batch, half, 2, half, 2, dim).permute(0, 1, 3, 2, 4, 5)  # (batch, half, half, 2, 2, dim)
    return x.reshape(batch, half * half, 4 * dim)
    # END SOLUTION


# %%
if merge_places:
    merged = merge_places(grid)
    fewer = grid.shape[1] // merged.shape[1]
    print(f"{tuple(grid.shape)} -> {tuple(merged.shape)}: the same numbers, {fewer} times fewer tokens")

# %% [markdown]
# ## The field's own data
# The paper's data is published as `liuhaotian/LLaVA-Instruct-150K`, about pictures of COCO; its tower is
# `openai/clip-vit-large-patch14`; a small Qwen is `Qwen/Qwen2.5-0.5B-Instruct`, whose layers have the names of ours.
# Put the JSON file and the pictures into a folder, set `INSTRUCT` to it, and the same templates and labels run on it.
# Without the folder the cell reads a record in the same format, made of the picture above. With `HUB` set too, both
# stages run on the real thing; that takes a GPU and the download of both models.

# %%
folder = Path(INSTRUCT or work.name)
if not INSTRUCT:
    scenes.draw(shown).save(folder / "000000033471.jpg")
    said = [{"from": "human", "value": "<image>\nWhat is in the picture?"}, {"from": "gpt", "value": captions[0]}]
    entry = {"id": "000000033471", "image": "000000033471.jpg", "conversations": said}
    (folder / "llava_instruct_150k.json").write_text(json.dumps([entry]))
sample = next(iter(readers.llava(folder / "llava_instruct_150k.json", folder)))
text = [part["text"] for part in sample.messages[0]["content"] if part["type"] == "text"]
dialogue, labels = model.tokenize(chatml([(" ".join(text), sample.answer)], llava.SYSTEM))
print(tokenizer.decode(dialogue.tolist(), skip_special_tokens=False))
print(f"learned: {int((labels != -100).sum())} of {len(dialogue)} tokens")
if HUB:
    for stage in ("align", "instruct"):
        field = replace(llava_hub.HubRecipe.scales[run.scale], stage=stage, language=HUB, instruct=INSTRUCT)
        result = train(llava_hub.HubRecipe(field, SEED, parts), Path(work.name) / f"hub {stage}", device=run.device)
        print(stage, result.figures)

# %% [markdown]
# ## What you have built
# Data from a teacher who is blind, two forms of a dialogue, a loss that counts answers, a place for pictures among
# words, and two stages. You measured whether the model looks: by the loss with another's picture, by what it invents,
# and by science questions without a picture.
#
# One thing it does badly: where things are. The places of the picture come one after the other in a row, and nothing
# tells the model that place 7 lies under place 1. In lab 04 you give every place its own row and column.

# %%
work.cleanup()
lab.key_figure("things named in new pictures", 100 * figures["known styles"][0], "%")
lab.summary()
