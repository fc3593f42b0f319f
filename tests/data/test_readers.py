"""Tiny files in the field's own formats give samples; broken ones are counted, and stop the reading when many."""

import gzip
import io
import json
import lzma
import sys
import tarfile
from unittest import mock

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
from PIL import Image

from omni_lab.data import readers, video_files, world
from omni_lab.data.sample import Sample, image, user
from omni_lab.errors import DataError

RATE = 22_050


def picture(colour="red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (60, 40), colour).save(file, "PNG")
    return file.getvalue()


def tone(seconds: float = 0.5) -> np.ndarray:
    return (0.3 * np.sin(np.arange(int(seconds * RATE)) * 0.1)).astype(np.float32)


def sound(form="FLAC") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(), RATE, format=form)
    return file.getvalue()


def part(sample, kind):
    return next(p[kind] for m in sample.messages for p in m["content"] if p["type"] == kind)


def test_llava_json(tmp_path):
    (tmp_path / "one.png").write_bytes(picture())
    turns = [("human", "<image>\nWhat is it?"), ("gpt", "A square."), ("human", "Which colour?"), ("gpt", "Red.")]
    record = {"id": "7", "image": "one.png", "conversations": [{"from": who, "value": v} for who, v in turns]}
    (tmp_path / "set.json").write_text(json.dumps([record]))
    (sample,) = readers.llava(tmp_path / "set.json", tmp_path)
    assert sample.answer == "Red." and [m["role"] for m in sample.messages] == ["user", "assistant", "user"]
    assert sample.messages[0]["content"][1]["text"] == "What is it?" and part(sample, "image").size == (60, 40)


def test_coco_boxes_and_captions(tmp_path):
    (tmp_path / "one.png").write_bytes(picture())
    images = [{"id": 1, "file_name": "one.png", "width": 60, "height": 40}]
    boxes = [{"id": 5, "image_id": 1, "category_id": 2, "bbox": [15, 10, 30, 20]}]
    captions = [{"id": 6, "image_id": 1, "caption": "A red square."}]
    for name, annotations in (("boxes", boxes), ("captions", captions)):
        table = {"images": images, "annotations": annotations, "categories": [{"id": 2, "name": "square"}]}
        (tmp_path / f"{name}.json").write_text(json.dumps(table))
    (grounded,) = readers.coco(tmp_path / "boxes.json", tmp_path)
    assert grounded.answer == "25,25,75,75" and "square" in grounded.messages[0]["content"][1]["text"]
    (captioned,) = readers.coco(tmp_path / "captions.json", tmp_path)
    assert captioned.answer == "A red square."


def test_coco_asks_for_no_box_that_its_name_does_not_tell_from_others(tmp_path):
    table = coco_table()
    written(tmp_path / "one.png", picture())
    (box,) = table["annotations"]
    again = box | {"id": 101, "category_id": 3, "bbox": [1, 1, 9, 9]}
    table["categories"] += [{"id": 3, "name": "circle"}, {"id": 4, "name": "dots"}]
    crowd = again | {"id": 102, "category_id": 4, "iscrowd": 1}
    table["annotations"] += [again, again | {"id": 103}, crowd]
    report = readers.Report()
    (only,) = readers.coco(written(tmp_path / "set.json", table), tmp_path, report)
    assert only.meta["key"] == f"coco {box['id']}" and not report.bad


def test_librispeech_and_ljspeech_folders(tmp_path):
    chapter = tmp_path / "libri" / "84" / "121"
    chapter.mkdir(parents=True)
    (chapter / "84-121-0000.flac").write_bytes(sound())
    (chapter / "84-121.trans.txt").write_text("84-121-0000 GO, DO YOU HEAR\n")
    (heard,) = readers.librispeech(tmp_path / "libri")
    assert heard.answer == "Go, do you hear" and abs(len(part(heard, "audio")) - 8000) < 20
    (tmp_path / "lj" / "wavs").mkdir(parents=True)
    (tmp_path / "lj" / "wavs" / "LJ001-0001.wav").write_bytes(sound("WAV"))
    (tmp_path / "lj" / "metadata.csv").write_text("LJ001-0001|In 1455|In fourteen fifty-five\n")
    (said,) = readers.ljspeech(tmp_path / "lj")
    assert said.answer == "In fourteen fifty-five" and abs(len(said.speech) - 12000) < 20


def shard(path, records):
    with tarfile.open(path, "w") as archive:
        for name, raw in records:
            entry = tarfile.TarInfo(name)
            entry.size = len(raw)
            archive.addfile(entry, io.BytesIO(raw))


def test_webdataset_shards_by_rank(tmp_path):
    for number in range(2):
        shard(tmp_path / f"{number}.tar", [
            (f"a{number}.png", picture()), (f"a{number}.txt", b"a red picture"),
            (f"b{number}.flac", sound()), (f"b{number}.json", json.dumps({"text": "a tone"}).encode()),
        ])  # fmt: skip
    paths = sorted(tmp_path.glob("*.tar"))
    assert [s.answer for s in readers.webdataset(paths)] == ["a red picture", "a tone"] * 2
    ranks = [[s.meta["key"] for s in readers.webdataset(paths, rank=r, world=2)] for r in range(2)]
    assert ranks == [["a0", "b0"], ["a1", "b1"]]


@pytest.mark.parametrize("harm", ["between two records", "header", "gzip", "xz"])
def test_a_damaged_shard_is_not_taken_for_a_short_one(tmp_path, harm):
    path = tmp_path / "0.tar"
    shard(path, [("a.png", picture()), ("a.txt", b"one"), ("b.png", picture()), ("b.txt", b"two")])
    raw = path.read_bytes()
    place = raw.index(b"b.png")
    if harm == "gzip":
        raw = bytearray(gzip.compress(raw))
        raw[len(raw) // 2] ^= 0xFF
    elif harm == "xz":
        raw = bytearray(lzma.compress(raw))
        raw[len(raw) // 2] ^= 0xFF
    else:
        raw = raw[:place] + (b"\xff" * 512 + bytes(1024) if harm == "header" else b"")
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"0\.tar: missing, cut short or no tar file"):
        list(readers.webdataset([path]))
    for packed in (gzip.compress, lzma.compress):
        shard(path, [("a.png", picture()), ("a.txt", b"one")])
        path.write_bytes(packed(path.read_bytes()))
        assert [s.answer for s in readers.webdataset([path])] == ["one"]


def test_a_record_may_hold_picture_and_sound(tmp_path):
    about = json.dumps({"question": "What rings?", "answer": "a bell"}).encode()
    shard(tmp_path / "0.tar", [("a.png", picture()), ("a.flac", sound()), ("a.json", about)])
    (both,) = readers.webdataset([tmp_path / "0.tar"])
    assert [p["type"] for p in both.messages[0]["content"]] == ["image", "audio", "text"] and both.answer == "a bell"


def test_parquet_rows_by_rank(tmp_path):
    rows = {
        "image": [{"bytes": picture(), "path": "x.png"}] * 4,
        "question": ["Colour?"] * 4,
        "answer": ["red", "green", "blue", "grey"],
    }
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "set.parquet", row_group_size=2)
    assert [s.answer for s in readers.parquet(tmp_path / "set.parquet")] == rows["answer"]
    assert [s.answer for s in readers.parquet(tmp_path / "set.parquet", rank=1, world=2)] == ["blue", "grey"]
    heard = pyarrow.table({"audio": [sound()], "text": ["a tone"]})
    pyarrow.parquet.write_table(heard, tmp_path / "heard.parquet")
    assert [s.answer for s in readers.parquet(tmp_path / "heard.parquet")] == ["a tone"]


def test_a_folder_of_videos(tmp_path):
    made = world.sample("video_order", "train", 0, 4)
    film = part(made, "video")
    video_files.write(tmp_path / "one.mp4", film["frames"], film["fps"], film["audio"])
    line = {"file": "one.mp4", "question": "What came first?", "answer": made.answer}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(line) + "\n")
    (sample,) = readers.videos(tmp_path)
    assert sample.answer == made.answer and part(sample, "video")["frames"].shape == film["frames"].shape


def bad_set(tmp_path, good: int):
    """`good` whole records and three bad ones: a broken picture, an empty caption, NaN in the sound."""
    nan = tone()
    nan[7] = np.nan
    file = io.BytesIO()
    soundfile.write(file, nan, RATE, format="WAV", subtype="FLOAT")
    records = [(f"g{n}.{end}", raw) for n in range(good) for end, raw in (("png", picture()), ("txt", b"red"))]
    records += [("x.png", picture()[:50]), ("x.txt", b"red"), ("y.png", picture()), ("y.txt", b" ")]
    records += [("z.wav", file.getvalue()), ("z.txt", b"tone")]
    shard(tmp_path / "set.tar", records)
    return [tmp_path / "set.tar"]


def test_bad_records_are_skipped_counted_and_listed(tmp_path):
    report = readers.Report()
    assert len(list(readers.webdataset(bad_set(tmp_path, 400), report))) == 400
    assert report.good == 400 and len(report.bad) == 3
    assert "x:" in report.bad[0] and "empty" in report.bad[1] and "not finite" in report.bad[2]
    assert report.line().startswith("400 records read, 3 skipped")


def test_what_pillow_raises_and_fields_of_another_type_are_bad_records(tmp_path):
    png = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(png, "PNG")
    broken = bytearray(png.getvalue())
    broken[broken.index(b"IDAT") - 2 : broken.index(b"IDAT")] = b"\0\0"  # the chunk ends early, rubbish for a header
    report = readers.Report()
    records = [("good", png.getvalue()), ("broken", bytes(broken)), ("none", None)]

    def make(raw):
        if raw is None:
            return raw.strip()
        return Sample([user("What is this?", image(readers.open_picture(raw)))], "any", "noise", meta={"key": "k"})

    assert len(list(readers.each("set", [*[records[0]] * 300, *records[1:]], make, report))) == 300
    assert len(report.bad) == 2
    for error in (SyntaxError("broken PNG file"), Image.DecompressionBombError("too large")):
        with mock.patch.object(Image, "open", side_effect=error), pytest.raises(DataError, match="not a picture"):
            readers.open_picture(b"")


def test_more_than_one_percent_stops_with_the_list(tmp_path):
    with pytest.raises(DataError, match="of 10. records"):
        list(readers.webdataset(bad_set(tmp_path, 100)))


@pytest.mark.parametrize("reader", ["llava", "coco", "librispeech", "ljspeech", "webdataset", "parquet", "videos"])
def test_what_is_not_there_gives_one_line(tmp_path, reader):
    missing = tmp_path / "missing"
    arguments = {"llava": (missing, tmp_path), "coco": (missing, tmp_path), "webdataset": ([missing],)}
    with pytest.raises(DataError) as caught:
        list(getattr(readers, reader)(*arguments.get(reader, (missing,))))
    assert "\n" not in str(caught.value) and "missing" in str(caught.value)


def written(path, content):
    """A file in the folder of a test."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def coco_table(**changed):
    about = {"id": 1, "file_name": "one.png", "width": 60, "height": 40}
    box = {"id": 5, "image_id": 1, "category_id": 2, "bbox": [15, 10, 30, 20]}
    parts = {name: {k: changed.get(k, v) for k, v in part.items()} for name, part in (("i", about), ("b", box))}
    return {"images": [parts["i"]], "annotations": [parts["b"]], "categories": [{"id": 2, "name": "square"}]}


@pytest.mark.parametrize(
    ("reader", "content", "words"),
    [
        ("llava", {"a": 1}, "holds a dict, expected a list"),
        ("llava", 3, "expected a list"),
        ("llava", [None], "1 of 1 records cannot be read"),
        ("coco", {"images": [], "annotations": [None]}, "1 of 1 records cannot be read"),
        ("coco", {"images": [], "annotations": 3}, "expected a list"),
        ("coco", coco_table(width=0), "in a picture of 0 by 40"),
        ("coco", coco_table(bbox=[0, 0, float("inf"), 1]), "the box"),
        ("coco", coco_table(bbox=[0, 0, float("nan"), 1]), "the box"),
        ("coco", coco_table(bbox=[0, 0, 0, 1]), "the box"),
        ("coco", coco_table(bbox=[0, 0, "wide", 1]), "1 of 1 records cannot be read"),
    ],
)
def test_json_of_another_form_is_one_line(tmp_path, reader, content, words):
    written(tmp_path / "one.png", picture())
    path = written(tmp_path / "set.json", content)
    with pytest.raises(DataError, match=words) as caught:
        list(getattr(readers, reader)(path, tmp_path))
    assert "\n" not in str(caught.value) and "set.json" in str(caught.value)


def test_one_malformed_record_is_a_bad_record(tmp_path):
    written(tmp_path / "one.png", picture())
    said = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A square."}]
    dialogues = [{"id": i, "image": "one.png", "conversations": said} for i in range(150)]
    boxes, report = coco_table(), readers.Report()
    boxes["images"] = [boxes["images"][0] | {"id": i} for i in range(150)]
    boxes["annotations"] = [boxes["annotations"][0] | {"id": i, "image_id": i} for i in range(150)]
    boxes["annotations"][70]["bbox"] = [0, 0, float("inf"), 1]
    assert len(list(readers.llava(written(tmp_path / "a.json", [*dialogues, None]), tmp_path, report))) == 150
    assert len(list(readers.coco(written(tmp_path / "b.json", boxes), tmp_path, report))) == 149
    assert [line.split(":")[0] for line in report.bad] == ["150", "70"]


def listings(tmp_path, text):
    """Folders of 120 records each whose listings hold one line that is no UTF-8."""
    for i in range(120):
        written(tmp_path / "libri" / f"1-1-{i}.flac", sound())
        written(tmp_path / "lj" / "wavs" / f"L{i}.wav", sound("WAV"))
    for name, line in (("libri/1-1.trans.txt", "1-1-{} {}"), ("lj/metadata.csv", "L{}|{}|{}")):
        lines = [line.format(i, text, text).encode("latin-1" if i == 119 else "utf-8") for i in range(120)]
        written(tmp_path / name, b"\r\n".join([*lines, b""]))


def test_a_line_that_is_no_utf8_is_a_bad_record(tmp_path):
    listings(tmp_path, "CAFÉ")
    for reader, folder, name in ((readers.librispeech, "libri", "1-1-119"), (readers.ljspeech, "lj", "L119")):
        report = readers.Report()
        assert {s.answer.lower() for s in reader(tmp_path / folder, report)} == {"café"} and report.good == 119
        assert len(report.bad) == 1 and report.bad[0].startswith(f"{name}: 'utf-8'")
    written(tmp_path / "videos" / "metadata.jsonl", '{"file": "x.mp4", "question": "café"}\n'.encode("latin-1"))
    with pytest.raises(DataError, match="1 of 1 records cannot be read.*utf-8"):
        list(readers.videos(tmp_path / "videos"))


def test_only_newlines_end_a_line_of_json(tmp_path, monkeypatch):
    """JSON may hold a line separator as it is; `str.splitlines` cut there."""
    monkeypatch.setattr(video_files, "read", lambda path: {"frames": np.zeros((1, 2, 2, 3), np.uint8), "audio": None})
    line = json.dumps({"file": "x.mp4", "question": "one\u2028two\x85three", "answer": "yes"}, ensure_ascii=False)
    written(tmp_path / "metadata.jsonl", f"{line}\r\n\r\n{line}\n".encode())
    asked = [sample.messages[0]["content"][-1]["text"] for sample in readers.videos(tmp_path)]
    assert asked == ["one\u2028two\x85three"] * 2


def test_pictures_can_stay_in_their_files(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "open_picture", lambda path: pytest.fail("opened"))
    said = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A square."}]
    path = written(tmp_path / "set.json", [{"id": 1, "image": "one.png", "conversations": said}])
    (sample,) = readers.llava(path, tmp_path, opened=False)
    assert part(sample, "image") == tmp_path / "one.png"


def test_media_of_parquet_are_bytes(tmp_path):
    """Never a path, which would read whatever file a set from elsewhere names."""
    written(tmp_path / "one.png", picture())
    for value in (str(tmp_path / "one.png"), 5):
        table = pyarrow.table({"image": [value], "caption": ["A square."]})
        pyarrow.parquet.write_table(table, tmp_path / "set.parquet")
        with pytest.raises(DataError, match="the png is no bytes"):
            list(readers.parquet(tmp_path / "set.parquet"))


def test_parquet_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="pip install pyarrow"):
        list(readers.parquet(tmp_path / "set.parquet"))
