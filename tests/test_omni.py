"""The whole model against the reference, end to end; each loads what the other saves; mistakes are one line."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from omni_lab import OmniModel, OmniProcessor
from omni_lab.config import AudioConfig, BigVGANConfig, DiTConfig, OmniConfig, Token2WavConfig, VisionConfig, preset
from omni_lab.errors import CheckpointError, ConfigError, InputError, OmniLabError
from omni_lab.processing.processor import FILES
from omni_lab.sampling import Sampling

from .comparison import relative
from .talker_reference import always_masked

NANO = Path(__file__).parents[1] / "data_samples" / "checkpoints" / "nano"
NEW, CODES = 9, 24  # tokens and codes of a comparison


def tiny(text: dict, talker: dict, vision: dict, audio: dict, tied: bool = False) -> OmniConfig:
    """A model of some 100,000 parameters that understands the nano tokenizer."""
    base = preset("nano")
    width = text["hidden_size"]
    thinker = replace(
        base.thinker_config,
        audio_config=AudioConfig(128, 2, 2, 48, 32, output_dim=width, **audio),
        vision_config=VisionConfig(hidden_size=24, intermediate_size=40, num_heads=3, out_hidden_size=width, **vision),
        text_config=replace(base.thinker_config.text_config, intermediate_size=64, **text),
        tie_word_embeddings=tied,
    )
    dit = DiTConfig(
        32, 3, 2, 16, emb_dim=12, look_ahead_layers=(1,), look_backward_layers=(0, 2), num_embeds=1055, block_size=8,
        enc_emb_dim=10, enc_dim=6, enc_channels=(8, 8, 8, 16), enc_kernel_sizes=(5, 3, 3, 1),
        enc_dilations=(1, 2, 3, 1), enc_attention_channels=4, enc_se_channels=4,
    )  # fmt: skip
    return replace(
        base,
        thinker_config=thinker,
        talker_config=replace(base.talker_config, embedding_size=width, intermediate_size=56, **talker),
        token2wav_config=Token2WavConfig(dit, BigVGANConfig(upsample_initial_channel=64)),
        speech_tokenizer_config=None,
    )


CONFIGS = {
    "3 heads to 1": tiny(
        dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1,
             mrope_section=(2, 3, 3)),
        dict(hidden_size=40, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1, head_dim=16,
             mrope_section=(2, 3, 3)),
        dict(depth=3, fullatt_block_indexes=(1,)),
        dict(n_window=100),
    ),
    "tied, small windows": tiny(
        dict(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
             mrope_section=(4, 2, 2)),
        dict(hidden_size=48, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=24,
             mrope_section=(4, 4, 4)),
        dict(depth=4, fullatt_block_indexes=(0, 3), window_size=56),
        dict(n_window=50),
        tied=True,
    ),
    "5 heads, all windows": tiny(
        dict(hidden_size=40, num_hidden_layers=2, num_attention_heads=5, num_key_value_heads=5,
             mrope_section=(1, 1, 2)),
        dict(hidden_size=56, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, head_dim=8,
             mrope_section=(2, 1, 1)),
        dict(depth=2, fullatt_block_indexes=()),
        dict(n_window=25),
    ),
}  # fmt: skip


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Weights of a size at which every term of every sum matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.1 if parameter.dim() == 1 else parameter[0].numel() ** -0.5
            spread *= 0.5 if "bigvgan" in name else 1.0  # else the wave is clamped all along
            parameter.normal_(0, 1.0 if "embed_tokens" in name else spread, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)


def voice(config: OmniConfig, token: int):
    from omni_lab.codec.speaker import Speaker

    dit, generator = config.token2wav_config.dit_config, torch.Generator().manual_seed(1)
    mel = torch.randn(1, 60, dit.mel_dim, generator=generator)
    return Speaker(token, torch.randn(1, dit.enc_emb_dim, generator=generator), mel)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def processor():
    return OmniProcessor.from_pretrained(NANO)


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request, tmp_path_factory, processor):
    """Our model and the reference's, loaded from the folder that ours has written (in shards for the first)."""
    from transformers import Qwen2_5OmniForConditionalGeneration

    torch.manual_seed(0)
    config = CONFIGS[request.param]
    ours = OmniModel(config)
    randomise(ours)
    ours.processor = processor
    ours.speakers["Ada"] = voice(config, processor.tokenizer.convert_tokens_to_ids("<spk_1>"))
    folder = tmp_path_factory.mktemp("checkpoint")
    ours.save_pretrained(folder, 400_000 if request.param == "3 heads to 1" else 5 << 30)
    theirs = Qwen2_5OmniForConditionalGeneration.from_pretrained(folder).eval()
    always_masked(theirs.talker)
    return OmniModel.from_pretrained(folder, device="cpu"), theirs, folder


def noise_pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def wave(seconds):
    return (np.random.default_rng(1).normal(size=int(16000 * seconds)) * 0.1).astype(np.float32)


PICTURE = {"type": "image", "image": noise_pixels(84, 112, 3)}
SOUND = {"type": "audio", "audio": wave(1.3)}
SILENT = {"type": "video", "video": {"frames": noise_pixels(8, 56, 84, 3), "fps": 4.0}}
FILM = {"type": "video", "video": {"frames": noise_pixels(12, 56, 84, 3), "fps": 4.0, "audio": wave(3.1),
                                   "sample_rate": 16000}}  # fmt: skip
PROMPTS = {
    "text": ["What is three plus four?"],
    "picture": [PICTURE, "What is this?"],
    "sound": [SOUND, "What do you hear?"],
    "video": [SILENT, "What moves?"],
    "video with sound": [FILM, "What did they say?"],
    "everything": [SOUND, PICTURE, SILENT, "and", PICTURE, SOUND, "compare"],
}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_text_codes_and_wave_are_the_reference_s(pair, prompt):
    ours, theirs, _ = pair
    inputs = ours.prepare(messages=[{"role": "user", "content": PROMPTS[prompt]}])
    given = dict(inputs)
    for name in ("pixel_values", "pixel_values_videos"):  # the reference's fault 2
        if name in given:
            given[f"thinker_{name}"] = given.pop(name)
    steps = 4
    with torch.no_grad():
        expected = theirs.thinker.generate(**inputs, max_new_tokens=NEW)
        torch.manual_seed(3)
        ids, expected_wave = theirs.generate(
            **given, speaker="Ada", thinker_max_new_tokens=NEW, talker_max_new_tokens=CODES, talker_do_sample=False,
            token2wav_num_steps=steps,
        )  # fmt: skip
    assert torch.equal(ids, expected)
    count = len(expected_wave) // 480
    torch.manual_seed(3)
    noise = torch.randn(1, 2 * count, 80)
    greedy = Sampling(repetition_penalty=1.05, suppress=(ours.config.talker_config.tts_codec_start_token_id,))
    reply = ours.respond(
        inputs, "Ada", max_new_tokens=NEW, max_codes=CODES, talker_sampling=greedy, noise=noise, num_steps=steps
    )
    assert reply.ids.tolist() == ids[0, inputs["input_ids"].shape[1] :].tolist()
    assert len(reply.codes) == count and reply.audio.shape == expected_wave.shape
    assert relative(reply.audio, expected_wave) < 1e-4


def test_logits_and_loss_are_the_reference_s(pair):
    ours, theirs, _ = pair
    content = [SOUND, PICTURE, FILM, "compare"]
    inputs = ours.processor(messages=[
        [{"role": "user", "content": content}, {"role": "assistant", "content": "They differ."}],
        [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello! How are you?"}],
    ], labels=True, use_audio_in_video=True, longest_audio=True)  # fmt: skip
    with torch.no_grad():
        a, b = ours.thinker(**inputs), theirs.thinker(**inputs)
    real = inputs["attention_mask"].bool()
    assert relative(a.logits[real], b.logits[real]) < 1e-5
    assert relative(a.loss, b.loss) < 1e-5


def test_what_the_reference_saves_we_load(pair, tmp_path):
    ours, theirs, _ = pair
    theirs.save_pretrained(tmp_path)
    loaded = OmniModel.from_pretrained(tmp_path, device="cpu")
    assert loaded.config == ours.config and not loaded.training and loaded.speakers == {}
    expected = ours.state_dict()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert loaded.processor is None
    with pytest.raises(InputError, match="without tokenizer and processor"):
        loaded.generate("hello")
    reply = loaded.respond({"input_ids": torch.tensor([[5, 6, 7]])}, speak=False, max_new_tokens=3)
    assert reply.ids.shape == (3,) and reply.text is None and reply.audio is None


def test_the_reference_stops_where_we_stop(pair):
    ours, theirs, _ = pair
    assert theirs.thinker.generation_config.eos_token_id == ours.processor.end_id == ours.stop_ids()[-1]


@pytest.fixture(scope="module")
def nano(processor, tmp_path_factory):
    """A nano model with random weights, enrolled voices, and the folder it was saved to."""
    torch.manual_seed(0)
    model = OmniModel(preset("nano")).eval()
    model.processor = processor
    model.enrol(wave(2.0), 16000, "Ada")
    model.enrol((wave(1.0) * 32767).astype(np.int16)[None], 16000, "Ben", bos_token=2034)
    folder = tmp_path_factory.mktemp("nano")
    model.save_pretrained(folder)
    return model, folder


def test_a_saved_model_answers_the_same(nano):
    model, folder = nano
    loaded = OmniModel.from_pretrained(folder, device="cpu")
    assert loaded.config == model.config and list(loaded.speakers) == ["Ada", "Ben"]
    how = dict(images=[noise_pixels(56, 56, 3)], audio=[wave(1.0)], max_new_tokens=5, max_codes=12, num_steps=3)
    first, second = model.generate("Hi", **how), loaded.generate("Hi", **how)
    assert first.text == second.text and torch.equal(first.ids, second.ids)
    assert torch.equal(first.codes, second.codes) and torch.equal(first.audio, second.audio)
    assert first.sample_rate == 24000 and first.audio.dtype == torch.float32 and torch.isfinite(first.audio).all()
    assert torch.equal(model.generate("Hi", seed=0, **how).audio, first.audio)
    other = model.generate("Hi", seed=1, speaker="Ben", **how)
    assert other.audio.shape != first.audio.shape or not torch.equal(other.audio, first.audio)
    sound = torch.from_numpy(wave(0.5))
    assert torch.equal(loaded.speech_tokenizer.encode(sound), model.speech_tokenizer.encode(sound))
    assert not {path.suffix for path in folder.iterdir()} & {".tmp", ".bin"}


def test_a_checkpoint_says_how_its_talker_draws(nano, tmp_path):
    model, folder = nano
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    raw = json.loads((tmp_path / "generation_config.json").read_text())
    assert raw["talker_temperature"] == 0.9
    assert raw["token2wav_temperature"] == 1
    calmer = raw | {"talker_temperature": 0.6, "token2wav_temperature": 0.25}
    (tmp_path / "generation_config.json").write_text(json.dumps(calmer))
    loaded = OmniModel.from_pretrained(tmp_path, "cpu")
    assert loaded.talker.default_sampling == replace(model.talker.default_sampling, temperature=0.6)
    loud, calm = (m.token2wav.code2wav_dit_model.draw_noise(1, 500) for m in (model, loaded))
    assert loud.shape == (1, 1000, 80) and loud.std() == pytest.approx(1, abs=0.05)
    assert calm.std() == pytest.approx(0.25, abs=0.02)
    (tmp_path / "generation_config.json").write_text("[]")
    with pytest.raises(ConfigError, match="generation_config.json"):
        OmniModel.from_pretrained(tmp_path, "cpu")


def test_sixteen_bits_load_as_asked(nano, tmp_path):
    model, _ = nano
    model.save_pretrained(tmp_path, dtype=torch.bfloat16)
    assert sum(path.stat().st_size for path in tmp_path.glob("*.safetensors")) < 32 << 20
    loaded = OmniModel.from_pretrained(tmp_path, device="cpu")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}  # a CPU is slow in 16 bits
    loaded = OmniModel.from_pretrained(tmp_path, device="cpu", dtype=torch.bfloat16)
    assert loaded.thinker.lm_head.weight.dtype == loaded.talker.codec_head.weight.dtype == torch.bfloat16
    assert {p.dtype for p in loaded.token2wav.parameters()} == {torch.float32}
    loaded.speakers.update(model.speakers)
    ids = torch.randint(0, 2000, (1, 9))
    reply = loaded.respond({"input_ids": ids}, max_new_tokens=3, max_codes=4, num_steps=2)
    assert reply.audio.dtype == torch.float32


def test_export_writes_what_others_read(nano, tmp_path, capsys):
    from omni_lab.cli import main

    assert main(["export", str(nano[1]), str(tmp_path / "out"), "--dtype", "float16", "--shard-gb", "0.01"]) == 0
    assert "model-00001-of-" in capsys.readouterr().out
    loaded = OmniModel.from_pretrained(tmp_path / "out", device="cpu", dtype=torch.float32)
    expected = nano[0].thinker.lm_head.weight
    assert torch.equal(loaded.thinker.lm_head.weight, expected.half().float()) and list(loaded.speakers) == [
        "Ada",
        "Ben",
    ]
    for wrong in (["--dtype", "int8"], ["--shard-gb", "0"], ["--shard-gb", "inf"], ["--shard-gb", "nan"]):
        assert main(["export", str(nano[1]), str(tmp_path / "no"), *wrong]) == 1
    assert main(["export", str(nano[1]), str(nano[1])]) == 1 and main(["export", "absent", "x"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 6


def test_nothing_to_say_is_silence(nano):
    model, _ = nano
    every = tuple(range(model.config.thinker_config.text_config.vocab_size))
    reply = model.respond({"input_ids": torch.tensor([[3, 4]])}, "Ada", stop_token_ids=every)
    assert len(reply.ids) == 1 and reply.audio.shape == (0,) and reply.codes.shape == (0,)


def test_every_part_gets_a_gradient_through_the_joined_model(nano):
    model, _ = nano
    model = OmniModel.from_pretrained(nano[1], device="cpu")
    codes = torch.randint(0, 1024, (4,))
    made = model.token2wav(codes, speaker=model.speakers["Ada"], noise=torch.randn(1, 8, 80), num_steps=2)
    made.square().sum().backward()
    grads = [p.grad for p in model.token2wav.parameters() if p.requires_grad]
    assert all(g is not None and torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("arguments,message", [
    (dict(), "nothing to answer"),
    (dict(text="x", messages=[{"role": "user", "content": "y"}]), "not both"),
    (dict(text="x", images="picture.png"), "write [...] around it"),
    (dict(text="x", images=["absent.png"]), "absent.png: no such file"),
    (dict(text="x", speaker="Nobody"), "no speaker named 'Nobody'"),
    (dict(text=3), "needs its content"),
    (dict(messages=[[{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]]), "one conversation"),
])  # fmt: skip
def test_requests_that_cannot_be_met_say_why(nano, arguments, message):
    with pytest.raises(OmniLabError) as caught:
        nano[0].generate(**arguments, max_new_tokens=1)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_reply_of_no_tokens_is_refused_as_in_streaming(nano):
    model, ids = nano[0], {"input_ids": torch.tensor([[3, 4]])}
    for how in (dict(max_new_tokens=0), dict(max_new_tokens=-2), dict(max_codes=0)):
        with pytest.raises(InputError, match="is (0|-2), expected a whole number, at least 1") as streamed:
            model.stream("Hi", **how)
        with pytest.raises(InputError, match=re.escape(str(streamed.value))):
            model.respond(ids, "Ada", **how)
    with pytest.raises(InputError, match="max_new_tokens 0: expected at least 1"):
        model.thinker.generate(0, **ids)


@pytest.mark.parametrize("wrong", [
    dict(num_steps=1), dict(num_steps=2.5), dict(solver="heun"), dict(guidance_scale="much"),
    dict(sway_coefficient=math.nan), dict(max_codes="all"), dict(max_new_tokens=1.5),
])  # fmt: skip
def test_values_that_no_reply_has_are_told_before_it_is_written(nano, monkeypatch, wrong):
    model, ids = nano[0], {"input_ids": torch.tensor([[3, 4]])}
    monkeypatch.setattr(model.thinker, "prefill", None)  # nothing is computed
    with pytest.raises(InputError, match=next(iter(wrong))) as caught:
        model.respond(ids, "Ada", **wrong)
    with pytest.raises(InputError, match=re.escape(str(caught.value))):
        model.stream("Hi", **wrong)


@pytest.mark.parametrize("speak", [True, False])
def test_arguments_that_nobody_takes_are_named_before_a_reply_is_written(nano, monkeypatch, speak):
    model, ids = nano[0], {"input_ids": torch.tensor([[3, 4]])}
    monkeypatch.setattr(model.thinker, "prefill", None)  # nothing is computed
    for wrong in (dict(steps=3), dict(ahead=2), dict(reference_mel=None)):
        with pytest.raises(InputError, match=f"unknown argument {next(iter(wrong))!r}.*num_steps, .*, solver$"):
            model.respond(ids, "Ada", speak, **wrong)
    for wrong in (dict(temperature=5.0), dict(top_k=3), dict(do_sample=True)):
        with pytest.raises(InputError, match=r"unknown argument .*sampling=Sampling\(") as caught:
            model.generate("Hi", speaker="Ada", speak=speak, **wrong)
        assert "\n" not in str(caught.value)


def test_seeds_and_stops_are_what_a_generator_and_a_table_take(nano):
    model, ids = nano[0], {"input_ids": torch.tensor([[3, 4]])}
    how = dict(speak=False, max_new_tokens=8, sampling=Sampling(temperature=3.0))
    drawn = {tuple(model.respond(ids, seed=None, **how).ids.tolist()) for _ in range(4)}
    assert len(drawn) > 1  # fresh each time
    first = model.respond(ids, seed=7, **how).ids
    for seed in (np.int64(7), torch.tensor(7)):
        assert torch.equal(model.respond(ids, seed=seed, **how).ids, first)
    model.respond(ids, seed=2**64 - 1, **how), model.respond(ids, seed=-(2**63), **how)
    for seed in (2**64, -(2**63) - 1, 10**30, 1.5, "7", [7]):
        with pytest.raises(InputError, match="seed is"):
            model.respond(ids, seed=seed, **how)
    stop = int(first[1])
    for one in (stop, [stop], torch.tensor([stop]), (np.int64(stop),)):
        assert model.respond(ids, seed=7, stop_token_ids=one, **how).ids.tolist() == first[:2].tolist()
    for wrong in ("57", 5.0, [5.5], ["a"], object()):
        with pytest.raises(InputError, match="stop_token_ids are"):
            model.respond(ids, stop_token_ids=wrong, **how)


def test_types_are_given_by_name_too(nano, tmp_path):
    model, folder = nano
    loaded = OmniModel.from_pretrained(folder, "cpu", "bfloat16")
    assert loaded.thinker.lm_head.weight.dtype == loaded.talker.codec_head.weight.dtype == torch.bfloat16
    loaded.save_pretrained(tmp_path, dtype="float16")
    stored = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values() if tensor.is_floating_point()} == {torch.float16}
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for wrong in ("half", torch.int8, 16):
        with pytest.raises(ConfigError, match="dtype .*: expected one of float32"):
            OmniModel.from_pretrained(folder, "cpu", wrong)
        with pytest.raises(ConfigError, match="dtype .*: expected one of float32"):
            model.save_pretrained(tmp_path, dtype=wrong)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_turn_is_prepared_where_the_model_is_and_in_its_type(processor):
    model = OmniModel(CONFIGS["3 heads to 1"]).to(torch.bfloat16)
    model.processor = processor
    inputs = model.prepare("What?", [noise_pixels(56, 56, 3)], [wave(0.5)], [SILENT["video"]])
    floats = ("pixel_values", "pixel_values_videos", "input_features")
    assert {inputs[name].dtype for name in floats} == {torch.bfloat16}
    assert inputs["input_ids"].dtype == torch.long and inputs["video_second_per_grid"].dtype == torch.float32
    moved = model.moved(inputs)
    assert all(moved[name] is value for name, value in inputs.items())  # there already
    on_meta = model.to("meta").prepare("What?")
    assert on_meta["input_ids"].device.type == "meta"


def test_sound_without_a_mask_is_heard_by_the_talker_too(nano):
    """All frames are real: a mask of ones says the same."""
    model = nano[0]
    inputs = model.prepare("What?", [noise_pixels(56, 56, 3)], [wave(0.5)])
    assert bool(inputs["feature_attention_mask"].all())
    how = dict(max_new_tokens=3, max_codes=4, num_steps=2)
    expected = model.respond(inputs, "Ada", **how)
    bare = {name: value for name, value in inputs.items() if name != "feature_attention_mask"}
    reply = model.respond(bare, "Ada", **how)
    assert torch.equal(reply.codes, expected.codes) and torch.equal(reply.audio, expected.audio)


def test_a_folder_keeps_no_file_of_the_processor_saved_there_before(processor, tmp_path):
    model = OmniModel(replace(CONFIGS["3 heads to 1"], enable_audio_output=False))
    model.processor = processor
    stale = ("chat_template.jinja", "vocab.json", "merges.txt", "added_tokens.json")
    assert not any((NANO / name).exists() for name in stale)
    for name in (*stale, "mine.json"):
        (tmp_path / name).write_text("{}")
    model.save_pretrained(tmp_path)
    assert not any((tmp_path / name).exists() for name in stale) and (tmp_path / "mine.json").exists()
    loaded = OmniModel.from_pretrained(tmp_path, "cpu")
    assert loaded.processor.prompt([{"role": "user", "content": "Hi"}]).startswith("<|im_start|>system")
    before = {path.name for path in tmp_path.iterdir()}
    loaded.save_pretrained(tmp_path)  # over what it was loaded from
    assert {path.name for path in tmp_path.iterdir()} == before
    loaded.processor = None
    loaded.save_pretrained(tmp_path)
    assert OmniModel.from_pretrained(tmp_path, "cpu").processor is None
    assert not any((tmp_path / name).exists() for name in FILES) and (tmp_path / "mine.json").exists()


def test_an_index_that_misplaces_the_first_tensor_is_named(tmp_path):
    model = OmniModel(replace(CONFIGS["3 heads to 1"], enable_audio_output=False))
    model.save_pretrained(tmp_path, 100_000)
    index = tmp_path / "model.safetensors.index.json"
    raw = json.loads(index.read_text())
    first = next(name for name in raw["weight_map"] if name.startswith("thinker."))
    raw["weight_map"][first] = max(raw["weight_map"].values())
    index.write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=f"{first!r} is missing, though .* places it here"):
        OmniModel.from_pretrained(tmp_path, "cpu")


def test_models_without_a_voice_say_so(nano):
    config = nano[0].config
    mute = OmniModel(replace(config, enable_audio_output=False, speech_tokenizer_config=None))
    ids = {"input_ids": torch.tensor([[3]])}
    with pytest.raises(InputError, match="no talker"):
        mute.respond(ids)
    with pytest.raises(InputError, match="no speaker encoder"):
        mute.enrol(wave(1.0), 16000, "Ada")
    with pytest.raises(InputError, match="no talker"):  # its encoder hears, and nobody would speak
        OmniModel(replace(config, enable_audio_output=False)).enrol(wave(1.0), 16000, "Ada")
    assert mute.respond(ids, speak=False, max_new_tokens=2).audio is None
    with pytest.raises(InputError, match="no speakers"):
        OmniModel(config).respond(ids)
    with pytest.raises(InputError, match="needs a name"):
        nano[0].enrol(wave(1.0), 16000, "")
    with pytest.raises(InputError, match="at least 0.5 s"):
        nano[0].enrol(wave(0.1), 16000, "Short")


def test_a_folder_without_a_talker_in_its_configuration_loads_the_rest(nano, tmp_path):
    model, folder = nano
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    raw = json.loads((tmp_path / "config.json").read_text())
    raw["enable_audio_output"] = False
    (tmp_path / "config.json").write_text(json.dumps(raw))
    loaded = OmniModel.from_pretrained(tmp_path, device="cpu")
    assert loaded.talker is None and loaded.generate("Hi", speak=False, max_new_tokens=2).audio is None


@pytest.mark.parametrize("change,message", [
    (lambda raw: raw["thinker_config"]["text_config"].update(hidden_size=250), "num_attention_heads"),
    (lambda raw: raw["thinker_config"]["text_config"].update(hidden_size="wide"), "hidden_size is 'wide'"),
    (lambda raw: raw["talker_config"].update(num_hidden_layers=-3), ""),
    (lambda raw: raw["token2wav_config"]["dit_config"].update(enc_channels=[]), "enc_channels"),
    (lambda raw: raw["token2wav_config"]["bigvgan_config"].update(upsample_rates=[0]), ""),
    (lambda raw: raw["thinker_config"]["vision_config"].update(num_heads=0), ""),
    (lambda raw: raw.update(thinker_config=[]), "expected a table"),
])  # fmt: skip
def test_configurations_that_no_model_can_have(nano, tmp_path, change, message):
    model, folder = nano
    for path in folder.iterdir():
        (tmp_path / path.name).hardlink_to(path)
    raw = json.loads((folder / "config.json").read_text())
    change(raw)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises((ConfigError, CheckpointError)) as caught:
        OmniModel.from_pretrained(tmp_path, device="cpu")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_presets_have_the_published_numbers_of_parameters():
    with torch.device("meta"):
        large = OmniModel(preset("qwen2_5_omni_7b"))
        small = OmniModel(preset("nano"))

    def millions(module):
        return sum(p.numel() for p in module.parameters()) / 1e6

    assert millions(large) == pytest.approx(10730, abs=5)
    assert millions(large.thinker.visual) == pytest.approx(676.6, abs=0.05)
    assert millions(large.token2wav.code2wav_dit_model) == pytest.approx(333.6, abs=0.05)
    assert millions(large.token2wav.code2wav_bigvgan_model) == pytest.approx(115.4, abs=0.05)
    assert 12 < millions(small) < 20
