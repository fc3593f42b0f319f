"""Streaming: delay by source, beside `transformers.generate` on the same checkpoint, and a soak of the chat service.

    python -m benchmarks.streaming [--threads N] [--rounds 20] [--seconds 10] [--clock wall]
        [--parts latency reference soak]

Without trained weights the model babbles: the replies' length is then set, which changes no cost. Prints tables and
writes benchmarks/results/streaming.md, part by part.
"""

import argparse
import gc
import json
import os
import statistics
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from socket import SHUT_RDWR
from typing import Any

import psutil
import torch
import transformers

from omni_lab.lab.nano import nano_model
from omni_lab.sampling import Sampling
from omni_lab.streaming import SOURCES, Account, stream_inputs

RESULTS = Path(__file__).parent / "results"
QUESTION = "What is on the left of the picture, and what is on the right?"
TOKENS, CODES_A_SECOND = 30, 50


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


def latency(model: Any, rounds: int) -> str:
    """Delay of the first sound and its sources, over `rounds` questions."""
    ask(model, 1.0)
    accounts = [ask(model, 4.0, seed=i) for i in range(rounds)]
    lines = [
        f"### First sound and its sources ({rounds} questions, 4 s replies)\n",
        "| | median | p95 |",
        "|---|---|---|",
    ]

    def row(name: str, values: list[float], unit: str = "ms", scale: float = 1000.0) -> None:
        middle, high = scale * statistics.median(values), scale * percentile(values, 0.95)
        lines.append(
            f"| {name} | {middle:.{0 if unit == 'ms' else 2}f} {unit} | {high:.{0 if unit == 'ms' else 2}f} {unit} |"
        )

    row("**first sound**", [a.marks["first sound"] for a in accounts])
    row("first text", [a.marks["first text"] for a in accounts])
    for source in SOURCES:
        row(source + (", a second of sound" if source == SOURCES[3] else ""), [a.sources()[source] for a in accounts])
    row("**real-time factor**", [a.real_time_factor() for a in accounts], "", 1.0)
    row("silence in a player that starts at once", [a.underrun() for a in accounts])
    return "\n".join(lines) + "\n"


def reference(model: Any, seconds: float) -> str:
    """The same reply by transformers.generate: all of it must be there before any of it is heard."""
    name = next(iter(model.speakers))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        theirs = transformers.Qwen2_5OmniForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = dict(model.prepare(QUESTION))
    codes = round(seconds * CODES_A_SECOND)
    rows = []
    for calls, steps in ((36, 10), (12, 4)):
        began = clock()
        _, wave = theirs.generate(
            **inputs, speaker=name, thinker_max_new_tokens=TOKENS, thinker_min_new_tokens=TOKENS,
            talker_max_new_tokens=codes, talker_min_new_tokens=codes - 1, token2wav_num_steps=steps,
            talker_eos_token_id=list(model.talker.end_tokens),
            talker_bad_words_ids=[[token] for token in specials(model)],  # it would crash on them
        )  # fmt: skip
        whole, spoken = clock() - began, len(wave) / 24000
        account = ask(model, spoken, num_steps=steps)
        end, first = account.marks["end"], account.marks["first sound"]
        rows.append((calls, spoken, whole, first, end))
        print(rows[-1], flush=True)
    lines = [
        f"### Beside transformers {transformers.__version__}, the same checkpoint, one after the other\n",
        "| DiT calls | speech | theirs: first sound = all | ours: first sound | sooner | ours: all | faster |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {calls} | {spoken:.1f} s | {whole:.1f} s | {first:.2f} s | {whole / first:.0f} x | {end:.1f} s "
        f"| {whole / end:.1f} x |"
        for calls, spoken, whole, first, end in rows
    ]
    whole, end = rows[0][2], rows[1][4]
    lines.append(
        f"\nAs each comes by default (theirs 36 calls, ours 12): the whole {whole / end:.1f} x faster, the first sound "
        f"{whole / rows[1][3]:.0f} x sooner."
    )
    return "\n".join(lines) + "\n"


def soak(model: Any, requests: int = 200, killed: int = 50) -> str:
    """Many clients of the chat service in a row, then many that vanish in mid-reply: what is left behind."""
    from websockets.sync.client import connect

    from omni_lab.chat.notebook import Served

    how = {"max_new_tokens": 4, "max_codes": 13, "num_steps": 2, "solver": "euler"}
    process, sizes = psutil.Process(), []
    with Served(model, **how) as served:
        address = served.address.replace("http", "ws") + "talk"
        for i in range(requests + killed):
            socket = connect(address)
            socket.recv()
            socket.send(json.dumps({"type": "ask", "text": f"{i}: {QUESTION}"}))
            if i >= requests:
                socket.recv()
                socket.socket.shutdown(SHUT_RDWR) if i % 2 else socket.close()  # with and without a goodbye
            else:
                while isinstance(message := socket.recv(), bytes) or json.loads(message)["type"] != "end":
                    pass
                socket.close()
            gc.collect()
            sizes.append((process.memory_info().rss, process.num_fds(), threading.active_count()))
        deadline = time.perf_counter() + 30
        while served.service.clients and time.perf_counter() < deadline:
            time.sleep(0.05)
        left = len(served.service.clients)
    warm, row_end, end = sizes[requests // 4], sizes[requests - 1], sizes[-1]
    return (
        f"### Soak\n\n| | after warm-up ({requests // 4}) | after {requests} | after {killed} killed more |\n"
        "|---|---|---|---|\n"
        f"| memory | {warm[0] / 2**20:.0f} MB | {row_end[0] / 2**20:.0f} MB | {end[0] / 2**20:.0f} MB |\n"
        f"| open files | {warm[1]} | {row_end[1]} | {end[1]} |\n| threads | {warm[2]} | {row_end[2]} | {end[2]} |\n\n"
        f"Clients left in the service at the end: {left}.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--parts", nargs="+", default=["latency", "reference", "soak"])
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu (with --threads 1): on a busy machine")
    given = parser.parse_args()
    global clock
    clock = CLOCKS[given.clock]
    torch.set_num_threads(given.threads)
    model, trained = nano_model("cpu")
    load = os.getloadavg()[0]
    report = [
        "# Streaming, preset nano\n",
        f"{len(os.sched_getaffinity(0))} CPU cores, {given.threads} threads, float32, torch {torch.__version__}; "
        f"{'trained' if trained else 'random'} weights; {given.clock} time. Load of the machine when this began: "
        f"{load:.1f} (above the number of cores, it is at work on other things; only CPU time "
        "says what an idle one would take).\n",
    ]
    parts = {
        "latency": lambda: latency(model, given.rounds),
        "reference": lambda: reference(model, given.seconds),
        "soak": lambda: soak(model),
    }
    RESULTS.mkdir(exist_ok=True)
    for name in given.parts:
        report.append(parts[name]())
        print(report[-1], flush=True)
        temporary = RESULTS / "streaming.md.part"
        temporary.write_text("\n".join(report), encoding="utf-8")
        os.replace(temporary, RESULTS / "streaming.md")


if __name__ == "__main__":
    main()
