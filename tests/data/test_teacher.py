"""The same prompts to a rule-based teacher and to a server: a stub of the OpenAI interface, over a real socket."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from omni_lab.data import dialogues, scenes, teacher
from omni_lab.errors import DataError


class Stub(BaseHTTPRequestHandler):
    reply: str | None = ""
    asked: list = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Stub.asked.append((self.path, self.headers.get("Authorization"), body))
        raw = json.dumps({"choices": [{"message": {"role": "assistant", "content": Stub.reply}}]}).encode()
        self.send_response(500 if Stub.reply == "" else 200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    Stub.asked = []
    stub = HTTPServer(("127.0.0.1", 0), Stub)
    thread = threading.Thread(target=stub.serve_forever, daemon=True)
    thread.start()
    yield teacher.Server(f"http://127.0.0.1:{stub.server_port}/v1", "some-model", key="secret", timeout=10)
    stub.shutdown()
    stub.server_close()


@pytest.fixture
def scene():
    return scenes.compose(np.random.default_rng(0), ["dog", "cat", "dog"], "train", cards=1.0)


def test_a_reply_without_content_is_empty_and_refused_as_instruction(server, scene):
    Stub.reply = None
    assert server.complete([], max_tokens=3) == "" and Stub.asked[0][2]["max_tokens"] == 3
    with pytest.raises(DataError, match="form asked for"):
        teacher.teach("conversation", scene, np.random.default_rng(0), server)


@pytest.mark.parametrize("kind", dialogues.KINDS)
def test_a_server_is_told_captions_and_boxes_and_its_turns_come_back(server, scene, kind):
    turns = [{"question": "How many dogs?", "answer": "Two."}]
    Stub.reply = "Here you are:\n```json\n" + json.dumps({"turns": turns}) + "\n```"
    assert teacher.teach(kind, scene, np.random.default_rng(0), server) == [("How many dogs?", "Two.")]
    path, key, body = Stub.asked[0]
    assert path == "/v1/chat/completions" and key == "Bearer secret" and body["model"] == "some-model"
    system, *shots, told = body["messages"]
    assert [m["role"] for m in shots] == ["user", "assistant"] * 2
    assert all(teacher.read_turns(m["content"]) for m in shots[1::2])
    assert "JSON" in system["content"] and dialogues.captions(scene)[0] in told["content"]
    assert all(box in told["content"] for box in dialogues.boxes(scene))


@pytest.mark.parametrize("reply", ["no json", '{"turns": []}', '{"turns": [{"question": "a"}]}', ""])
def test_useless_replies_give_one_line(server, scene, reply):
    Stub.reply = reply
    with pytest.raises(DataError) as caught:
        teacher.teach("detail", scene, np.random.default_rng(0), server)
    assert "\n" not in str(caught.value)


def test_the_rule_based_teacher_tells_the_truth(scene):
    rng = np.random.default_rng(1)
    turns = dict(teacher.teach("conversation", scene, rng))
    assert turns["How many dogs do you see?"] == "I see two dogs."
    (question, answer), *rest = teacher.teach("reasoning", scene, np.random.default_rng(3))
    assert not rest and question and answer
    told = [teacher.teach("reasoning", scene, np.random.default_rng(s))[0] for s in range(8)]
    assert any("12 legs" in a for q, a in told if "legs" in q)


def test_a_server_that_invents_things_is_not_believed(server, scene):
    Stub.reply = json.dumps({"turns": [{"question": "What else?", "answer": "Two mice behind the dog."}]})
    with pytest.raises(DataError, match="mouse"):
        teacher.teach("detail", scene, np.random.default_rng(0), server)
    assert teacher.absent("The cat may catch a dog.", ["dog", "cat"], teacher.PLURALS) == []


def test_examples_stand_between_system_and_query():
    asked = teacher.prompt("detail", ["There is a dog."], ["dog: [0, 0, 1, 1]"], [("told", "reply")])
    assert [m["role"] for m in asked] == ["system", "user", "assistant", "user"]
    assert asked[-1]["content"] == "There is a dog.\n\ndog: [0, 0, 1, 1]"
