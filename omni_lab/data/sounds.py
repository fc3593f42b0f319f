"""Sound events: short recordings (CC0) named by what makes them, alone or one after another.

They ship as `data_samples/audio/sounds.opus`, made from the npm package supersonic-scsynth-samples.
"""

import functools

import numpy as np

from . import bank
from .folders import samples_folder
from .sample import HEARING_RATE, Sample, audio, user
from .speech import resample
from .splits import fraction, held_out, pick

_NAMES = {
    "bass drum": "bd_haus bd_808 bd_klub bd_pure bd_fat bd_tek bd_gas bd_sone bd_zome drum_bass_hard drum_bass_soft "
    "drum_heavy_kick",
    "snare drum": "drum_snare_hard drum_snare_soft sn_dolf sn_dub sn_generic sn_zome elec_snare elec_mid_snare "
    "elec_lo_snare elec_hi_snare",
    "hi-hat": "hat_bdu hat_cats hat_gem hat_gump hat_metal hat_noiz hat_psych hat_raw hat_zild drum_cymbal_closed",
    "cymbal": "drum_cymbal_hard drum_cymbal_open drum_cymbal_soft drum_splash_hard drum_splash_soft ride_tri ride_via",
    "tom": "drum_tom_hi_hard drum_tom_hi_soft drum_tom_lo_hard drum_tom_lo_soft drum_tom_mid_hard drum_tom_mid_soft",
    "tabla": "tabla_ghe1 tabla_ghe4 tabla_ghe7 tabla_na tabla_na_o tabla_tas1 tabla_tas2 tabla_tun1 tabla_tun2 "
    "tabla_re",
    "bell": "perc_bell perc_bell2 elec_bell elec_chime elec_triangle elec_ping",
    "guitar": "guit_e_fifths guit_e_slide guit_em9 guit_harmonics",
    "bass": "bass_dnb_f bass_drop_c bass_hard_c bass_hit_c bass_thick_c bass_woodsy_c",
    "piano": "ambi_piano tbd_highkey_c4",
    "choir": "ambi_choir tbd_voctone",
    "robot": "mehackit_robot1 mehackit_robot2 mehackit_robot3 mehackit_robot4 mehackit_robot5 mehackit_robot6",
    "phone": "mehackit_phone1 mehackit_phone2 mehackit_phone3 mehackit_phone4",
    "record scratch": "vinyl_backspin vinyl_rewind vinyl_scratch",
    "swoosh": "perc_swoosh perc_swash ambi_swoosh ambi_dark_woosh",
    "crow": "misc_crow",
    "burp": "misc_burp",
    "cowbell": "drum_cowbell",
}
RECORDED = {label: tuple(names.split()) for label, names in _NAMES.items()}
LABELS = tuple(RECORDED)
ASK = "What makes this sound?"


@functools.cache
def recorded() -> dict[str, bank.Sound]:
    """All shipped sounds by name, float32 at 16 kHz, read once per process."""
    return {sound.name: sound for sound in bank.read(samples_folder() / "audio" / "sounds.opus")}


@functools.cache
def names(label: str, split: str) -> tuple[str, ...]:
    """Recordings of `label` that the split may hear. Of labels with six recordings or more, one in five (by rule, at
    least one) is the test's alone; the others are so few that the test hears them too, at pitches of its own."""
    known = RECORDED[label]
    if len(known) < 6:
        return known
    test = tuple(n for n in known if held_out("sound", n, 0.2)) or (min(known, key=lambda n: fraction("sound", n)),)
    return test if split == "test" else tuple(n for n in known if n not in test)


def pitch_step(rng: np.random.Generator, label: str, name: str, split: str) -> int:
    """A speed from 80 to 124 percent; which percentages of a shared recording are the test's, a rule decides."""
    while True:
        percent = int(rng.integers(80, 125))
        shared = len(RECORDED[label]) < 6
        if not shared or held_out("sound pitch", f"{name} {percent}", 0.25) == (split == "test"):
            return percent


def event(rng: np.random.Generator, label: str, split: str) -> tuple[np.ndarray, str]:
    """One sound of that label, float32 (samples,) at 16 kHz, and its key (recording and speed)."""
    name = pick(rng, names(label, split))
    percent = pitch_step(rng, label, name, split)
    wave = resample(recorded()[name].wave, percent, 100)
    return wave * float(rng.uniform(0.5, 1.2)), f"{name} {percent}"


def place(length: float, events: list[tuple[float, np.ndarray]], rng: np.random.Generator | None = None) -> np.ndarray:
    """A track of `length` seconds at 16 kHz with each wave at its second; a breath of noise when `rng` is given."""
    track = np.zeros(int(length * HEARING_RATE), np.float32)
    for second, wave in events:
        start = int(second * HEARING_RATE)
        piece = wave[: max(len(track) - start, 0)]
        track[start : start + len(piece)] += piece
    if rng is not None:
        level = 10 ** rng.uniform(-4.0, -2.3)
        track += (level * rng.standard_normal(len(track))).astype(np.float32)
    return np.clip(track, -1, 1)


def sound_events(rng: np.random.Generator, split: str) -> Sample:
    """One sound, once or repeated, in two seconds of near silence: its name."""
    label = pick(rng, LABELS)
    wave, key = event(rng, label, split)
    begin = float(rng.uniform(0, 0.4))
    again = [] if rng.random() < 0.5 or len(wave) > HEARING_RATE else [(begin + 1.0, wave)]
    track = place(2.0, [(begin, wave), *again], rng)
    return Sample([user(ASK, audio(track))], "sound_events", label, meta={"key": key, "label": label})


def order_held_out(first: str, second: str) -> bool:
    """Whether two sounds are met together in the test alone, in either order.

    Were only one order held out, training would always have had the other one: right there, wrong in the test."""
    return any(held_out("audio_order", f"{a} {b}") for a, b in ((first, second), (second, first)))


def audio_order(rng: np.random.Generator, split: str) -> Sample:
    """Two different sounds, one after the other: which came first (or last)? Thought are both, as they came."""
    while True:
        first, second = (LABELS[int(n)] for n in rng.choice(len(LABELS), 2, replace=False))
        if order_held_out(first, second) == (split == "test"):
            break
    waves = [event(rng, label, split)[0][: int(1.4 * HEARING_RATE)] for label in (first, second)]
    track = place(3.4, [(float(rng.uniform(0, 0.3)), waves[0]), (float(rng.uniform(1.6, 2.0)), waves[1])], rng)
    asked = int(rng.integers(2))
    options = sorted((first, second))
    question = f"Which came {('first', 'last')[asked]}: {options[0]} or {options[1]}?"
    meta = {"key": f"{first} {second}", "sounds": [first, second], "options": options}
    thought = f"{first}, {second}"
    return Sample([user(question, audio(track))], "audio_order", (first, second)[asked], meta=meta, thought=thought)
