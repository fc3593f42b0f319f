"""Makes the speech and videos of `data_samples/`: small real files, for work without a synthesiser and for tests."""

import json
import os
import shutil
from pathlib import Path

from . import bank, sentences, speech, video_files, world
from .sample import SPEAKING_RATE
from .splits import generator
from .videos import av_synchrony, video_order, who_said_what

SPOKEN = 96  # sentences, about five minutes
CLIPS = 4  # of each kind of video
FILE_FPS = 8.0  # pictures a second in a file; the model samples two


def build_speech(root: Path) -> int:
    """Write `root/audio/speech.opus`: training sentences, half in the source voice, half in the other reply voices."""
    found = []
    for index in range(SPOKEN):
        rng = generator("shipped speech", "train", 0, index)
        make = sentences.paused_sentence if index % 4 == 3 else sentences.sentence
        text = make(rng, "train")
        name = "heart" if index % 2 else speech.REPLY_SPEAKERS[1 + (index // 2) % 7]
        wave = speech.say(text, name, seed=index)
        found.append(bank.Sound(f"{index:03d}", wave, {"text": text, "speaker": name}))
    bank.write(root / "audio" / "speech.opus", found, SPEAKING_RATE, bit_rate=20_000)
    return len(found)


def build_videos(root: Path) -> int:
    """Write `root/video/`: MP4 files and `metadata.jsonl`, in the form of `readers.videos`. Training content."""
    folder = root / "video"
    temporary = root / f".video.{os.getpid()}"
    temporary.mkdir(parents=True)
    lines = []
    for maker in (video_order, av_synchrony, who_said_what):
        for index in range(CLIPS):
            made = maker(generator("shipped video", "train", 0, index), "train", FILE_FPS)
            film, question = made.messages[0]["content"]
            name = f"{made.task}_{index}.mp4"
            clip = film["video"]
            video_files.write(temporary / name, clip["frames"], clip["fps"], clip["audio"])
            lines.append({"file": name, "task": made.task, "question": question["text"], "answer": made.answer})
    (temporary / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(temporary, folder)
    return len(lines)


def tasks_table() -> str:
    """The tasks of the world as lines of text: name, media, what it is about."""
    rows = []
    for name, task in world.TASKS.items():
        media = " + ".join(task.gives) or "text"
        rows.append(f"{name:<26}{media:<16}{'aloud  ' if task.speaks else ''}{task.about}")
    return "\n".join(rows)
