"""Music with a known key, metre and tempo: chord loops on synthesised instruments over recorded drums."""

from dataclasses import dataclass

import numpy as np

from . import sounds
from .sample import HEARING_RATE, Sample, audio, user
from .splits import draw, pick

KEYS = ("C", "C sharp", "D", "E flat", "E", "F", "F sharp", "G", "A flat", "A", "B flat", "B")
MODES = ("major", "minor")
METRES = (3, 4)  # beats a bar
SLOWEST, FASTEST = 70, 160  # beats a minute
SECONDS = 6.0
ASK = "Describe this music."
# Degrees of the scale on which the chords of a loop stand; all begin at home, so that the key can be heard.
PROGRESSIONS = ((0, 3, 4, 0), (0, 5, 3, 4), (0, 4, 5, 3), (0, 0, 3, 4), (0, 3, 0, 4))
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
# Strength of the overtones of each instrument, and how fast its tone fades (1 / seconds).
INSTRUMENTS = {
    "organ": ((1.0, 0.6, 0.3, 0.3, 0.1), 0.4),
    "piano": ((1.0, 0.5, 0.25, 0.12, 0.06), 2.5),
    "reed": ((1.0, 0.1, 0.5, 0.08, 0.3), 0.8),
    "pluck": ((0.8, 0.7, 0.5, 0.3, 0.2), 5.0),
}


@dataclass(frozen=True)
class Piece:
    """What a loop is, as a musician would say it."""

    key: int  # semitones above C
    mode: str
    beats: int  # a bar
    tempo: int  # beats a minute

    @property
    def words(self) -> str:
        """The answer: "C major, 3/4, 120 bpm"."""
        return f"{KEYS[self.key]} {self.mode}, {self.beats}/4, {self.tempo} bpm"


def music(rng: np.random.Generator, split: str) -> Sample:
    """Six seconds of a loop; its key, metre and tempo in a line. The split is by (key, mode, metre, tempo)."""
    key, piece = draw(rng, split, "music", propose)
    meta = {"key": key, "piece": piece}
    return Sample([user(ASK, audio(render(piece, rng)))], "music", piece.words, meta=meta)


def propose(rng: np.random.Generator) -> tuple[str, Piece]:
    """Any piece: 12 keys x 2 modes x 2 metres x 46 tempi."""
    tempo = int(rng.integers(SLOWEST // 2, FASTEST // 2 + 1)) * 2
    piece = Piece(int(rng.integers(12)), pick(rng, MODES), int(pick(rng, METRES)), tempo)
    return piece.words, piece


def render(piece: Piece, rng: np.random.Generator, seconds: float = SECONDS) -> np.ndarray:
    """The loop as a track, float32 (samples,) at 16 kHz: a chord a bar, a melody of its notes, drums on the beats."""
    beat = 60.0 / piece.tempo
    progression, instrument = pick(rng, PROGRESSIONS), pick(rng, sorted(INSTRUMENTS))
    events, bar = [], 0
    while bar * piece.beats * beat < seconds:
        begin = bar * piece.beats * beat
        degree = progression[bar % len(progression)]
        events += harmony(piece, degree, begin, beat, instrument)
        events += melody(piece, degree, begin, beat, rng)
        bar += 1
    tones = sounds.place(seconds, [(t, 0.25 * w) for t, w in events])
    drums = sounds.place(seconds, percussion(piece, seconds, beat, rng))
    mixed = tones / max(np.abs(tones).max(), 1e-3) + 0.7 * drums / max(np.abs(drums).max(), 1e-3)
    noise = 0.003 * rng.standard_normal(len(mixed))
    return (float(rng.uniform(0.3, 0.6)) * mixed + noise).astype(np.float32)


def pitch(piece: Piece, degree: int, octave: int = 4) -> float:
    """Frequency in Hz of a degree of the piece's scale (0 = home; 7 = home an octave higher)."""
    scale = SCALES[piece.mode]
    semitone = piece.key + scale[degree % 7] + 12 * (degree // 7 + octave - 4)
    return 261.63 * 2 ** (semitone / 12)


def tone(frequency: float, seconds: float, instrument: str) -> np.ndarray:
    """One note: overtones below 7 kHz under a fading envelope, float32 (samples,) at 16 kHz."""
    strengths, fading = INSTRUMENTS[instrument]
    t = np.arange(int(seconds * HEARING_RATE)) / HEARING_RATE
    wave = sum(
        s * np.sin(2 * np.pi * frequency * (n + 1) * t) for n, s in enumerate(strengths) if frequency * (n + 1) < 7000
    )
    edge = np.minimum(1, np.minimum(t / 0.01, (seconds - t) / 0.02))
    return (wave * np.exp(-fading * t) * np.maximum(edge, 0)).astype(np.float32)


def harmony(piece: Piece, degree: int, begin: float, beat: float, instrument: str) -> list[tuple[float, np.ndarray]]:
    """A triad held for the bar, and its root in the bass on the first beat."""
    length = piece.beats * beat
    chord = [(begin, tone(pitch(piece, degree + step), length, instrument)) for step in (0, 2, 4)]
    return [*chord, (begin, 1.5 * tone(pitch(piece, degree, octave=2), length, "organ"))]


def melody(piece: Piece, degree: int, begin: float, beat: float, rng: np.random.Generator) -> list:
    """A note of the chord on most beats, an octave higher."""
    notes = []
    for place in range(piece.beats):
        if rng.random() < 0.75:
            step = int(pick(rng, (0, 2, 4, 7)))
            notes.append((begin + place * beat, tone(pitch(piece, degree + step, octave=5), 0.9 * beat, "pluck")))
    return notes


def percussion(piece: Piece, seconds: float, beat: float, rng: np.random.Generator) -> list[tuple[float, np.ndarray]]:
    """Bass drum on one, snare (4/4: two and four; 3/4: softly two and three), hi-hat on every beat."""
    kit = {label: sounds.recorded()[pick(rng, sounds.names(label, "train"))].wave for label in
           ("bass drum", "snare drum", "hi-hat")}  # fmt: skip
    events = []
    for number in range(int(seconds / beat) + 1):
        place = number % piece.beats
        if place == 0:
            events.append((number * beat, 1.2 * kit["bass drum"]))
        elif piece.beats == 3 or place != 2:
            events.append((number * beat, (0.5 if piece.beats == 3 else 0.8) * kit["snare drum"]))
        else:
            events.append((number * beat, 0.7 * kit["bass drum"]))
        events.append((number * beat, 0.3 * kit["hi-hat"]))
    return events


def parse(text: str) -> tuple[str, str, float] | None:
    """(key with mode, metre, tempo) read from an answer in the form of `Piece.words`, or None."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not parts[2].removesuffix("bpm").strip().isdigit():
        return None
    return parts[0].lower(), parts[1], float(parts[2].removesuffix("bpm"))
