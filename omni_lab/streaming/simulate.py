"""What if? The delay of the first sound, and whether sound keeps up, computed from measured costs.

The costs of this machine and this model are measured once (`measure`); then block size, look-ahead, solver steps,
model size and machine are turned as one likes. What is computed is the schedule of `ReplyStream`: one thread, chunks
that grow.
"""

import itertools
import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from .account import Account
from .mel import MelStream
from .reply import prepared_voice
from .speech import FIRST, MARGIN, WaveStream, chunk_blocks

CODES_A_SECOND = 50


@dataclass(frozen=True)
class Costs:
    """Seconds that each step takes. A DiT call and a vocoder call cost something fixed and something a frame."""

    prefill: float  # the question
    token: float  # of the thinker
    talker_prefill: float
    code: float  # of the talker
    dit_call: float
    dit_frame: float  # in one call
    vocoder_call: float
    vocoder_frame: float


@dataclass(frozen=True)
class Setting:
    """What one may change. The defaults are those of the stream."""

    block_codes: int = 12  # codes in a block of the DiT
    ahead: int = 1  # blocks of look-ahead
    calls: int = 8  # of the DiT a chunk: 2 steps of Runge-Kutta 4
    most_blocks: int = 8  # in a chunk
    margin: int = MARGIN  # mel frames of the vocoder's context
    first: int = FIRST  # mel frames of the first block that do not wait for their look-ahead; 0: all of them wait
    tokens: int = 30  # of the reply's text
    seconds: float = 10.0  # of speech
    thinker: float = 1.0  # how many times as dear a token is: a larger model
    talker: float = 1.0
    codec: float = 1.0
    machine: float = 1.0  # how many times as fast all of it runs
    first_ahead: float = 0.5  # share of the look-ahead for which the first chunk waits


def simulate(costs: Costs, setting: Setting | None = None) -> Account:
    """The account that a reply would have, span by span."""
    setting = setting or Setting()
    account, now = Account(), 0.0

    def work(stage: str, seconds: float) -> None:
        nonlocal now
        account.spans.append((stage, now, now + seconds / setting.machine))
        now += seconds / setting.machine

    work("prefill", costs.prefill * setting.thinker)
    work("thinker", costs.token * setting.thinker)
    account.marks["first text"] = now
    work("talker prefill", costs.talker_prefill * setting.talker)
    total = round(setting.seconds * CODES_A_SECOND)
    made, spoken, tokens = 0, 0, 1

    def talk(wanted: int) -> None:
        nonlocal made, tokens
        while made < wanted:
            if made and tokens < setting.tokens:
                work("thinker", costs.token * setting.thinker)
                tokens += 1
            work("talker", costs.code * setting.talker)
            made += 1
            account.marks.setdefault("first code", now)

    def paint(frames: int) -> None:
        work("dit", setting.codec * setting.calls * (costs.dit_call + costs.dit_frame * frames))

    def sound(begin: int, end: int, known: int) -> None:
        """Mel frames begin to end, of which `known` are there."""
        window = end - begin + min(setting.margin, begin) + min(setting.margin, known - end)
        work("vocoder", setting.codec * (costs.vocoder_call + costs.vocoder_frame * window))
        account.marks.setdefault("first sound", now)
        account.chunks.append((now, (end - begin) / (2 * CODES_A_SECOND)))

    block, heard = setting.block_codes, 0  # heard: mel frames given out
    if setting.first and setting.ahead * setting.first_ahead and total >= block:
        talk(block)
        paint(2 * block)
        heard = min(setting.first, 2 * block - 1)
        sound(0, heard, 2 * block)
    while spoken < total:
        blocks = chunk_blocks(-(-spoken // block), setting.most_blocks)
        ahead = setting.ahead * (1 if spoken else setting.first_ahead)
        wanted = min(total, spoken + round((blocks + ahead) * block))
        talk(wanted)
        codes = min(blocks * block, total - spoken)
        paint(2 * (wanted - spoken))
        spoken += codes
        if heard < 2 * spoken:
            sound(heard, 2 * spoken, 2 * wanted)
            heard = 2 * spoken
    account.tokens, account.codes, account.seconds = tokens, made, total / CODES_A_SECOND
    account.marks["end"] = now
    return account


def what_if(costs: Costs, **choices: Any) -> list[tuple[Setting, float, float, float]]:
    """Every combination of `choices` (lists of values of Setting's fields): (setting, first sound, RTF, silence)."""
    rows = []
    for values in itertools.product(*choices.values()):
        setting = replace(Setting(), **dict(zip(choices, values, strict=True)))
        account = simulate(costs, setting)
        rows.append((setting, account.marks["first sound"], account.real_time_factor(), account.underrun()))
    return rows


@torch.no_grad()
def measure(model: Any, inputs: Any, repeats: int = 3) -> Costs:
    """Costs of this model on this machine, for a prompt (`model.prepare(...)`): the least of `repeats` measurements."""
    inputs = model.moved(inputs)
    speaker, tokens = model.voice(None), 16
    start = model.thinker.prefill(**inputs)
    context = model.talker_context(start, inputs, speaker)
    reply = torch.zeros_like(context.embeds[:, :1])

    def best(function: Any) -> float:
        return min(timed(function) for _ in range(repeats + 1))

    def think(count: int) -> None:
        list(model.thinker.decode(model.thinker.prefill(**inputs), count))

    def talk(count: int) -> None:
        ends = (model.config.talker_config.tts_codec_start_token_id, *model.talker.end_tokens)
        sampling = replace(model.talker.default_sampling, suppress=ends)
        dice = torch.Generator(model.device).manual_seed(0)
        model.talker.generate(context, reply, max_new_tokens=count, sampling=sampling, generator=dice)

    dit = model.token2wav.code2wav_dit_model
    voice = prepared_voice(dit, speaker)
    calls = MelStream(dit, voice).calls

    def paint(blocks: int) -> None:
        mel = MelStream(dit, voice, ahead=0)
        mel.add([0] * blocks * mel.codes_a_block)
        mel.advance(blocks)

    def sound(frames: int) -> None:
        mel = voice.new_full((1, frames, dit.config.mel_dim), -5.0)
        WaveStream(model.token2wav.code2wav_bigvgan_model).add(mel, mel[:, :0])

    prefill, talker_prefill = best(lambda: think(1)), best(lambda: talk(1))
    small, large, size = best(lambda: paint(1)) / calls, best(lambda: paint(4)) / calls, dit.config.block_size
    a_frame = max(0.0, (large - small) / (3 * size))
    short, long = best(lambda: sound(size)), best(lambda: sound(4 * size))
    vocoder_frame = max(0.0, (long - short) / (3 * size))
    return Costs(
        prefill,
        # Two lengths, so that what is done once a reply (recording a CUDA graph) is no cost of a token.
        max(0.0, best(lambda: think(2 * tokens)) - best(lambda: think(tokens))) / tokens,
        talker_prefill,
        max(0.0, best(lambda: talk(2 * tokens)) - best(lambda: talk(tokens))) / tokens,
        max(0.0, small - a_frame * size),
        a_frame,
        max(0.0, short - vocoder_frame * size),
        vocoder_frame,
    )


def timed(function: Any) -> float:
    """Seconds that one call takes."""
    began = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began
