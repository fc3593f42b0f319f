"""Talk in the terminal: lines in, words out as they come; each reply's sound is kept as a WAV file, or played.

A line that begins with / is a command; the path of a picture, sound or video may stand anywhere in a question as @path.
"""

import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import soundfile

from ..errors import InputError, OmniLabError
from ..processing.media import reason
from ..processing.thoughts import BEGIN, END
from ..streaming import AudioChunk, Session, TextDelta

HELP = """/speaker NAME   who speaks      /quiet, /aloud   without and with sound
/time           where the time of the last reply went      /new   begin anew      /quit
@PATH in a question: a picture, a sound or a video      Ctrl-C: stop the reply"""
KINDS = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"), "image"),
    **dict.fromkeys((".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a"), "audio"),
    **dict.fromkeys((".mp4", ".webm", ".mkv", ".mov", ".avi"), "video"),
}
PLAYERS = (("ffplay", "-nodisp", "-autoexit", "-loglevel", "quiet"), ("paplay",), ("aplay", "-q"), ("afplay",))


class Terminal:
    """One conversation in a terminal."""

    def __init__(self, model: Any, out: TextIO = sys.stdout, folder: Path | None = None, **how: Any) -> None:
        """folder: where the replies' sound is kept (None: nowhere); how: of the Session."""
        self.model, self.out, self.folder, self.how = model, out, folder, how
        self.voice = how.get("speaker")
        self.aloud = how.get("speak", True)
        self.session = Session(model, **how)
        self.account: Any = None

    def run(self, lines: Iterable[str]) -> None:
        """Answer line after line until /quit or the end."""
        for line in lines:
            words = line.strip()
            if words == "/quit":
                break
            try:
                self.command(words) if words.startswith("/") else self.answer(words)
            except OmniLabError as error:
                self.say(f"{error}\n")
        self.session.close()

    def say(self, words: str) -> None:
        """Write at once."""
        self.out.write(words)
        self.out.flush()

    def command(self, line: str) -> None:
        """A line that begins with /. Raises InputError for one that does not exist."""
        name, _, rest = line[1:].partition(" ")
        done: dict[str, Callable[[], None]] = {
            "help": lambda: self.say(HELP + "\n"),
            "time": lambda: self.say((self.account.table() if self.account else "no reply yet") + "\n"),
            "new": self.begin_anew,
            "quiet": lambda: setattr(self, "aloud", False),
            "aloud": lambda: setattr(self, "aloud", True),
            "speaker": lambda: self.set_speaker(rest.strip()),
        }
        if name not in done:
            raise InputError(f"no command /{name}: /help says which there are")
        done[name]()

    def begin_anew(self) -> None:
        """Forget the conversation."""
        self.session.close()
        self.session = Session(self.model, **self.how)

    def set_speaker(self, name: str) -> None:
        """Choose who speaks. Raises InputError for an unknown one."""
        self.model.voice(name)
        self.voice = name

    def answer(self, line: str) -> None:
        """Ask the model and write what it says. Ctrl-C stops the reply, not the conversation."""
        if not line:
            return
        for path in re.findall(r"@(\S+)", line):
            self.push_file(Path(path))
        words = re.sub(r"@\S+", "", line).strip()
        if words:
            self.session.push(text=words)
        voice = self.model.voice(self.voice) if self.aloud else None
        reply, sound = self.session.reply(voice=voice), []
        try:
            for event in reply:
                if isinstance(event, TextDelta):
                    self.say(self.dimmed(event.text))
                elif isinstance(event, AudioChunk):
                    sound.append(event.samples.numpy())
        except KeyboardInterrupt:
            reply.close()
            self.say(" [stopped]")
        self.say("\033[0m\n" if self.out.isatty() else "\n")
        self.account = reply.account
        if sound and self.folder is not None:
            self.keep(np.concatenate(sound), self.folder)

    def dimmed(self, words: str) -> str:
        """A piece of a reply, its thoughts dimmed where the terminal can; a tag is one token and never comes in two."""
        if not self.out.isatty():
            return words
        return words.replace(BEGIN, "\033[2m").replace(END, "\033[0m ")

    def push_file(self, path: Path) -> None:
        """Give the model a file. Raises InputError for a kind of file that it cannot take."""
        kind = KINDS.get(path.suffix.lower())
        if kind is None:
            raise InputError(f"{path}: expected a picture, sound or video ({', '.join(KINDS)})")
        given: Any = self.model.processor.hear(path) if kind == "audio" else path
        self.session.push(**{kind: given})

    def keep(self, wave: np.ndarray, folder: Path) -> None:
        """Write the reply's sound beside those of before, and play it where there is a player. Raises InputError."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            taken = {path.name for path in folder.iterdir()}
            names = map("reply_{:03}.wav".format, itertools.count(1))
            path = folder / next(name for name in names if name not in taken)
            with path.open("xb") as file:
                soundfile.write(file, wave, 24000, format="WAV")
        except (OSError, soundfile.SoundFileError) as error:
            raise InputError(f"{folder}: the reply's sound cannot be kept ({reason(error)})") from None
        self.say(f"[{len(wave) / 24000:.1f} s of speech: {path}]\n")
        player = next((p for p in PLAYERS if shutil.which(p[0])), None)
        if player is not None and self.out.isatty():
            subprocess.run([*player, str(path)], check=False)
