"""Streaming: delay by source, beside `transformers.generate` on the same checkpoint, seams, listening, and a soak.

    python -m benchmarks.streaming [--threads N] [--rounds 20] [--seconds 10] [--clock wall] [--calls 36 12]
        [--requests 200] [--killed 50] [--parts latency reference seams listening soak]

Replies are of a set length, and the model babbles where it has no weights: that changes no cost. Prints tables and
writes each part to benchmarks/results/streaming_PART.md (streaming_PART_1_thread.md with --threads 1).
"""

import argparse
import gc
import itertools
import json
import os
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from socket import SHUT_RDWR
from typing import Any

import numpy as np
import psutil
import torch
import transformers
from websockets.sync.client import connect

from benchmarks.machine import described
from omni_lab.chat.notebook import Served
from omni_lab.lab.nano import nano_model
from omni_lab.sampling import Sampling
from omni_lab.streaming import SOURCES, Account, Session, stream_inputs
from omni_lab.streaming.mel import NUM_STEPS, SOLVER, MelStream
from omni_lab.streaming.reply import prepared_voice
from omni_lab.streaming.seams import seam_flux, seam_score
from omni_lab.streaming.speech import FIRST, Speech, WaveStream

RESULTS = Path(__file__).parent / "results"
QUESTION = "What is on the left of the picture, and what is on the right?"
TOKENS, CODES_A_SECOND = 30, 50
ROUNDS = 3  # beside the reference


def endless(model: Any) -> Sampling:
    """The talker's own sampling, but it never ends by itself: replies of a set length."""
    suppress = (model.config.talker_config.tts_codec_start_token_id, *model.talker.end_tokens)
    return replace(model.talker.default_sampling, suppress=(*suppress, *specials(model)))


def specials(model: Any) -> list[int]:
    """Codes that stand for no sound, but for those that open or end a reply: only an untrained talker says them."""
    config, last = model.config.talker_config, model.config.token2wav_config.dit_config.num_embeds
    known = (config.tts_codec_start_token_id, *model.talker.end_tokens)
    return [code for code in range(last + 1, config.vocab_size) if code not in known]


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = CLOCKS["wall"]


def ask(model: Any, seconds: float, **how: Any) -> Account:
    """One reply of so many seconds of speech."""
    account = Account(clock)
    with account.span("input"):
        inputs = model.prepare(QUESTION)
    codes = round(seconds * CODES_A_SECOND)
    settings = {"max_new_tokens": TOKENS, "stop_token_ids": (), "max_codes": codes, "talker_sampling": endless(model)}
    for _ in stream_inputs(model, inputs, account=account, **settings, **how):
        pass
    return account


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of all lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def latency(model: Any, rounds: int, seconds: float) -> str:
    """Delay of the first sound and its sources over `rounds` questions; what follows, over a tenth as many replies."""
    ask(model, 1.0)
    short = [ask(model, 1.0, seed=i) for i in range(rounds)]
    long = [ask(model, seconds, seed=i) for i in range(max(1, rounds // 10))]
    lines = [
        f"### First sound and its sources ({rounds} questions; below the line {len(long)} replies of {seconds:g} s)\n",
        "| | median | p95 |",
        "|---|---|---|",
    ]

    def row(name: str, values: list[float], unit: str = "ms", scale: float = 1000.0) -> None:
        middle, high = scale * statistics.median(values), scale * percentile(values, 0.95)
        lines.append(
            f"| {name} | {middle:.{0 if unit == 'ms' else 2}f} {unit} | {high:.{0 if unit == 'ms' else 2}f} {unit} |"
        )

    row("**first sound**", [a.marks["first sound"] for a in short])
    row("first text", [a.marks["first text"] for a in short])
    for source in SOURCES[:3]:
        row(source, [a.sources()[source] for a in short])
    for stage in ("prefill", "thinker", "talker prefill", "talker", "dit", "vocoder"):
        row(f"of the first sound: {stage}", [a.spent(stage, a.marks["first sound"]) for a in short])
    lines.append("| | | |")
    row(SOURCES[3] + ", a second of sound", [a.sources()[SOURCES[3]] for a in long])
    for stage in ("thinker", "talker", "dit", "vocoder"):
        row(f"a second of sound: {stage}", [a.spent(stage) / a.seconds for a in long])
    row("**real-time factor**", [a.real_time_factor() for a in long], "", 1.0)
    row("silence in a player that starts at once", [a.underrun() for a in long])
    return "\n".join(lines) + "\n"


def reference(model: Any, seconds: float, calls: list[int]) -> str:
    """The same reply by transformers.generate: all of it must be there before any of it is heard."""
    name = next(iter(model.speakers))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        theirs = transformers.Qwen2_5OmniForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = dict(model.prepare(QUESTION))
    codes = round(seconds * CODES_A_SECOND)
    rows = []
    usual = []
    ask(model, 1.0)  # warm: weights are packed once
    for count in calls:
        steps, rounds = count // 4 + 1, []
        for seed in range(ROUNDS):  # alternating
            began = clock()
            _, wave = theirs.generate(
                **inputs, speaker=name, thinker_max_new_tokens=TOKENS, thinker_min_new_tokens=TOKENS,
                talker_max_new_tokens=codes, talker_min_new_tokens=codes - 1, token2wav_num_steps=steps,
                talker_eos_token_id=list(model.talker.end_tokens),
                talker_bad_words_ids=[[token] for token in specials(model)],  # it would crash on them
            )  # fmt: skip
            whole, spoken = clock() - began, len(wave) / 24000
            marks = ask(model, spoken, num_steps=steps, seed=seed).marks
            rounds.append((spoken, whole, marks["first sound"], marks["end"]))
            if count == calls[0]:
                marks = ask(model, spoken, seed=seed).marks
                usual.append((marks["first sound"], marks["end"]))
        rows.append((count, *(statistics.median(each) for each in zip(*rounds, strict=True))))
        print(rows[-1], flush=True)
    lines = [
        f"### Beside transformers {transformers.__version__}, the same checkpoint, alternating; medians of {ROUNDS}\n",
        "| DiT calls | speech | theirs: first sound = all | ours: first sound | sooner | ours: all | faster |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {count} | {spoken:.1f} s | {whole:.1f} s | {first:.2f} s | {whole / first:.0f} x | {end:.1f} s "
        f"| {whole / end:.1f} x |"
        for count, spoken, whole, first, end in rows
    ]
    whole, (first, end) = rows[0][2], (statistics.median(each) for each in zip(*usual, strict=True))
    lines.append(
        f"\nTheirs with {rows[0][0]} calls and ours as it comes: the first sound after {first:.2f} s, "
        f"{whole / first:.0f} x sooner; the whole after {end:.1f} s, {whole / end:.1f} x faster."
    )
    return "\n".join(lines) + "\n"


def seams(model: Any, seconds: float) -> str:
    """Flux where chunks meet, in sound of which every block is a chunk of its own; the same places of the whole."""
    name = next(iter(model.speakers))
    codes = torch.randint(0, 1000, (round(seconds * CODES_A_SECOND),), generator=torch.Generator().manual_seed(0))
    codec = model.token2wav
    dit, vocoder = codec.code2wav_dit_model, codec.code2wav_bigvgan_model
    with torch.no_grad():
        whole = model.say(codes, model.voice(name), num_steps=NUM_STEPS, solver=SOLVER)
        mels, waves = MelStream(dit, prepared_voice(dit, model.voice(name))), WaveStream(vocoder)
        speech = Speech(mels, waves, Account(), 1, first=FIRST)
        pieces = [piece for code in codes.tolist() if (piece := speech.add(code)) is not None] + list(speech.finish())
    wave, borders = torch.cat(pieces), list(itertools.accumulate(map(len, pieces)))[:-1]
    error = float((wave - whole).std() / whole.std())
    lines = [
        f"### Seams ({len(borders)} of them, {seconds:g} s of sound, every block a chunk of its own)\n",
        "| | streamed | the whole, at the same places |",
        "|---|---|---|",
    ]
    both = [(seam_flux(sound, borders), seam_score(sound, borders)) for sound in (wave, whole)]
    lines += [
        f"| spectral flux at the borders | {both[0][0][0]:.2f} dB | {both[1][0][0]:.2f} dB |",
        f"| elsewhere | {both[0][0][1]:.2f} dB | {both[1][0][1]:.2f} dB |",
        f"| how far borders stand out (above 3: measurable) | {both[0][1]:.1f} | {both[1][1]:.1f} |",
        f"\nStreamed and whole differ by {error:.1%} of the sound's spread: what a look-ahead of one block cannot see.",
    ]
    return "\n".join(lines) + "\n"


def listening(model: Any, seconds: float = 30.0) -> str:
    """Sound and film pushed in packets of 100 ms: how much of the work is left when the question ends."""
    rng = np.random.default_rng(0)
    wave = rng.normal(0, 0.1, round(16000 * seconds)).astype(np.float32)
    session, spent = Session(model), []
    for i in range(round(10 * seconds)):
        picture = {"frame": rng.integers(0, 255, (112, 140, 3), dtype=np.uint8), "time": i / 10} if i % 5 == 0 else {}
        began = clock()
        session.push(audio=wave[1600 * i : 1600 * (i + 1)], **picture)
        spent.append(clock() - began)
    began = clock()
    session.reply().close()
    left = spent[-1] + clock() - began
    everything = sum(spent) + clock() - began
    return (
        f"### Listening ({seconds:g} s of sound with a film, packets of 100 ms)\n\n"
        f"All of the work: {1000 * everything:.0f} ms; left after the last packet: {1000 * left:.0f} ms, "
        f"{left / everything:.1%}. The dearest packet took {1000 * max(spent):.0f} ms.\n"
    )


def converse(address: str, words: str) -> bytes:
    """One question to the chat service, on a connection of its own: the sound of the answer."""
    with connect(address) as socket:
        socket.recv()
        socket.send(json.dumps({"type": "ask", "text": words}))
        sound = b""
        while isinstance(message := socket.recv(), bytes) or json.loads(message)["type"] != "end":
            sound += message if isinstance(message, bytes) else b""
    return sound


def vanish(address: str, words: str, politely: bool) -> None:
    """A client that leaves in mid-reply, with a goodbye or without."""
    socket = connect(address)
    socket.recv()
    socket.send(json.dumps({"type": "ask", "text": words}))
    socket.recv()
    socket.close() if politely else socket.socket.shutdown(SHUT_RDWR)


def soak(model: Any, requests: int, killed: int, at_once: int = 8) -> str:
    """Many clients of the chat service in a row, many at once, then many that vanish: what is left, who heard what."""
    how = {"max_new_tokens": 4, "max_codes": 13, "num_steps": 2, "solver": "euler", "talker_sampling": endless(model)}
    process, sizes = psutil.Process(), []

    def note() -> None:
        gc.collect()
        sizes.append((process.memory_info().rss / 2**20, process.num_fds(), threading.active_count()))

    with Served(model, **how) as served:
        address = served.address.replace("http", "ws") + "talk"
        asked = [f"{i}: {QUESTION}" for i in range(at_once)]
        alone = [converse(address, words) for words in asked]
        wrong = 0
        for i in range(requests):
            wrong += converse(address, asked[i % at_once]) != alone[i % at_once]
            if i == requests // 4:
                note()
        note()
        with ThreadPoolExecutor(at_once) as pool:
            crowd = list(pool.map(lambda i: converse(address, asked[i % at_once]), range(requests)))
        wrong += sum(sound != alone[i % at_once] for i, sound in enumerate(crowd))
        note()
        for i in range(killed):
            vanish(address, asked[i % at_once], bool(i % 2))
        deadline = time.perf_counter() + 60
        while served.service.clients and time.perf_counter() < deadline:
            time.sleep(0.05)
        left = len(served.service.clients)
        wrong += converse(address, asked[0]) != alone[0]
        note()
    columns = (f"warm, after {requests // 4}", f"after {requests}", f"{requests} more, {at_once} at once",
               f"{killed} that vanished")  # fmt: skip
    rows = [("memory, MB", "{:.0f}"), ("open files", "{:d}"), ("threads", "{:d}")]
    return (
        f"### Soak\n\n| | {' | '.join(columns)} |\n|---|---|---|---|---|\n"
        + "".join(
            f"| {name} | {' | '.join(form.format(size[i]) for size in sizes)} |\n"
            for i, (name, form) in enumerate(rows)
        )
        + f"\nAnswers that were not those of the same question asked alone: {wrong} of {2 * requests + 1} "
        f"({len(set(alone))} different ones). Clients left in the service: {left}.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--calls", type=int, nargs="+", default=[36, 12], help="of the DiT, beside the reference")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--killed", type=int, default=50)
    parser.add_argument("--parts", nargs="+", default=["latency", "reference", "seams", "listening", "soak"])
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu (with --threads 1): on a busy machine")
    given = parser.parse_args()
    global clock
    clock = CLOCKS[given.clock]
    torch.set_num_threads(given.threads)
    model, trained = nano_model("cpu")
    heading = (
        f"# Streaming, preset nano: {{}}\n\n{described()}; {given.threads} threads, "
        f"float32, torch {torch.__version__}; {'trained' if trained else 'random'} weights; {given.clock} time. "
        f"Load of the machine when this began: {os.getloadavg()[0]:.1f} (above the number of cores, it is at work on "
        "other things; only CPU time says what an idle one would take, and caches shared with that work make it "
        "more).\n\n"
    )
    parts = {
        "latency": lambda: latency(model, given.rounds, given.seconds),
        "reference": lambda: reference(model, given.seconds, given.calls),
        "seams": lambda: seams(model, given.seconds),
        "listening": lambda: listening(model),
        "soak": lambda: soak(model, given.requests, given.killed),
    }
    RESULTS.mkdir(exist_ok=True)
    threads = "" if given.threads == 2 else f"_{given.threads}_thread"
    for name in given.parts:
        report = heading.format(name) + parts[name]()
        print(report, flush=True)
        temporary = RESULTS / f"streaming_{name}{threads}.md.part"
        temporary.write_text(report, encoding="utf-8")
        os.replace(temporary, RESULTS / f"streaming_{name}{threads}.md")


if __name__ == "__main__":
    main()
