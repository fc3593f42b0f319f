"""LLaVA: templates and labels are the library's, the tower stays still, published parts fit, files are checked."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from omni_lab import clip, llava, llava_hub
from omni_lab.bpe import read_tokenizer
from omni_lab.clip_config import CLIPConfig, ImageTowerConfig, TextTowerConfig
from omni_lab.data import instructions, readers, scenes
from omni_lab.data.folders import samples_folder
from omni_lab.data.splits import generator
from omni_lab.errors import CheckpointError, ConfigError, DataError, InputError
from omni_lab.processing import chat
from omni_lab.train.loop import train
from omni_lab.train.recipes import find

NANO = samples_folder() / "checkpoints" / "nano"
TURNS = [("What is this?", "A dog."), ("And its colour?", "It is red.")]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(0)
    config = CLIPConfig(32, ImageTowerConfig(32, 8, (1, 1), 4), TextTowerConfig(300, 8, 32, 2, 1))
    return clip.CLIP(config).eval().visual


@pytest.fixture(scope="module")
def tokenizer():
    return read_tokenizer(NANO / "tokenizer.json")


@pytest.fixture
def model(tower, tokenizer):
    torch.manual_seed(1)
    return llava.LLaVA(llava.LlavaConfig(image_size=32), tokenizer, tower).eval()


def test_chatml_and_its_labels_are_the_librarys(model):
    from transformers import AutoTokenizer

    library = AutoTokenizer.from_pretrained(NANO)
    messages = [{"role": "system", "content": llava.SYSTEM}]
    for question, answer in TURNS:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    ids, labels = model.tokenize(llava.chatml(TURNS, llava.SYSTEM))
    assert library.apply_chat_template(messages, tokenize=False) == "".join(
        text for text, _ in llava.chatml(TURNS, llava.SYSTEM)
    )
    assert ids.tolist() == list(library.apply_chat_template(messages)["input_ids"])
    header = library("<|im_start|>assistant\n")["input_ids"]
    theirs = chat.answer_labels(ids[None], torch.ones_like(ids[None]), header, model.stop)[0]
    assert torch.equal(labels, theirs)


def test_the_papers_form_ends_every_message_with_the_stop():
    text = "".join(t for t, _ in llava.human_assistant(TURNS, "System."))
    assert text.count("###") == 1 + 2 * len(TURNS) and text.startswith(
        "System.###\nHuman: What is this?###\nAssistant: A"
    )


def test_loss_is_the_librarys(model):
    from transformers.loss.loss_utils import ForCausalLMLoss

    logits, labels = torch.randn(2, 7, 11), torch.randint(0, 11, (2, 7))
    labels[:, :3] = llava.IGNORED
    torch.testing.assert_close(llava.answer_loss(logits, labels), ForCausalLMLoss(logits, labels, 11))


def test_the_grid_is_what_the_tower_pools(tower):
    pictures = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(tower(pictures), tower.attnpool(tower.grid(pictures)))
    assert llava.grid_shape(tower, 48) == (64, 6)


def test_the_tower_stays_still_while_the_rest_trains(model):
    model.train()
    assert model.language_model.training and not any(m.training for m in model.vision_tower.modules())
    before = {k: v.clone() for k, v in model.vision_tower.state_dict().items()}
    features = model.project(model.look(torch.randn(2, 3, 32, 32)))
    ids = model.prompt("What?", places=16).expand(2, -1)
    model(ids, features).square().mean().backward()
    assert model.projector.weight.grad.abs().sum() > 0
    assert all(torch.equal(v, before[k]) for k, v in model.vision_tower.state_dict().items())
    assert all(p.grad is None for p in model.vision_tower.parameters())


def test_the_answer_depends_on_the_picture_and_not_on_padding(model):
    one, other = torch.randn(2, 1, 16, 160)
    ids = model.prompt("What?", places=16)
    padded = torch.cat([ids, torch.zeros(1, 4, dtype=torch.long)], dim=1)
    with torch.no_grad():
        plain = model(ids, one)
        torch.testing.assert_close(model(padded, one)[:, : ids.shape[1]], plain, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(model(ids, other)[:, -1], plain[:, -1])
    assert isinstance(model.answer(Image.new("RGB", (50, 40), "red"), "What?", TURNS, longest=3), str)
    assert isinstance(model.answer(None, "What?", longest=3), str)
    with pytest.raises(InputError):
        model(model.prompt("What?", places=5), one)


def test_a_picture_told_in_words_is_the_sum_of_their_embeddings(model):
    told = torch.tensor([[[5, 7], [9, -1], [-1, -1]]])
    table = model.language_model.embed_tokens.weight
    expected = torch.stack([table[5] + table[7], table[9], torch.zeros(160)])
    torch.testing.assert_close(model.read(told)[0], expected)


def test_told_places_are_those_that_a_thing_covers():
    scene = scenes.compose(np.random.default_rng(1), ["dog"], "train", size=96, cards=0.0)
    told = instructions.told(scene, 6)
    x, y = (int(c // 16) for c in scene.things[0].centre)
    assert len(told) == 36 and told[6 * y + x] == "dog" and set(told) <= {"", "dog"}


def test_examples_are_pure_functions_and_splits_do_not_meet():
    for kind in instructions.KINDS:
        one, other = (instructions.example(generator("t", "train", 0, 3), "train", kind) for _ in range(2))
        assert one.turns == other.turns and one.picture.tobytes() == other.picture.tobytes()
        assert one.picture.size == (96, 96) and all(q and a for q, a in one.turns)
        assert kind != "science" or one.turns[0][1] in one.options
    found = {}
    for split in ("train", "test"):
        made = [instructions.compose(generator("t", split, 0, i), split) for i in range(150)]
        found[split] = {tuple(sorted(thing.word for thing in scene.things)) for scene in made}
    assert not found["train"] & found["test"]


def test_what_is_saved_is_loaded_and_knows_its_tower(model, tower, tmp_path):
    model.save(tmp_path)
    again = llava.LLaVA.load(tmp_path, tower)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    other = clip.ModifiedResNet(ImageTowerConfig(32, 8, (1, 1), 4), 32).eval()
    with pytest.raises(CheckpointError, match="another image tower"):
        llava.LLaVA.load(tmp_path, other)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CheckpointError) as caught:
            llava.LLaVA.load(folder, tower)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "settings", "says"),
    [
        ("text", dict(num_attention_heads=0), "num_attention_heads is 0"),
        ("text", dict(num_attention_heads=7), "num_attention_heads"),
        ("text", dict(num_key_value_heads=3), "num_key_value_heads"),
        ("text", dict(hidden_size="160"), "hidden_size is '160', expected int"),
        ("text", dict(rms_norm_eps="small"), "rms_norm_eps is 'small'"),
        ("text", dict(mrope_section=[4]), "mrope_section must sum"),
        ("text", dict(mrope_section="ab"), "mrope_section is 'ab'"),
        ("text", dict(hidden_act="gelu"), "hidden_act is 'gelu'"),
        ("text", dict(num_hidden_layers=10**9), "expected 1 to 1000"),
        ("text", dict(vocab_size=10**7), "far more than the"),
        ("text", dict(intermediate_size=10**7), "far more than the"),
        (None, dict(text=[]), "expected a table"),
        (None, dict(image_size="32"), "image_size is '32'"),
        (None, dict(image_size=10**6), "image_size is 1000000, expected 1 to 4096"),
        (None, dict(image_size=1), "holds no readable LLaVA"),
    ],
)
def test_sizes_that_no_llava_has_are_one_line(model, tower, tmp_path, part, settings, says):
    model.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (config if part is None else config[part]).update(settings)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=says) as caught:
        llava.LLaVA.load(tmp_path, tower)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[" * 10**5, "[]", "{}", "3", "{"])
def test_configurations_that_are_none_are_one_line(model, tower, tmp_path, content):
    model.save(tmp_path)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match="no readable LLaVA"):
        llava.LLaVA.load(tmp_path, tower)


def test_each_stage_trains_its_own_part(tmp_path):
    parts, before = tmp_path / "parts", None
    for name in ("llava_language", "llava_align", "llava_instruct"):
        kind = find(name)
        recipe = kind.at("smoke", parts=parts)
        after = train(recipe, tmp_path / name, device="cpu", progress=False).model.state_dict()
        if before is not None:
            moved = {k.split(".")[0] for k, v in after.items() if not torch.equal(v, before[k])}
            assert moved - {"norm"} == {part.rstrip(".") for part in llava.STAGES[kind.stage]}, name
        before = after
    loaded = llava.LLaVA.load(parts / "llava", recipe.encoder.visual)
    torch.testing.assert_close(loaded.projector.weight, before["projector.weight"].half().float())


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A tiny random CLIP, Qwen2 and LLaVA-Instruct in the hub's own layouts."""
    from transformers import (
        AutoTokenizer,
        CLIPImageProcessor,
        CLIPVisionConfig,
        CLIPVisionModel,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    torch.manual_seed(2)
    vision, language, instruct = (tmp_path_factory.mktemp(n) for n in ("vision", "language", "instruct"))
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 48}
    CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=28, patch_size=14)).save_pretrained(vision)
    CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=28).save_pretrained(vision)
    config = Qwen2Config(vocab_size=2064, num_key_value_heads=2, tie_word_embeddings=True, **sizes)
    Qwen2ForCausalLM(config).save_pretrained(language)
    AutoTokenizer.from_pretrained(NANO).save_pretrained(language)
    records = []
    for i in range(4):
        Image.new("RGB", (40, 30), (60 * i, 0, 0)).save(instruct / f"{i}.jpg")
        said = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": f"Number {i}."}]
        records.append({"id": str(i), "image": f"{i}.jpg", "conversations": said})
    (instruct / "llava_instruct_150k.json").write_text(json.dumps(records))
    return {"vision": str(vision), "language": str(language), "instruct": str(instruct)}


def test_published_parts_fit(published):
    from transformers import AutoModelForCausalLM

    model = llava_hub.from_hub(published["vision"], published["language"]).eval()
    ids = torch.randint(0, 2000, (2, 9))
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(published["language"]).eval()(ids).logits
        torch.testing.assert_close(model(ids), theirs, atol=1e-4, rtol=1e-4)
    assert model.side == 2 and model.projector.in_features == 32
    assert model.answer(Image.new("RGB", (40, 30)), "What?", longest=2) is not None
    for vision, language in ((published["language"] + "x", published["language"]), (published["vision"], "/nowhere")):
        with pytest.raises(CheckpointError):
            llava_hub.from_hub(vision, language)


def test_a_whole_clip_has_a_tower_too(published, tmp_path):
    from transformers import CLIPConfig as Whole
    from transformers import CLIPImageProcessor, CLIPModel

    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 48}
    both = CLIPModel(Whole(text_config=sizes, vision_config={**sizes, "image_size": 28, "patch_size": 14}))
    both.save_pretrained(tmp_path)
    CLIPImageProcessor.from_pretrained(published["vision"]).save_pretrained(tmp_path)
    tower, side = llava_hub.load_tower(str(tmp_path))
    assert side == 28
    expected = both.vision_model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tower.vision.state_dict().items())


def test_folders_of_other_models_are_named(published, tmp_path):
    """Of a plain ViT the library would make a CLIP of random weights, and say nothing."""
    from transformers import CLIPImageProcessor, GPT2Config, GPT2LMHeadModel, Qwen2ForCausalLM, ViTConfig, ViTModel

    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 48}
    vit, gpt, cut, turned = (tmp_path / name for name in ("vit", "gpt", "cut", "turned"))
    ViTModel(ViTConfig(**sizes, image_size=28, patch_size=14)).save_pretrained(vit)
    CLIPImageProcessor.from_pretrained(published["vision"]).save_pretrained(vit)
    with pytest.raises(CheckpointError, match="is no CLIP: it lacks [0-9]+ tensors, first "):
        llava_hub.load_tower(str(vit))
    GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2)).save_pretrained(gpt)
    with pytest.raises(CheckpointError, match="is a gpt2, expected a Qwen2.5"):
        llava_hub.load_language(str(gpt))
    qwen = Qwen2ForCausalLM.from_pretrained(published["language"])
    state = {k: v for k, v in qwen.state_dict().items() if "layers.1.mlp" not in k}
    qwen.save_pretrained(cut, state_dict=state)
    with pytest.raises(CheckpointError, match="is no Qwen2.5: it lacks 3 tensors, first model.layers.1.mlp"):
        llava_hub.load_language(str(cut))
    qwen.save_pretrained(turned)
    raw = json.loads((turned / "config.json").read_text())
    raw["rope_parameters"] = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    (turned / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ConfigError, match="rope_type is 'linear'"):
        llava_hub.load_language(str(turned))


def test_both_stages_run_on_the_fields_data(published, tmp_path):
    from dataclasses import replace

    kind = find("llava_hub")
    for stage in ("align", "instruct"):
        settings = replace(kind.scales["smoke"], stage=stage, **published)
        assert train(kind(settings, 0, tmp_path / "parts"), tmp_path / stage, device="cpu", progress=False).finished
    with pytest.raises(ConfigError):
        kind(replace(settings, instruct="")).batch(0)
    with pytest.raises(ConfigError, match="'llava_hub_elsewhere'"):
        kind(replace(settings, start="llava_hub_elsewhere"), 0, tmp_path / "parts").build()
    one, other = kind(settings, 0, tmp_path / "parts"), kind(replace(settings, stage="align"))
    for recipe in (one, other):  # what several processes have trained is gathered into a second one
        assert all(p is not q for p, q in zip(recipe.build().parameters(), recipe.build().parameters(), strict=True))
    (tmp_path / "llava_instruct_150k.json").write_text("[]")
    with pytest.raises(DataError):
        kind(replace(settings, instruct=str(tmp_path))).examples("train", 0)


def test_pictures_are_opened_when_their_dialogue_is_drawn(published, tmp_path, monkeypatch):
    """All at once they would be 140 GB of LLaVA-Instruct's. One that is broken is skipped and counted."""
    from dataclasses import replace

    folder = shutil.copytree(published["instruct"], tmp_path / "set")
    file, opened = folder / "llava_instruct_150k.json", []
    kind = find("llava_hub")
    settings = replace(kind.scales["smoke"], batch_size=16, **published | {"instruct": str(folder)})
    original = readers.open_picture
    monkeypatch.setattr(readers, "open_picture", lambda path: [opened.append(path), original(path)][1])
    recipe = kind(settings)
    assert sum(map(len, recipe.samples.values())) == 4 and not opened
    whole = recipe.batch(0)
    assert whole["samples"] == len(opened) == 16 and whole["skipped"] == []
    assert whole["weight"] == (whole["labels"] != llava.IGNORED).sum() > 16
    (folder / "1.jpg").write_bytes(b"no picture")
    records = json.loads(file.read_text())
    records[2]["conversations"] = [records[2]["conversations"][0], *records[2]["conversations"]]
    file.write_text(json.dumps(records))
    bad = kind(settings).batch(0)
    assert bad["samples"] == 16 and len(bad["ids"]) + len(bad["skipped"]) == 16 and len(bad["ids"]) > 0
    assert {line.split(":")[0] for line in bad["skipped"]} == {str(folder / "1.jpg"), "dialogue 2"}
    for picture in folder.glob("*.jpg"):
        picture.unlink()
    with pytest.raises(DataError, match="none can be read"):
        kind(replace(settings, batch_size=1)).batch(0)


def test_micro_batches_weigh_by_their_answers_tokens():
    """Means of unequal numbers of tokens, added up alike, are not the mean of a step."""
    recipe = find("llava_language").at("smoke")
    batches = [recipe.batch(i) for i in range(3)]
    weights = [batch["weight"] for batch in batches]
    assert weights == [float((batch["labels"] != llava.IGNORED).sum()) for batch in batches] and len(set(weights)) > 1
    model = recipe.build()
    with torch.no_grad():
        means = [float(recipe.loss(model, batch, "main")[0]) for batch in batches]
        joined = recipe.collate([example for i in range(3) for example in recipe.examples("train", i)])
        together = float(recipe.loss(model, joined, "main")[0])
    assert together == pytest.approx(np.average(means, weights=weights), rel=1e-4)
