"""Learning curves of a run as small pictures, and a table of what each recipe took: docs/training.md.

    python -m benchmarks.learning_curves RUN_FOLDER [--hardware TEXT] [--add]

Reads the run's own logs (RECIPE/log.csv), so nothing here is typed in. With --add the page keeps the sittings that it
holds, whose logs need not be there any more, and a recipe's earlier one gets a number. The grey line is the loss of
single reports, the dark one their running mean; dots are figures on held-out data.
"""

import argparse
import re
import shlex
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from omni_lab.data.emoji_build import write_atomic
from omni_lab.runtime import hardware
from omni_lab.train.checkpoints import read_state, saved_steps
from omni_lab.train.log import read_log
from omni_lab.train.recipes import ALL, find

SITTINGS = """
What ends in `_1`, `_2` is an earlier sitting of the same recipe, from which the next began (`start`). After `dit_2`
and `talker_1` the speech tokenizer was replaced; the embeddings of the new codes began as means of the old ones,
weighted by how often both stood at the same place of the same sound. The sentences of the first three talkers were of
the grammar alone; since then two in five are of words in no order (`speech_bank.UNGUESSABLE`), because a talker that
can guess puts other nouns in a noun's place. Before `talker_5` the thinker was balanced (`train/balance.py`);
`talker_7` also points at the word that comes next (`train/reading.py`); `talker_6` was cut short to begin that.
`talker_8` began anew, with codes as loud as words (`Talker.initialise`) and at three times the learning rate; from
its step 1,044 on it misheard a quarter of its own codes (`reading.misheard`). `talker_9` is the same one, used to the
last thinker, and `talker_10` has gone on from there. Up to `bigvgan_4` the mels by the DiT on which the vocoder
learned began with twice the noise that replies begin with: since then with as much. Up to `dit_4` most codes were
those of the voice to be made; since then in 85 and 90 % of the batches every speaker has the source voice's codes
(`lent`), as replies have. How much of what these sittings gained is theirs and how much that of more steps was not
measured apart. Which of their weights to keep was decided by test sentences: see the README. Up to `talker_dpo_2`
attempts were drawn hotter than replies are, and with a penalty on repetition that those do without.
`bigvgan_7` has another shape than those before it: four stages in place of six (`benchmarks/results/lost_words.md`).
Its first two stages began as those of `bigvgan_6`, the others anew; the first four minutes (some 390 steps) have left
no log, and it was stopped at step 7,434 of 9,000. `bigvgan_8` has gone on from there with its weights rounded to
bfloat16 in every forward pass (`rounded`), as the checkpoint holds them: rounded afterwards they cost words. The mels
that it was shown are those of `dit_6`; `dit_7` was trained beside it.
`seeing_2` came after `thinker_2_2` here, and `thinker_2_3` went on from it. Before `thinker_2_4` its balance was undone
(the residual stream divided by four), so that one learning rate suited all matrices again.
The thinker that ships came to see by what follows, each sitting going on from the one before. `seeing_3`, `seeing_4`
and `seeing_5` taught the vision encoder, the last with half the sharpness (`naming.SHARPNESS`); `thinker_2_5` taught
the decoder alone meanwhile. From `thinker_2_8` on the vision encoder and the embeddings stay as they are (`frozen`),
and a sum's thought ends with the step. From `thinker_2_12` on attention is told where to look (`train/looking.py`);
before `thinker_2_13` the audio encoder of `hearing` took the place of the decoder's own. `thinker_2_6`, `_7`, `_9`,
`_10`, `_13`, `_14`, `_18`, `_21` to `_23` and the last are each one of two runs side by side, one a core, whose weights
and moments were averaged every 20 steps, and so are `talker_14` and `_15`; `_8`, `_11` to `_13`, `_15` to `_17` and
`_19` were cut short. `thinker_2_15` to `_17` taught the decoder alone, while the audio encoder learned by itself
(`hearing_3`) and the vision encoder saw larger letters (`seeing`); `thinker_2_18` joined the three. `thinker_2_19`
taught the decoder alone once more, while `hearing_4` heard music, prompts' words by other voices and, from its step
2,260 on, microphones (before with `prompts=0.12`, `music=0.25`); `thinker_2_20` joined it and `seeing`, which had gone
on from its step 3,600 with larger letters on sheets, too. Then `seeing` went on from its step 5,500, and `hearing`
from `hearing_4`: up to its step 2,493 with `recorded=0.15`, `questions=0.08`, `prompts=0.4`, `music=0.2`; to 3,740
with 0.1, 0.05, 0.3 and 0.45; to 4,884 with 0.15, 0.05, 0.55 and 0.12, from 4,507 on of prompts as slow as the recorded
person; to 6,285 with 0.08, 0.05, 0.62 and 0.12, mostly by made-up voices; then as the command says, of words cut out
of the recordings. But for the steps 1,154 to 3,740 it is one of two runs side by side. `thinker_2_21`, of two again,
joined the two. `hearing_5` then went on to its step 9,148, and from there, in another sitting, for 12,051 steps more
of two runs side by side: half of what they heard were clips of which every phoneme's time is known (`timed`, a tenth
of a second late until step 1,532, which a test found), a third and later two fifths the recorded person, who from step
8,697 on says words put together from pieces of other words, too (`data/unit_selection.py`). The logs of both stretches
are lost. The last `hearing`, of two runs, began with their averaged weights in 16 bits; at its step 1,160 its schedule
was shortened to 4,500 steps, from 7,000. Of 120 of the test's recorded prompts its CTC has 0.371 of the word tokens
wrong (0.446 before it), and 0.205 when the source voice reads them (0.289).

`thinker_2_22` began with those ears and the decoder that shipped before, its balance undone; at step 140 its schedule
was shortened to 1,300 steps, from 1,700. In the suite it got 0.757 of the recorded person's words wrong, and it was the
decoder's doing: of 100 items it had 0.837 wrong where CTC's own words, picked greedily from the same ears, had 0.665.
Even of words in no order by the source voice it had 0.44 wrong, CTC 0.14: sentences that can be guessed had taught it
to guess. So `thinker_2_23` and the last taught the decoder alone to write down what cannot be guessed (`source`, of
which two sentences in five are in no order, and `looking`): after the first of them words in no order were 0.22 wrong.

Before `dit_8` and `talker_15` the speech tokenizer was replaced again: its codes are told apart by discriminants of
phonemes (`train/discriminants.py`). Before, a run of 2,700 steps more from `dit_7`, not in the table, had brought
nothing: of the words of 120 sentences of training's side 0.068 were lost after it, 0.067 before. What the codes do not
keep no DiT can say. The tables of the new codes began as means of the old ones' once more. `dit_8` and `dit_9` are one
of two runs side by side. Talkers from `_11` to `_14` knew 2,000 sentences, and what they gained on those they lost on
others (held out: 1.36 nats after `talker_8`, 1.66 after `talker_14`); `talker_15` knows 8,000. The attempts of
`talker_dpo_6` and `_7` were made by two processes.

`dit_10` learned 7,000 steps more, and `dit_11` 3,600 more, of which 85 % were of the source voice alone (`source`): of
the words of 240 sentences of training's side 0.048 were lost after the first and 0.045 after the second, no difference
beyond chance. More steps of the solver, other noise and other guidance made none either. A network that sees 0.3 s to
both sides tells 94.8 % of the phonemes by the codes and 96.2 % by the mel: it is the codes that lack them. `bigvgan`
learned on mels by `dit_10`, beside which `talker` was trained. Before the last `talker_dpo` pairs were the best and
the worst of hot attempts. Its pairs are what the talker does say, where that is wrong, and a better one (234 of 723
sentences, of which those with pauses were left out from the 78th on). It is one of four that were compared on 120 hard
sentences of training's side: of 1,277 words 193 were wrong before, 169, 172, 189 and 198 after.

Before `dit_12` and the last `talker` the codes of the last tokenizer but one learned on through a reader
(`train/code_reader.py`; `start`): of a sentence's codes 38 % stayed the same. Tables began as means once more, and so
the DiT said new codes as well as the old ones before any step of its own. `dit_12` was stopped at its step 450 and
went on with a schedule of 1,650 steps, of 2,600; of its minutes it stood still for nine. The ears with which all
figures above were counted said one sentence of a hundred twice, as ten words wrong (windows of 10 s where Whisper
learned with 30, `evaluate/ears.py`). The last `talker_dpo` was not trained again: what it had changed in the talker
before was added to the last `talker`.

The last `dit` has learned words, too (`words`): `mel_reader` reads phonemes off the mel at which a velocity points. Of
180 more sentences of training's side (1,458 words) the ears had 22 words wrong in the source voice, 24 as the vocoder
makes them from its mels, 45 as the DiT made them from its codes before, and 37 now. Off the mels of 40 others the
reader read 95.7 % of the phonemes when they are real, 94.3 % when the DiT before made them, 94.7 % now; other noise,
guidance or more steps of the solver gave nothing. It began with one process, 12 crops a step and without words; from
its step 722 on there were two, 24 crops a step, and words at a weight of 0.3, from step 1,136 on of 1. The loss that is
drawn holds both. 1,850 steps more from there, with words at a weight of 2, left 32 of those 1,458 words wrong, but 39
of the 1,598 of the suite's sentences, where the `dit` that ships has 37: no difference that could be told from chance,
and they do not ship. In both the reader was also shown what the DiT makes behind a clip's end, which teaches nothing;
since then it sees zeros there. Off the mels at which velocities point from the line to the real mel the reader misses
0.160 nats a frame with the `dit` that ships, off its own mels, where no real one helps it on, 0.219, off real ones
0.141. So words were then learned off own mels, too (`own`): 830 steps from the `dit` that was not shipped, in two
schedules, brought 0.179, and what a reply samples from 0.191 to 0.166. Whisper's own loss on the words of 240 sentences
of training's side fell from 1.42 to 1.37 nats a sentence (by 0.05, standard error 0.03; of 120 of them 1.54, 1.47, and
1.14 in the source voice), but of their words 47 were wrong, and 45 with the `dit` that ships. 1,300 steps more, with
words at a weight of 3 and `own` of 0.75, brought 37 and 1.31 nats (0.11 less than what ships, standard error 0.04). Nor
do these ship: their weights are lost. So it was done again, 1,000 steps from the `dit` that ships, off own mels from
the first (`words=3.0`, `own=0.75`, `ema=0.995`, `learning_rate=5e-4`, `accumulate=2`, two processes, 56 minutes beside
other work; held out: loss 0.460, sampled mel error 0.650). Of the words of 180 sentences of training's side (1,440) 23
were then wrong, and 32 with the `dit` that ships, and Whisper's loss was 1.34 and 1.44 nats (0.10 less, standard error
0.03). Of the suite's 1,598 words, though, 41 were wrong where the `dit` that ships has 37, words said aloud were as
wrong as before (0.027), and hard sentences 0.143 after DPO (0.148) and 0.158 before it (0.160): what Whisper finds
easier to believe it does not write down more often. It does not ship.

`omni-lab train all` needs none of these sittings: they were for want of time on two cores. The first sitting of CLIP,
920 steps, has left no log."""
DOCS = Path(__file__).parents[1] / "docs"


def series(rows: list[dict], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one quantity in a log."""
    found = [(row["step"], float(row["value"])) for row in rows if row["name"] == name]
    steps, values = np.array(found, dtype=float).reshape(-1, 2).T
    return steps, values


def draw(rows: list[dict], title: str, out: Path) -> str:
    """One recipe's picture; returns its text alternative."""
    loss = next(name for name in ("loss", "vocoder loss") if any(row["name"] == name for row in rows))
    held = sorted({row["name"] for row in rows if row["name"].startswith("held-out")})
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.4), constrained_layout=True)
    steps, values = series(rows, loss)
    width = max(1, len(values) // 25)
    mean = np.convolve(values, np.ones(width) / width, "valid")
    left.plot(steps, values, color="0.75", linewidth=0.8)
    left.plot(steps[width - 1 :], mean, color="tab:blue")
    left.set(title=f"{title}: {loss}", xlabel="step")
    # The first reports are far above the rest and would flatten what follows.
    left.set_ylim(values.min() - 0.02 * np.ptp(values), np.quantile(values, 0.97) * 1.05 + 1e-6)
    for name in held:
        few = len(held) <= 4  # more names than that leave no room for the lines
        colour = {} if few else {"color": "0.75"}
        right.plot(*series(rows, name), "o-", markersize=3, label=name.removeprefix("held-out ")[:24], **colour)
    if held:
        right.set(title="held out" if few else f"held out: {len(held)} tasks", xlabel="step")
        if few:
            right.legend(fontsize=6)
    else:
        right.axis("off")
    figure.savefig(out, dpi=80)
    plt.close(figure)
    few_colours(out)
    ends = [f"{name} {series(rows, name)[1][0]:.3g} to {series(rows, name)[1][-1]:.3g}" for name in held]
    return f"{title}: {loss} from {values[0]:.3g} to {mean[-1]:.3g} in {int(steps[-1])} steps; " + "; ".join(ends)


def few_colours(path: Path) -> None:
    """A third of the bytes: lines and letters need no more than 48 colours."""
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(48, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def command(run: Path, name: str) -> str:
    """The command that this recipe ran by: its settings, where they differ from the scale's."""
    steps = saved_steps(run / name)
    if not steps:
        return ""
    state = read_state(run / name, steps[-1])
    usual = find(state["recipe"]).scales["cpu"].as_dict()
    changed = [setting(key, value) for key, value in state["settings"].items() if usual.get(key) != value]
    return f"`omni-lab train {state['recipe']} --scale cpu{''.join(changed)}`"


def setting(name: str, value: object) -> str:
    """One setting as the command line takes it, quoted for the shell and, where it holds a `|`, for a table's cell."""
    told = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return f" --set {shlex.quote(f'{name}={told}')}".replace("|", "\\|")


def told(page: str) -> tuple[dict[str, str], dict[str, str]]:
    """Table rows and pictures of a page, by their names."""
    rows = re.findall(r"^\| (\w+) \| \d.*\|$", page, re.MULTILINE)
    lines = {name: re.search(rf"^\| {name} \| \d.*\|$", page, re.MULTILINE) for name in rows}
    pictures = {name: re.search(rf"^!\[.*\]\(training/{name}\.png\)$", page, re.MULTILINE) for name in rows}
    return ({n: m[0] for n, m in lines.items() if m}, {n: m[0] + "\n" for n, m in pictures.items() if m})


def put_aside(name: str, rows: dict[str, str], pictures: dict[str, str], folder: Path) -> None:
    """Give the sitting that is called by its recipe's name the next number, in place."""
    number = next(n for n in range(1, 100) if f"{name}_{n}" not in rows)
    other = f"{name}_{number}"
    rows[other] = rows.pop(name).replace(f"| {name} |", f"| {other} |", 1)
    if name in pictures:
        (folder / f"{name}.png").rename(folder / f"{other}.png")
        picture = pictures.pop(name).replace(f"![{name}:", f"![{other}:", 1)
        pictures[other] = picture.replace(f"training/{name}.png", f"training/{other}.png")


def entry(run: Path, name: str, folder: Path) -> tuple[str, str]:
    """(table row, picture) of a sitting, from its log."""
    rows = read_log(run / name / "log.csv")
    seconds = max(float(row["seconds"]) for row in rows)
    text = draw(rows, name, folder / f"{name}.png")
    last = [
        f"{row['name'].removeprefix('held-out ')} {float(row['value']):.3g}"
        for row in rows
        if row["name"].startswith("held-out") and row["step"] == rows[-1]["step"]
    ]
    last = last if len(last) <= 9 else [f"{len(last)} tasks, see its curve below"]
    cells = (name, rows[-1]["step"], f"{seconds / 60:.1f}", ", ".join(last), command(run, name))
    return "| " + " | ".join(map(str, cells)) + " |", f"![{text}](training/{name}.png)\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--hardware", default=hardware().name, help="what the run ran on")
    parser.add_argument("--add", action="store_true", help="keep the sittings that the page holds")
    given = parser.parse_args()
    # `dit_1`, `dit_2` are earlier sittings of `dit`, put aside by hand: told just before it.
    every = [name for recipe in ("clip", *ALL) for name in (*(f"{recipe}_{n}" for n in range(1, 40)), recipe)]
    every = sorted(set(every), key=every.index)  # `thinker_1` is a recipe, too
    folder, page = DOCS / "training", DOCS / "training.md"
    folder.mkdir(parents=True, exist_ok=True)
    table, pictures = told(page.read_text()) if given.add else ({}, {})
    for name in [name for name in every if read_log(given.run / name / "log.csv")]:
        if name in table:
            put_aside(name, table, pictures, folder)
        table[name], pictures[name] = entry(given.run, name, folder)
    lines = [
        "# How the shipped checkpoint was trained",
        "",
        f"`python -m benchmarks.learning_curves`, from the logs of its run on {given.hardware}.",
        SITTINGS,
        "",
        "| recipe | steps | minutes | held out, at the end | command |",
        "|---|---|---|---|---|",
        *(table[name] for name in every if name in table),
        "",
        *(pictures[name] for name in every if name in pictures),
    ]
    write_atomic(page, "\n".join(lines).encode())
    print("\n".join(lines[:-1]))


if __name__ == "__main__":
    main()
