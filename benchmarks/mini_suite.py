"""The shipped checkpoint on the mini suite: benchmarks/results/mini_suite.md, and the table in the README.

    omni-lab eval --json benchmarks/results/mini_suite.json
    omni-lab eval --seed 1 --tasks speech_wer,resynthesis_wer_ratio,speaker_similarity \\
        --json benchmarks/results/mini_suite_seed1.json
    python -m benchmarks.mini_suite

The second measures speech on sentences of another seed, by which no weights were chosen. The last command only writes
down what the others have measured, beside the floor and the goal that the course set
itself before anything was trained.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni_lab.data.emoji_build import write_atomic
from omni_lab.evaluate import page

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MARKS = "(?<=<!-- {0} -->\n).*(?=<!-- {0} -->)"  # between two such lines of the README
Tasks = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Bar:
    """One line of the table: a measured value, what it must at least be, and what is hoped for."""

    about: str
    task: str
    floor: float
    goal: float
    lower: bool = False  # whether less is better
    needs: str = ""  # a bar that must be met for this one to say anything

    def value(self, tasks: Tasks) -> float | None:
        return tasks[self.task]["value"] if self.task in tasks else None

    def verdict(self, tasks: Tasks) -> str:
        value = self.value(tasks)
        if value is None:
            return "not measured"
        for bar in BARS:
            if bar.task == self.needs and bar.verdict(tasks) not in ("goal", "floor"):
                return "says nothing yet"
        reached = [(value <= bar) if self.lower else (value >= bar) for bar in (self.floor, self.goal)]
        return "goal" if all(reached) else "floor" if reached[0] else "below the floor"


BARS = (
    Bar("picture questions, new scenes, styles trained on", "picture_qa", 0.80, 0.98),
    Bar("the same in a style never trained on", "picture_qa_unseen_style", 0.45, 0.85),
    Bar("picture arithmetic", "picture_arithmetic", 0.80, 0.98),
    Bar("reading a word in a picture, exact", "ocr", 0.60, 0.95),
    Bar("grounding, IoU of 0.5 or more", "grounding", 0.50, 0.85),
    Bar("ASR, training voice, new sentences: WER", "asr", 0.15, 0.03, True),
    Bar("ASR, a real person, held-out prompts: WER", "asr_recorded", 0.60, 0.25, True),
    Bar("sound events", "sound_events", 0.70, 0.95),
    Bar("music: key, metre, tempo within 4 %", "music", 0.60, 0.90),
    Bar("spoken question against the same typed", "spoken_vs_typed", 0.75, 0.98),
    Bar("what moved when the bell rang", "av_synchrony", 0.60, 0.95),
    Bar("the same with TMRoPE's time axis removed", "av_synchrony_no_time_axis", 0.40, 0.27, True, "av_synchrony"),
    Bar("who said what, both right", "who_said_what", 0.40, 0.85),
    Bar("speech out: WER by an independent recogniser", "speech_wer", 0.20, 0.04, True),
    Bar("resynthesis: WER against the source's own", "resynthesis_wer_ratio", 1.5, 1.1, True),
    Bar("DPO: WER after against before, hard sentences", "dpo_wer_ratio", 1.0, 0.75, True),
    Bar("enrolled speaker nearest to itself: pairs", "speaker_similarity", 0.80, 0.98),
)


def table(tasks: Tasks, bars: Sequence[Bar]) -> str:
    """Markdown rows: what, measured, items, chance, floor, goal, reached."""
    lines = ["| task | measured | items | chance | floor | goal | reached |", "|---|---|---|---|---|---|---|"]
    for bar in bars:
        value = bar.value(tasks)
        shown = "" if value is None else f"{value:.3f}"
        count, chance = (tasks[bar.task]["n"], f"{tasks[bar.task]['chance']:.3f}") if bar.task in tasks else ("", "")
        limits = f"{'at most ' if bar.lower else ''}{bar.floor:g} | {bar.goal:g}"
        lines.append(f"| {bar.about} | {shown} | {count} | {chance} | {limits} | {bar.verdict(tasks)} |")
    return "\n".join(lines)


def main() -> None:
    document, fresh = (page.read(RESULTS / f"mini_suite{which}.json") for which in ("", "_seed1"))
    text = table(document["tasks"], BARS)
    again = table(fresh["tasks"], [bar for bar in BARS if bar.task in fresh["tasks"]])
    if fresh["weights"] != document["weights"]:
        again = f"Measured on the checkpoint before (weights {fresh['weights']}), not on this one:\n\n{again}"
    whole = f"{page.page([document])}\n## Against the course's own bars\n\n{text}\n"
    whole += f"\n## Speech again, seed {fresh['seed']}: sentences by which no weights were chosen\n\n{again}\n"
    write_atomic(RESULTS / "mini_suite.md", whole.encode())
    readme = (ROOT / "README.md").read_text()
    for name, rows in (("suite", text), ("fresh", again)):
        readme = re.sub(MARKS.format(name), lambda _, rows=rows: f"{rows}\n", readme, flags=re.DOTALL)
    write_atomic(ROOT / "README.md", readme.encode())
    print(text, again, sep="\n\n")


if __name__ == "__main__":
    main()
