# %% [markdown]
# # Lab 08 - Scale
#
# What you built for nano runs unchanged at the published sizes. What changes is the question. At nano size you ask:
# does it learn? At 3 billion parameters you ask first: does it fit? Then: how much of the machine do I use?
#
# The report trains in three stages up to rows of 32,768 tokens (section 3). This lab gives you the arithmetic that such
# a run is planned with, and checks what it can against a measurement on the machine in front of you.
#
# | scale | what runs |
# |---|---|
# | smoke | nano's decoder, a few steps of everything |
# | cpu | the same, with two processes and longer rows |
# | t4, gpu | the same cells, nano on the GPU; a published checkpoint if you name one |
#
# Eight exercises, 100 points, about two hours of yours. When the lab starts, it prints the time and the memory of
# each scale that has been measured.

# %% tags=["parameters"]
SCALE = None  # "smoke", "cpu", "t4", "gpu"; None: what this machine carries
SEED = 0
CHECKPOINT = ""  # a folder or hub name, such as "Qwen/Qwen2.5-Omni-3B", for the cell of the real one
LIBRISPEECH = ""  # a folder of LibriSpeech, such as test-clean, to score the shipped model on
QUANTISE = ""  # "int8" or "nf4": that checkpoint in 8 or 4 bits, where 16 do not fit

# %%
import difflib
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import soundfile
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import omni_lab
from omni_lab import lab
from omni_lab.config import preset
from omni_lab.data import readers, recordings
from omni_lab.errors import OmniLabError
from omni_lab.evaluate import asking, page, published, suite, thinking
from omni_lab.lab import exercise
from omni_lab.lab.nano import nano_model
from omni_lab.lab.plots import PALETTE
from omni_lab.omni import OmniModel
from omni_lab.thinker import Thinker
from omni_lab.train import memory, utilisation
from omni_lab.train.optimise import AdamW

run = lab.start(SCALE, SEED, lab="08")

# %% [markdown]
# ## Does it fit?
# A training run holds five kinds of things. Four of them stay from step to step, or come back at every step: the
# weights, their gradients, the two moments that AdamW keeps of every weight, and, under autocast, 16-bit copies of the
# weights for the fast matrix units (Micikevicius et al. 2018, section 3.1).
#
# | bytes a parameter | weights | gradients | moments | copies |
# |---|---|---|---|---|
# | float32 | 4 | 4 | 4 + 4 | |
# | autocast | 4 | 4 | 4 + 4 | 2 |
# | all in bfloat16 | 2 | 2 | 2 + 2 | |
#
# Before you go on: does one card of 80 GB hold what training the decoder of the 3B model keeps, under autocast?
#
# ### Exercise 8.1 - What stays from step to step  (difficulty 1 of 3, 8 minutes, 10 points)
# `learning` counts the parameters that are not frozen; in the report's first stage the language model is. Frozen
# weights are read and copied like others. They have no gradient and no moments. All four keys are always there; without
# copies, theirs is 0.


# %% tags=["exercise"]
@exercise("scale.state_bytes")
def state_bytes(parameters: int, learning: int, precision: str) -> dict[str, int]:
    """Bytes by kind: "weights", "gradients", "optimiser", "copies"; precision: "float32", "autocast", "bfloat16"."""
    # BEGIN SOLUTION
    size = 2 if precision == "bfloat16" else 4
    return {
        "weights": size * parameters,
        "gradients": size * learning,
        "optimiser": 2 * size * learning,
        "copies": 2 * parameters if precision == "autocast" else 0,
    }
    # END SOLUTION


# %% tags=["nbval-check-output"]
text = preset("qwen2_5_omni_3b").thinker_config.text_config
everything = memory.decoder_parameters(text)
print(f"decoder of the 3B thinker: {everything / 1e9:.2f} billion parameters")
for precision in memory.PRECISIONS:
    held = state_bytes(everything, everything, precision)
    print(f"{precision:<9} {sum(held.values()) / 1e9:5.1f} GB:", end=" ")
    print(", ".join(f"{k} {v / 1e9:.1f} GB" for k, v in held.items() if v))

# %% [markdown]
# ## What the backward pass needs
# Under autocast it fits, with some room left. Talker and encoders would need more, and so does what comes next. The
# fifth kind grows with the batch. To find a gradient, a product needs the inputs it had. So the forward pass leaves
# them behind: these are the activations. For one token, one decoder layer leaves:
#
# - the residual stream before each of its two norms;
# - what each norm gives, which is the input of the projections;
# - queries, keys, values, and what attention gives (flash attention keeps no scores);
# - inside SwiGLU four wide tables: gate, up, silu(gate), and the product of the last two.
#
# ### Exercise 8.2 - What a layer keeps  (difficulty 3 of 3, 20 minutes, 15 points)
# Count the bytes for `tokens` tokens. The stream has `residual_bytes` a number (4 under autocast), all else
# `compute_bytes` (2 under autocast). The few numbers that norms and softmax keep beside are left out.


# %% tags=["exercise"]
@exercise("scale.layer_activations")
def layer_activations(
    tokens: int,
    hidden_size: int,
    intermediate_size: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    compute_bytes: int,
    residual_bytes: int,
) -> int:
    """Bytes that one decoder layer keeps for its backward pass."""
    # BEGIN SOLUTION
    stream = 2 * hidden_size  # before each norm
    rest = 2 * hidden_size  # after each norm
    rest += (heads + kv_heads + kv_heads + heads) * head_dim  # queries, keys, values, and what attention gives
    rest += 4 * intermediate_size  # gate, up, silu(gate), and the product of the last two
    return (stream * residual_bytes + rest * compute_bytes) * tokens
    # END SOLUTION


# %% [markdown]
# Is it true? Autograd can be asked: a hook sees every tensor that it puts aside. Here is nano's decoder with its head,
# counted by your function and by autograd.

# %%
nano = preset("nano").thinker_config
thinker = Thinker(nano).to(run.device).train()
decoder = [p for name, p in thinker.named_parameters() if name.startswith(("model.", "lm_head."))]


def batch(rows: int, length: int) -> Tensor:
    """Random token ids: the cost of a token does not depend on its meaning."""
    return torch.randint(0, 2000, (rows, length), device=run.device)


def loss_of(ids: Tensor) -> Tensor:
    return thinker.train()(input_ids=ids, labels=ids, logits_to_keep=0).loss


lengths = run.pick(smoke=(64, 128, 256), cpu=(64, 128, 256, 512, 1024))
table = []
for length in lengths:
    ids = batch(2, length)
    kept = memory.saved_bytes(lambda ids=ids: loss_of(ids), thinker.parameters())
    counted = memory.training_memory(nano.text_config, 2, length, "float32")
    table.append((length, kept, counted.activations + counted.logits // 3))  # gradients of logits come later
    print(f"2 x {length:<4} tokens: autograd kept {kept / 1e6:6.1f} MB, counted {table[-1][2] / 1e6:6.1f} MB")

# %%
figure, axis = lab.figure()
axis.plot([row[0] for row in table], [row[2] / 1e6 for row in table], label="counted")
axis.plot([row[0] for row in table], [row[1] / 1e6 for row in table], "o", label="kept by autograd")
axis.set(xlabel="tokens a row (2 rows)", ylabel="MB", xlim=0, ylim=0)
axis.legend()
lab.show(figure, alt="Activations of nano's decoder against row length: the counted line runs through what was kept.")

# %% [markdown]
# ### Something to touch: plan the run
# Choose a card and find the longest rows that fit. A sixth kind stands beside the five: the *logits* in the loss, 12
# bytes for each token and word of the vocabulary. The two bars are the two moments at which memory can peak. When the
# backward pass begins, all activations are there; when it ends, all gradients. `recomputed` keeps only the input of
# each layer (next section); `processes` share weights, gradients and moments (further below). The report's last stage
# has 32,768 tokens a row. Which of the controls brings you there, and what does it cost?


# %%
def plan(model: str, card: str, precision: str, recomputed: bool, processes: int, rows: int, length: int):
    config = preset(model).thinker_config.text_config
    sheet = utilisation.CARDS[card]
    need = memory.training_memory(config, rows, length, precision, recomputed, processes=processes)
    figure, axis = lab.figure(width=6.5, height=2.4)
    end = ("weights", "optimiser", "gradients")
    start = (*end[: 3 if need.accumulated else 2], "copies", "activations", "logits")
    for place, moment in enumerate((start, end)):
        left = 0.0
        for colour, kind in enumerate((*end, "copies", "activations", "logits")):
            size = getattr(need, kind) / 1e9 * (kind in moment)
            axis.barh([place], [size], left=left, color=PALETTE[colour])
            left += size
    axis.axvline(sheet.memory / 1e9, color="black", linestyle="--")
    verdict = "fits" if need.peak <= sheet.memory else "does not fit"
    axis.set(title=f"peak {need.peak / 1e9:.1f} GB: {verdict} into one {card}", xlabel="GB on each card")
    axis.set_yticks([0, 1], ["backward begins", "backward ends"])
    handles = [axis.containers[n] for n in range(6)]
    names = [*end, "copies", "activations", "logits"]
    figure.legend(handles, names, ncols=6, fontsize=7, loc="outside lower center")
    return figure


# %%
lab.explore(
    plan,
    alt="Memory of training {model} on {rows} rows of {length} tokens by kind, beside what a {card} holds.",
    model=lab.Choice("qwen2_5_omni_3b", "qwen2_5_omni_7b", "small", "nano"),
    card=lab.Choice("H100", "H200", "A100-SXM4-80GB", "L4", "T4"),
    precision=lab.Choice("autocast", "bfloat16", "float32"),
    recomputed=lab.Choice(False, True),
    processes=lab.Slider(1, 64, 1),
    rows=lab.Slider(1, 16, 1),
    length=lab.Slider(256, 32768, 4096, 256),
)

# %% [markdown]
# One row of 32,768 tokens, recomputed, fits on an H200. More processes share weights and moments, and then it fits on
# an H100 too. What is left on each card is mostly logits, which neither of the two makes fewer. A run that cannot fit
# should say so before its first step, with what would fit. So does the package.

# %% tags=["nbval-check-output"]
small = preset("small").thinker_config.text_config
for card_name, config, rows in (("T4", small, 16), ("T4", text, 1)):
    try:
        memory.need_to_fit(int(utilisation.CARDS[card_name].memory), config, rows, 8192)
    except OmniLabError as error:
        print(f"{card_name}: {error}\n")

# %% [markdown]
# ## Recompute, and pay in time
# *Activation checkpointing* keeps only each layer's input and runs the layer again in the backward pass (Chen et al.
# 2016). Predict: how many times less is kept, and how many per cent slower is a step? A forward pass is a third of a
# step's work, so the second answer should be about a third; on a machine that does other things too, times waver.

# %%
ids = batch(2, run.pick(smoke=192, cpu=512))


def step() -> None:
    thinker.zero_grad(set_to_none=True)
    loss_of(ids).backward()


gradients, seconds = {}, {}
for recomputed in (False, True):
    thinker.gradient_checkpointing(recomputed)
    seconds[recomputed] = utilisation.measured_seconds(step, run.device, rounds=run.pick(smoke=2, cpu=5))
    gradients[recomputed] = decoder[1].grad.clone()
    kept = memory.saved_bytes(lambda: loss_of(ids), thinker.parameters())
    print(f"recomputed {recomputed!s:<5}: {kept / 1e6:6.1f} MB kept, {seconds[recomputed] * 1e3:6.0f} ms a step")
print("largest difference of gradients:", float((gradients[True] - gradients[False]).abs().max()))
thinker.gradient_checkpointing(False)

# %% [markdown]
# ## How much of the machine?
# A card's data sheet promises so many floating-point operations a second. How many does the model need for a token?
# Count them as the PaLM paper does (Chowdhery et al. 2022, appendix B):
#
# - a parameter that multiplies the token costs 2 operations forward, and twice as many backward;
# - in each head of each layer the query meets `length` keys of `head_dim` numbers, and the attention weights meet
#   as many values: again 2 operations each forward, twice as many backward. Half of the keys lie in the future and are
#   masked; the count takes no notice of that.
#
# ### Exercise 8.3 - What a token costs  (difficulty 2 of 3, 10 minutes, 10 points)
# `matrices` counts the parameters that multiply each token.


# %% tags=["exercise"]
@exercise("scale.flops_per_token")
def flops_per_token(matrices: int, layers: int, heads: int, head_dim: int, length: int) -> int:
    """Floating-point operations of training on one token of a row of `length`."""
    # BEGIN SOLUTION
    return 6 * matrices + 12 * layers * heads * head_dim * length
    # END SOLUTION


# %% [markdown]
# At which length does attention cost as much as all matrices of the 3B decoder together? Guess before you look: there
# the share passes 50 %.

# %%
rows_of = [2**n for n in range(9, 18)]
matrices = utilisation.matrix_parameters(text)
shares = [1 - flops_per_token(matrices, 0, 0, 0, 0) / utilisation.decoder_flops(text, n) for n in rows_of]
figure, axis = lab.figure()
axis.semilogx(rows_of, [100 * share for share in shares], marker="o", base=2)
axis.axvline(32768, color="C3", linestyle="--", label="the report's last stage")
axis.set(xlabel="tokens a row", ylabel="share of attention (%)", ylim=(0, 100))
axis.legend()
lab.show(figure, alt="Attention's share of a token's operations grows with row length: a few per cent at 1024 tokens.")

# %% [markdown]
# ### Exercise 8.4 - Model FLOPs utilisation  (difficulty 1 of 3, 5 minutes, 5 points)
# MFU is what the model needed over what the cards could have done. Recomputing a layer is work that the model did not
# need, so it does not count. `tokens_per_second` is of all processes together, `peak_flops` of one card.


# %% tags=["exercise"]
@exercise("scale.mfu")
def mfu(tokens_per_second: float, flops_per_token: float, peak_flops: float, processes: int = 1) -> float:
    """Model FLOPs utilisation, as a fraction."""
    # BEGIN SOLUTION
    return tokens_per_second * flops_per_token / (peak_flops * processes)
    # END SOLUTION


# %% [markdown]
# The roof here is what a large product of two matrices reaches on your machine, in float32 as nano's training. Small
# tensors leave a machine waiting, so MFU grows with the batch. Smoke scale measures two points; `cpu` shows where it
# flattens.

# %%
on_card = run.device.type == "cuda"
roof = utilisation.measured_flops(run.device, size=4096 if on_card else 768)  # a card is not filled by less
used = []
for rows in run.pick(smoke=(1, 4), cpu=(1, 2, 4, 8, 16)):
    ids = batch(rows, 128)
    taken = utilisation.measured_seconds(step, run.device, rounds=run.pick(smoke=2, cpu=5))
    used.append((rows, mfu(ids.numel() / taken, utilisation.decoder_flops(nano.text_config, 128), roof)))
    print(f"{rows:>2} x 128 tokens: {ids.numel() / taken:8.0f} tokens a second, MFU {used[-1][1]:.1%}")

# %%
figure, axis = lab.figure()
axis.plot([rows for rows, _ in used], [100 * share for _, share in used], marker="o")
axis.axhline(100, color="C3", linestyle="--", label="a plain product of matrices, here")
axis.set(xlabel="rows of 128 tokens", ylabel="MFU (%)", ylim=0)
axis.legend()
lab.show(figure, alt="MFU of nano's training step against the number of rows, below the roof measured on this machine.")

# %% [markdown]
# Where does the rest go? A profiler's trace says so: time by kind of operation. Products of matrices are the work that
# MFU counts. All else is memory traffic: norms, rotations, SiLU, the loss, additions of gradients.

# %%
os.environ["KINETO_LOG_LEVEL"] = "5"  # it would report that there is no GPU
activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_card
with profile(activities=activities, acc_events=True) as trace:
    step()
spent: Counter = Counter()
for event in trace.key_averages():
    if event.device_type != torch.autograd.DeviceType.CPU:
        continue  # a kernel by itself: its time is that of the operation that called it, too
    spent[event.key.removeprefix("aten::")] += event.self_device_time_total if on_card else event.self_cpu_time_total
long = "scaled_dot_product_flash_attention_for_cpu"
top = [(name.replace(long, "flash_attention"), t) for name, t in spent.most_common(8)[::-1]]
figure, axis = lab.figure(height=2.8)
axis.barh([name[:32] for name, _ in top], [100 * t / sum(spent.values()) for _, t in top])
axis.set(xlabel="share of the step (%)")
lab.show(figure, alt="The eight operations of a training step that take the most time, by share; products come first.")

# %% [markdown]
# Compiling fuses the small ones: `--set compile=true` on the command line, `torch.compile` of the decoder underneath.
# Packing puts several samples into a row, so that next to nothing is padding (`train/packing.py`). Both raise MFU
# without a change of the model.
#
# ## Sixteen bits
# fp16 has 10 bits of mantissa, but its smallest positive number is 2^-24. What is smaller becomes zero. Where are such
# gradients? At the very start of the backward pass: the loss is a mean over tokens, and the gradient of each logit is
# (probability - target) / tokens. With 151,936 words and 8192 tokens that is a small number. So the loss is multiplied
# by a scale before the backward pass, and the gradients are divided by it after.
#
# Move the scale. Too low: zeros. Too high: infinities. Which sizes does nano have, with 2048 words and 256 tokens?

# %%
ids = batch(2, 128)
step()
sizes = {"nano's weights": torch.cat([p.grad.flatten() for p in decoder if p.grad is not None]).abs().cpu()}
for title, vocabulary, count in (("a 3B model's logits", 151_936, 8192), ("nano's logits", 2048, 256)):
    wrong = torch.randn(8, vocabulary, generator=run.generator).softmax(dim=-1)  # 8 of the tokens; drawn, not trained
    wrong[:, 0] -= 1  # the target
    sizes[title] = wrong.flatten().abs() / count


def window(of: str, power: int):
    scaled = sizes[of][sizes[of] > 0].double() * 2.0**power
    lost, over = float((scaled < 2.0**-25).double().mean()), float((scaled > 65504).double().mean())
    figure, axis = lab.figure(height=2.8)
    axis.hist(scaled[:: max(1, len(scaled) // 100_000)].log2(), bins=80)
    for edge in (-24, math.log2(65504)):
        axis.axvline(edge, color="C3", linestyle="--")
    axis.set(xlabel="log2 of |gradient| x scale", ylabel="gradients", xlim=(-50, 30))
    axis.set_title(f"{of} x 2^{power}: {lost:.1%} zero, {over:.1%} infinite")
    return figure


# %%
lab.explore(
    window,
    alt="Sizes of the gradients of {of} times 2^{power}, between the dashed lines that are the limits of fp16.",
    of=lab.Choice("a 3B model's logits", "nano's logits", "nano's weights"),
    power=lab.Slider(0, 50, 0),
)

# %% [markdown]
# Nobody wants to choose it, so the scale finds itself. It starts high. A step whose gradients hold an infinity is
# skipped, and the scale is halved for the next step. After `interval` good steps in a row it is doubled. Large trainers
# add a floor (DeepSpeed's `min_loss_scale`): a few broken batches in a row must not halve the scale to nothing.
#
# ### Exercise 8.5 - A scale that finds itself  (difficulty 3 of 3, 20 minutes, 20 points)
# `overflowed` says of each step whether its gradients overflowed. Return the scale that each step ran with. An overflow
# starts the count of good steps anew, and so does growth. The scale never falls below `least`: where half of it would,
# it becomes `least`.


# %% tags=["exercise"]
@exercise("scale.loss_scales")
def loss_scales(overflowed: list[bool], start: float, interval: int, least: float) -> list[float]:
    """The loss scale of every step: halved after an overflow, not below `least`; doubled after `interval` good ones."""
    # BEGIN SOLUTION
    scale, good, scales = start, 0, []
    for overflow in overflowed:
        scales.append(scale)
        good = 0 if overflow else good + 1
        if overflow:
            scale = max(scale / 2, least)
        elif good == interval:
            scale, good = scale * 2, 0
    return scales
    # END SOLUTION


# %% [markdown]
# Torch has one of its own, `torch.amp.GradScaler`, without a floor. Beside yours: a made-up run in which every step
# overflows whose scale is above a limit that falls with time, and never to the floor of 1.


# %%
def torch_scales(overflowed: list[bool], start: float, interval: int) -> list[float]:
    weight = torch.nn.Parameter(torch.ones(()))
    optimiser = AdamW([weight], lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=start, growth_interval=interval)
    scales = []
    for overflow in overflowed:
        scales.append(scaler.get_scale())
        optimiser.zero_grad()
        scaler.scale(weight * (math.inf if overflow else 1.0)).backward()
        scaler.step(optimiser)
        scaler.update()
    return scales


if loss_scales:
    overflowed: list[bool] = []
    for number in range(60):
        now = loss_scales([*overflowed, False], 65536.0, 5, 1.0)[-1]
        overflowed.append(now > 2.0 ** (15 - number / 10))
    mine, theirs = loss_scales(overflowed, 65536.0, 5, 1.0), torch_scales(overflowed, 65536.0, 5)
    figure, axis = lab.figure(height=2.6)
    axis.step(range(60), [math.log2(s) for s in mine], where="post", label="yours")
    axis.step(range(60), [math.log2(s) for s in theirs], "--", where="post", label="torch")
    axis.set(xlabel="step", ylabel="log2 of the scale")
    axis.legend()
    lab.show(figure, alt="The loss scale over sixty steps: it saws along a falling limit, yours and torch's alike.")
    print("equal to torch's at every step:", mine == theirs)

# %% [markdown]
# bf16 has fp32's range and needs no scale, but only 7 bits of mantissa. A T4 has no bf16, an H100 has; the package
# asks the card (`runtime.hardware`).
#
# ## More than one process
# FSDP2 (*fully sharded data parallel*) starts one process for each GPU. Each holds a share of the weights, gradients
# and moments, and gathers a layer's weights when it is used. A step's batch is the sum of `accumulate` micro-batches,
# numbered over all processes. With the same `accumulate`, two processes compute what one would, to rounding. It must be
# a multiple of their number, so `node.sh` raises it to that: its steps are larger than those of `one_gpu.sh`. To
# compare the two, or to go on from one to the other, give `one_gpu.sh` as many (`--set accumulate=8`). The difference
# between the two files in `launch/`:

# %%
launch = Path(omni_lab.__file__).parents[1] / "launch"
if launch.is_dir():
    files = {
        name: [line for line in (launch / name).read_text().splitlines() if not line.startswith("#")]
        for name in ("one_gpu.sh", "node.sh")
    }
    for line in difflib.unified_diff(files["one_gpu.sh"], files["node.sh"], "one_gpu.sh", "node.sh", lineterm="", n=0):
        print(line)

# %% [markdown]
# `slurm.sbatch` and `kubernetes.yaml` beside them start the same module on several machines. All of them resume: a run
# that is killed, or loses a process, goes on from its last checkpoint, on any number of processes that divides
# `accumulate`.
#
# At `cpu` scale the next cell trains the same few steps in one process and in two, and compares the losses. At smoke
# scale it shows what `omni-lab bench processes` recorded: other numbers of processes, and one of them killed. The tests
# do all of it again (`tests/train/test_distributed.py`).


# %%
def recorded(name: str) -> None:
    """Print a table that `omni-lab bench` has kept, or say how to measure it."""
    path = Path(omni_lab.__file__).parents[1] / "benchmarks" / "results" / f"{name}.md"
    known = path.is_file()
    print(f"RECORDED, not computed here:\n\n{path.read_text()}" if known else f"Not recorded: `omni-lab bench {name}`.")


if run.scale == "smoke":
    recorded("processes")

# %%
if run.scale != "smoke":
    from omni_lab.train.log import read_log

    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    losses = {}
    with tempfile.TemporaryDirectory() as folder:
        for processes in (1, 2):
            starter = [sys.executable]
            if processes > 1:
                starter += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
            what = ["-m", "omni_lab.cli", "train", "language", "--scale", "smoke", "--device", "cpu"]
            what += ["--out", f"{folder}/{processes}", "--set", "accumulate=2", "--set", "steps=6"]
            subprocess.run([*starter, *what], env=environment, check=True, capture_output=True)
            log = read_log(Path(f"{folder}/{processes}/language/log.csv"))
            losses[processes] = [float(row["value"]) for row in log if row["name"] == "loss"]
    worst = max(abs(a - b) for a, b in zip(losses[1], losses[2], strict=True))
    print(f"{len(losses[1])} steps: losses of one and of two processes differ by at most {worst:.2g}")

# %% [markdown]
# ## Decoding is another world
# A reply is made one token at a time. Each step reads every weight once to multiply it by one vector: two operations
# for every number read. A card can do hundreds in that time. So it waits for memory, and the limit is a division:
# bytes a second over bytes a step. The cache of keys and values is read too, once for each row.
#
# ### Exercise 8.6 - Bound by memory  (difficulty 2 of 3, 10 minutes, 10 points)
# A step reads the weights once, however many rows there are, and `cache_bytes` for each row. It makes one token for
# every row. How many tokens a second can all rows have together?


# %% tags=["exercise"]
@exercise("scale.decode_limit")
def decode_limit(weight_bytes: float, cache_bytes: float, bandwidth: float, batch: int = 1) -> float:
    """Most tokens a second of all rows together; cache_bytes: of one row; bandwidth: bytes a second."""
    # BEGIN SOLUTION
    return batch * bandwidth / (weight_bytes + batch * cache_bytes)
    # END SOLUTION


# %% [markdown]
# ### Something to touch: the roofline
# Operations a second against operations for each byte read (Williams et al. 2009). Left of the knee memory rules, right
# of it arithmetic. The dots are the decoder of the 3B thinker at several batches. Which batch reaches the knee? What
# does a long history do to it?


# %%
def roofline(card: str, length: int, bytes_a_weight: int):
    sheet, figure_axis = utilisation.CARDS[card], lab.figure()
    figure, axis = figure_axis
    x = [2.0**n for n in range(-1, 13)]
    axis.loglog(x, [utilisation.attainable(i, sheet.flops, sheet.bandwidth) / 1e12 for i in x], color="black")
    weights, row = bytes_a_weight * matrices, memory.cache_bytes(text, 1, length)
    work = flops_per_token(matrices, text.num_hidden_layers, text.num_attention_heads, text.head_dim, length) / 3
    for rows in (1, 8, 64, 512):
        intensity = rows * work / (weights + rows * row)
        possible = utilisation.attainable(intensity, sheet.flops, sheet.bandwidth)
        speed = min(decode_limit(weights, row, sheet.bandwidth, rows), sheet.flops / work)
        axis.plot([intensity], [possible / 1e12], "o", label=f"batch {rows}: {speed:,.0f} tokens/s")
    axis.set(xlabel="operations a byte", ylabel="TFLOP/s", title=f"{card}: limits, not measurements")
    axis.legend(fontsize=8)
    return figure


# %%
lab.explore(
    roofline,
    alt="Roofline of a {card} with the 3B decoder at batches 1 to 512 behind {length} tokens.",
    card=lab.Choice("H200", "H100", "A100-SXM4-80GB", "L4", "T4"),
    length=lab.Slider(128, 32768, 1024, 128),
    bytes_a_weight=lab.Choice(2, 1),
)

# %% [markdown]
# Behind 1024 tokens no batch reaches the knee of an H200: each row brings its own cache, so operations a byte stop
# growing. Behind 128 tokens some hundreds of rows do. A long history keeps decoding bound by memory, however many
# people ask.
#
# And here: nano on this machine, measured, as a share of the limit that its memory sets. Expect little: nano's products
# are so small that starting each operation takes longer than reading its weights. At 3 billion parameters reading
# rules.

# %%
thinker.eval()
# An H200 reads 256 MB in some 60 microseconds, and starting adds to them: on a card the package reads up to 4 GB.
bandwidth = utilisation.measured_bandwidth(run.device, None if on_card else run.pick(smoke=32, cpu=256))
tokens = run.pick(smoke=16, cpu=64)
for rows in run.pick(smoke=(1, 8), cpu=(1, 4, 16, 64)):
    prompt = batch(rows, 32)
    taken = utilisation.measured_seconds(lambda: thinker.generate(tokens, input_ids=prompt), run.device, 2)  # noqa: B023
    limit = utilisation.decoder_limit(nano.text_config, 32 + tokens // 2, bandwidth, rows, size=4)
    print(f"batch {rows:<2}: {rows * tokens / taken:7.0f} tokens/s, {rows * tokens / taken / limit:.0%} of the limit")

# %% [markdown]
# ## Requests of different lengths
# A server answers many people at once. Their histories have different lengths, but a GPU wants one shape. So all rows
# share a cache of fixed capacity, and each row knows how much of it is written. What lies behind is junk.
#
# ### Exercise 8.7 - Requests of different lengths  (difficulty 3 of 3, 25 minutes, 20 points)
# Attention of one new token of each row over such a cache. Row i holds places 0 to `lengths[i]` - 1. Queries are
# grouped: `heads / kv_heads` neighbouring query heads share a key head. Scores are divided by the root of `head_dim`.
# `lengths` is int64, each from 1 to the capacity. Write it without a loop over rows.


# %% tags=["exercise"]
@exercise("scale.ragged_attention")
def ragged_attention(query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor) -> Tensor:
    """(batch, heads, head_dim), (batch, kv_heads, capacity, head_dim) twice, (batch,) -> (batch, heads, head_dim)."""
    # BEGIN SOLUTION
    batch, heads, head_dim = query.shape
    kv_heads, capacity = keys.shape[1:3]
    query = query.view(batch, kv_heads, heads // kv_heads, head_dim)
    scores = query @ keys.transpose(2, 3) / math.sqrt(head_dim)  # (batch, kv_heads, group, capacity)
    written = torch.arange(capacity, device=lengths.device) < lengths[:, None]  # (batch, capacity)
    scores = scores.masked_fill(~written[:, None, None], -math.inf)
    return (scores.softmax(dim=-1) @ values).reshape(batch, heads, head_dim)
    # END SOLUTION


# %% [markdown]
# Yours against each row alone. What is written behind a row's end must not matter, be it as loud as it likes.

# %%
if ragged_attention:
    lengths_here = torch.tensor([3, 17, 9, 32])
    query, keys, values = torch.randn(4, 8, 16), torch.randn(4, 2, 32, 16), torch.randn(4, 2, 32, 16)
    together = ragged_attention(query, keys, values, lengths_here)
    for i, n in enumerate(lengths_here.tolist()):
        keys[i, :, n:], values[i, :, n:] = 1e4, 1e4
        one = [t[i : i + 1, :, :n] for t in (keys, values)]
        alone = F.scaled_dot_product_attention(query[i : i + 1, :, None], *one, enable_gqa=True)[:, :, 0]
        print(f"row of {n:>2}: differs from the row alone by {float((together[i] - alone[0]).abs().max()):.1e}")
    after = ragged_attention(query, keys, values, lengths_here)
    print("junk behind the ends changes", float((after - together).abs().max()))

# %% [markdown]
# ## Eight bits
# Decoding waits for bytes, so fewer bytes are faster. A weight of 8 bits is an integer from -127 to 127 times a scale;
# each row of a matrix has its own scale, because rows differ in size.
#
# ### Exercise 8.8 - Eight bits a weight  (difficulty 2 of 3, 12 minutes, 10 points)
# The largest weight of a row, by size, becomes 127 or -127. Round to the nearest. A row of zeros has scale 0 and stays
# zeros. Scales have the weight's dtype.


# %% tags=["exercise"]
@exercise("scale.quantise_rows")
def quantise_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, columns) -> int8 of the same shape, and (rows,) scales, with weight about integers * scales[:, None]."""
    # BEGIN SOLUTION
    scale = weight.abs().amax(dim=1) / 127
    whole = weight / torch.where(scale > 0, scale, 1.0)[:, None]
    return whole.round().to(torch.int8), scale
    # END SOLUTION


# %% [markdown]
# What does it do to a model? All matrices of nano's decoder go through your function and back. Compare the errors of
# the logits with one scale a row, and with one scale for a whole matrix.


# %%
@torch.no_grad()
def rounded(per_row: bool) -> tuple[Tensor, int]:
    """Logits of a copy of the thinker with 8-bit matrices, and the bytes of those matrices."""
    copy, size = Thinker(nano).to(run.device).eval(), 0
    copy.load_state_dict(thinker.state_dict())
    for name, weight in copy.model.layers.named_parameters():
        if name.endswith("_proj.weight"):
            whole, scale = quantise_rows(weight if per_row else weight.reshape(1, -1))
            size += whole.numel() + 4 * scale.numel()
            weight.copy_((whole * scale[:, None]).view_as(weight))
    return copy(input_ids=prompt).logits, size


if quantise_rows:
    prompt = batch(2, 64)
    with torch.no_grad():
        exact = thinker(input_ids=prompt).logits
    for title, per_row in (("one scale a row", True), ("one scale a matrix", False)):
        logits, size = rounded(per_row)
        error = float((logits - exact).norm() / exact.norm())
        same = float((logits.argmax(-1) == exact.argmax(-1)).float().mean())
        print(f"{title:<18}: {size / 1e6:.2f} MB, logits off by {error:.2%}, most likely token kept {same:.1%}")

# %% [markdown]
# These are random weights. Trained ones have outliers, which is why a scale for each row matters more there.
#
# ## A checkpoint of the published layout
# Released weights come in shards with an index. Ours are written the same way, so that `transformers`, and engines that
# read its layout, load them. Here a model with random weights goes to disk in several shards and comes back
# memory-mapped: a tensor costs memory once it is touched.

# %%
config = replace(preset("nano"), enable_audio_output=False)
model = OmniModel(config).eval()
scratch = tempfile.TemporaryDirectory()
folder = Path(scratch.name) / "checkpoint"
model.save_pretrained(folder, 8 << 20)
for path in sorted(folder.glob("*")):
    print(f"{path.name:<40} {path.stat().st_size / 1e6:7.2f} MB")
began = time.perf_counter()
again = OmniModel.from_pretrained(folder, "cpu")
print(f"loaded in {time.perf_counter() - began:.2f} s")

# %% [markdown]
# The same folder with the matrices of its decoder layers in 8 and in 4 bits, by a library: `torchao` quantises each as
# it is read, so the layers are never there in full. Embeddings, head and encoders stay as they are. 8 bits are one
# scale a row, as yours above. 4 bits are sixteen levels, placed where a normal distribution has its weights (NF4;
# Dettmers et al. 2023, section 3). Predict both errors before you look.

# %%
prompt = batch(2, 64).cpu()
full = OmniModel.from_pretrained(folder, "cpu").thinker
for kind in ("int8", "nf4"):
    try:
        small = OmniModel.from_pretrained(folder, "cpu", quantise=kind).thinker
    except OmniLabError as error:
        print(error)
        continue
    with torch.no_grad():
        exact, rough = full(input_ids=prompt).logits, small(input_ids=prompt).logits
    error = float((rough - exact).norm() / exact.norm())
    same = float((rough.argmax(-1) == exact.argmax(-1)).float().mean())
    print(f"{kind}: logits off by {error:.2%}, most likely token kept {same:.1%}")

# %% [markdown]
# What does a damaged folder say? A shard is taken away; another is cut off in the middle, as by a full disk.

# %%
shards = sorted(folder.glob("*.safetensors"))
whole = shards[0].read_bytes()
for damage in ("half a shard", "no shard"):
    if damage == "half a shard":
        shards[0].write_bytes(whole[: len(whole) // 2])
    else:
        shards[0].unlink()
    try:
        OmniModel.from_pretrained(folder, "cpu")
    except OmniLabError as error:
        print(f"{damage}: {str(error).replace(scratch.name, '')}\n")
_ = shards[0].write_bytes(whole)

# %% [markdown]
# The same folder, read by the reference. `transformers` makes its own model of it; the logits agree. In your own shell:
# `omni-lab export CHECKPOINT FOLDER --dtype bfloat16` writes any checkpoint so, and `vllm serve FOLDER` or
# `transformers serve` then put it behind a port.

# %%
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()  # nano's text ids lie beyond its talker's table, as they should
theirs = transformers.Qwen2_5OmniForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
prompt = torch.randint(0, 2000, (1, 24))
with torch.no_grad():
    ours = again.thinker(input_ids=prompt).logits
    reference = theirs.thinker(input_ids=prompt).logits
print("largest difference of logits:", f"{float((ours - reference).abs().max() / reference.abs().max()):.1e}")

# %% [markdown]
# ## The real one
# Set `CHECKPOINT` in the parameters cell to "Qwen/Qwen2.5-Omni-3B" on a machine with a GPU and a network. In 16 bits
# the weights need 2 bytes each; the rule below says what that comes to. Talker, encoders and vocoder come on top. If
# all of it does not fit, loading says so before it begins, and what would fit: on a T4, set `QUANTISE` to "int8" for
# the 3B model, and to "nf4" for the 7B.

# %%
for name in ("qwen2_5_omni_3b", "qwen2_5_omni_7b"):
    part = preset(name).thinker_config.text_config
    size = 2 * memory.decoder_parameters(part) / 1e9
    print(f"{name}: {size:.1f} GB for the thinker's decoder in 16 bits,", end=" ")
    print(f"{memory.cache_bytes(part, 1, 32768) / 1e9:.2f} GB for a cache of 32,768 tokens")
if CHECKPOINT:
    real = OmniModel.from_pretrained(CHECKPOINT, device=run.device, dtype=run.here.dtype, quantise=QUANTISE or None)
    reply = real.generate(text="Write one sentence for Mother's Day.", speak=False)
    print(reply.text)

# %% [markdown]
# How fast is that shape on a real card? `omni-lab bench gpu_session` loads it with random weights, trains it and
# decodes, beside `transformers` in the same process, measures memory against the count, and keeps its tables. It ends
# within ten minutes; called again, it does what is left. Its tables stand below, once it has run on a GPU.

# %%
recorded("gpu_session")

# %% [markdown]
# ## Measured as everybody measures
# `omni-lab eval` asks the mini suite. For a figure that can stand beside others, ask the sets that others ask:
#
# | set | measure | Qwen2.5-Omni-7B in the report |
# |---|---|---|
# | LibriSpeech test-clean, test-other | word error rate of all words | 1.8 %, 3.4 % |
# | seed-tts-eval en, zh | word error rate, mean of utterances | 2.33 %, 1.42 % |
# | seed-tts-eval en, zh | similarity to the prompt's voice | 0.641, 0.754 |
#
# `omni_lab.evaluate.published` reads these sets, and OmniBench, as they are published, and scores them. Both measures
# of speech depend on who listens, so the recogniser and the judge of voices are arguments. `evaluate.backends` puts the
# same question to a hub model or to a server, and `evaluate.harness` puts ours into `lm-eval`. The counts agree,
# item by item. They were recorded on an earlier nano checkpoint: look at the agreement, not at the score.

# %%
recorded("lm_eval_harness")

# %% [markdown]
# Set `LIBRISPEECH` above to a folder of `test-clean`, and the shipped model is scored on its first sentences. Without
# it the cell writes a few of the recorded prompts in the same layout, and reads those. Nano heard one real person in
# training, and a few hundred words. What will it make of a novel? (More than 1 is possible: it may write too much.)

# %%
corpus = Path(LIBRISPEECH) if LIBRISPEECH else Path(scratch.name) / "test-clean"
if not LIBRISPEECH:
    chapter = corpus / "1" / "1"
    chapter.mkdir(parents=True)
    prompts = recordings.prompts("test")[: run.pick(smoke=2, cpu=20)]
    for number, prompt in enumerate(prompts):
        soundfile.write(chapter / f"1-1-{number:04d}.flac", prompt.wave, recordings.RATE)
    lines = [f"1-1-{number:04d} {prompt.text.upper()}\n" for number, prompt in enumerate(prompts)]
    (chapter / "1-1.trans.txt").write_text("".join(lines))
nano_whole, trained = nano_model("cpu")
of_set = list(islice(readers.librispeech(corpus), run.pick(smoke=2, cpu=20, t4=200)))
replies = asking.ask(nano_whole, of_set)
for sample, reply in list(zip(of_set, replies, strict=True))[:3]:
    print(f"said:  {sample.answer}\nheard: {reply}")
outcome = published.score_librispeech(of_set, replies)
print(f"{outcome.metric} {outcome.value:.2f} on {outcome.n} sentences", "" if trained else "(of random weights)")

# %% [markdown]
# Scoring has traps of its own. A model says more than a letter. Which option does each reply mean? Guess first.

# %% tags=["nbval-check-output"]
options = ["a dog", "a red bus", "two birds", "a bell"]
replies = ["B", "(C) two birds", "The answer is A.", "A dog barks at two birds.", "It is a red bus!", "A dog, I think"]
for reply in replies:
    print(f"{reply:<26} -> {published.chosen_letter(reply, options) or 'none, or several'}")

# %% [markdown]
# ### The mini suite, and the page
# The suite has a task for every family that the report measures, on the nano world's held-out items. `omni-lab eval`
# runs all of it. Here are a few tasks on a few items, so the figures are coarse: with n items one item is 1/n. For
# `text_qa`, chance is what the commonest answer of these very items would get: with two items it says nothing.
#
# The page sets models side by side. The last columns are the report's, on public sets: a different task, named beside
# it. Outwards is better in the radar plot.

# %%
print("weights:", "the shipped checkpoint's" if trained else "random: expect chance, and below")
names = ("text_qa", "sound_events", "picture_qa", "ocr", "science_choice", "video_order")
items = run.pick(smoke=2, cpu=20)
results = suite.run(nano_whole, names, items=items)
sheet = suite.document("nano, here", results, run.seed)
print(page.table([sheet]))

# %%
lab.show(page.radar([sheet]), alt="Six tasks as spokes, 0 in the middle to 1: nano's line, and the 7B model's dots.")

# %% [markdown]
# ### Thinking costs tokens. Is it worth them?
# Nano's sums of three numbers are taught with their steps between `<think>` tags. The sampler can hold a model to a
# budget: once it is spent, every token but `</think>` gets a probability of zero, and the answer must come from what is
# there. Predict the curve. With no thought at all, what is left?

# %%
budgets = run.pick(smoke=(0, 8), cpu=(0, 2, 4, 8, 12, 16, 24))
points = thinking.curve(nano_whole, budgets, items=run.pick(smoke=2, cpu=40), seed=run.seed)
figure, axis = lab.figure(height=2.8)
axis.plot([p["budget"] for p in points], [100 * p["accuracy"] for p in points], marker="o")
axis.set(xlabel="thinking tokens allowed", ylabel="sums right (%)", ylim=(-3, 103))
lab.show(figure, alt="Accuracy on sums of three numbers against the number of thinking tokens that the sampler allows.")
for p in points:
    print(f"budget {p['budget']:>2}: {p['accuracy']:.0%} right, {p['thought']:.1f} tokens thought")
if not trained:
    print("These weights are random: they neither think nor add. The curve is worth a look once nano is trained.")
if run.scale == "smoke":
    recorded("thinking_budget")

# %% [markdown]
# Read the recorded curve beside two lines: what the commonest answer would get, and what the model gets that does not
# think (budget 0). A thought that is cut short helps little, or harms: only where a budget holds most of a thought can
# it pay. With 40 items one sum is 2.5 %.
#
# ## The report beside you
# | | report | here |
# |---|---|---|
# | longest rows | 32,768 tokens (section 3) | what your plan above said |
# | tokens seen | image and video 800 B, audio 300 B, video with sound 100 B (section 3) | how long: see below |
#
# How long would the report's second stage take you, for the 3B model's decoder alone? Predict before you look.

# %%
seen = 1.2e12  # tokens: the sum of the row above
for name, cards, share in (("T4", 1, 0.3), ("H100", 8, 0.4), ("H100", 1024, 0.4)):
    speed = share * cards * utilisation.CARDS[name].flops / utilisation.decoder_flops(text, 8192)
    print(f"{cards:>4} x {name:<4} at an assumed MFU of {share:.0%}: {seen / speed / 86400:,.1f} days")

# %% [markdown]
# ## What you have built
# The arithmetic of a large run: what it holds, what it computes, what it waits for. What could be measured here was
# counted first. Start the run itself with `launch/one_gpu.sh`; it says where it stands, and it resumes.

# %%
lab.key_figure("activations: kept over counted", table[-1][1] / table[-1][2])
lab.summary()
