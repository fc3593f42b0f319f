"""`omni-lab data`: make `data_samples/` again, check it, show what the world holds."""

import itertools
import time
from pathlib import Path
from typing import Annotated

import typer

from ..errors import DataError
from . import build, build_media, emoji, readers, recordings, scenes, sounds, speech, world
from .folders import build_folder, samples_folder
from .sample import HEARING_RATE, SPEAKING_RATE

app = typer.Typer(help="Make, check and show the data that the labs and the training use.")
PARTS = ("emoji", "recordings", "sounds", "speech", "video")


@app.command("build")
def build_parts(
    parts: Annotated[list[str] | None, typer.Argument(help=f"any of: {', '.join(PARTS)}; default: all")] = None,
    out: Annotated[Path | None, typer.Option(help="folder to write to; default: data_samples")] = None,
) -> None:
    """Make the shipped data again from its sources (npm, apt-get and the synthesiser)."""
    chosen = list(parts or PARTS)
    for part in chosen:
        if part not in PARTS:
            raise DataError(f"unknown part {part!r}: choose from {', '.join(PARTS)}")
    root, work = out or samples_folder(), build_folder() / "sources"
    for part in chosen:
        began = time.perf_counter()
        print(f"{part} ...", flush=True)
        print(f"{part}: {build_part(part, root, work)} in {time.perf_counter() - began:.0f} s")


def build_part(part: str, root: Path, work: Path) -> str:
    """Make one part; returns what was made, in words."""
    if part == "emoji":
        from . import emoji_build

        emoji_build.build(root / "emoji", build_folder() / "emoji-packages")
        return f"{len(emoji.load(root / 'emoji'))} concepts"
    if part == "recordings":
        return f"{build.build_recordings(root, work)} prompts"
    if part == "sounds":
        return f"{build.build_sounds(root, work)} sounds"
    if part == "speech":
        return f"{build_media.build_speech(root)} sentences"
    return f"{build_media.build_videos(root)} clips"


@app.command("check")
def check(count: Annotated[int, typer.Option(min=1, help="samples to make of each task")] = 3) -> None:
    """Read all shipped data and make some samples of every task; raises the first fault in one line."""
    everyone = scenes.emoji_set()
    print(f"emoji: {len(everyone)} concepts in {len(everyone.sheets)} styles")
    spoken = speech.shipped()
    for name, waves, rate in (
        ("recordings", [p.wave for p in recordings.everything()], HEARING_RATE),
        ("sounds", [s.wave for s in sounds.recorded().values()], HEARING_RATE),
        ("speech", [s.wave for s in spoken], SPEAKING_RATE),
    ):
        print(f"{name}: {len(waves)}, {sum(map(len, waves)) / rate / 60:.1f} minutes")
    clips = list(readers.videos(samples_folder() / "video"))
    print(f"video: {len(clips)} clips")
    for task in world.TASKS:
        began = time.perf_counter()
        for index in range(count):
            world.sample(task, "test", 0, index)
        print(f"{task:<26}{1000 * (time.perf_counter() - began) / count:8.1f} ms a sample")


@app.command("show")
def show(
    task: Annotated[str | None, typer.Argument(help="a task; default: the table of tasks")] = None,
    count: Annotated[int, typer.Option(min=0, help="how many samples")] = 5,
    split: Annotated[str, typer.Option(help="train or test")] = "train",
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Print the tasks, or samples of one: question, media, answer."""
    if task is None:
        print(build_media.tasks_table())
        return
    for sample in itertools.islice(world.samples([task], split, seed), count):
        for message in sample.messages:
            told = [part["text"] if part["type"] == "text" else f"<{part['type']}>" for part in message["content"]]
            print(f"{message['role']}: {' '.join(told)}")
        print(f"-> {sample.answer}" + (f"  (aloud: {sample.speaker})" if sample.speaker else ""))
