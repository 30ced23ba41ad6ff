"""T5X checkpoints from `gs://` addresses, through tensorstore's own client and a stand-in for Google Cloud Storage."""

import collections
import http.server
import json
import threading
import urllib.parse

import jax
import numpy as np
import pytest
import t5_files
from test_t5x import write

import jaxprompt as jp
from jaxprompt.models import t5x
from jaxprompt.models.weight_source import CheckpointError

OBJECTS = "/storage/v1/b/bucket/o/"
ADDRESS = "gs://bucket/runs 100%/checkpoint_3"
TOKEN = "of-nobody"
INSIDE = ADDRESS.removeprefix("gs://bucket/")
CONFIG = t5_files.CONFIG | {"num_layers": 1, "num_decoder_layers": 1}


class Bucket(http.server.ThreadingHTTPServer):
    """Answers reads of the objects of one bucket as the JSON API does.

    Attributes:
        objects: their contents by name.
        refusal: the status code for names of no object.
        asked: how often each object was asked for.
    """

    request_queue_size = 128  # as many connections as tensorstore opens at once

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.refusal = 404
        self.asked: collections.Counter[str] = collections.Counter()

    def put(self, directory, inside):
        """Holds a local directory's files, under a prefix; forgets what it held."""
        prefix = f"{inside}/" if inside else ""
        files = [path for path in directory.rglob("*") if path.is_file()]
        self.objects = {f"{prefix}{path.relative_to(directory).as_posix()}": path.read_bytes() for path in files}


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Bucket
    wbufsize = -1  # an answer in one piece

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        name = urllib.parse.unquote(url.path.removeprefix(OBJECTS))
        self.server.asked[name] += 1
        status = 200 if name in self.server.objects else self.server.refusal
        # An object's name is one part of the path, its slashes escaped; and nothing asks for a part of an object.
        if (
            not url.path.startswith(OBJECTS)
            or "/" in url.path.removeprefix(OBJECTS)
            or urllib.parse.parse_qs(url.query).get("alt") != ["media"]
            or self.headers["Authorization"] != f"Bearer {TOKEN}"
            or "Range" in self.headers
        ):
            status = 400
        error = {"error": {"code": status, "message": f"The caller has no access to {name}."}}
        body = self.server.objects[name] if status == 200 else json.dumps(error).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if status == 200 else "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == 200:
            self.send_header("x-goog-generation", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def bucket(monkeypatch):
    # Tensorstore looks the address up at every request, and the token, which spares it the search for an account
    # (files, then the metadata server), at the first.
    with Bucket() as server:
        for variable, value in {
            "TENSORSTORE_GCS_HTTP_URL": f"http://127.0.0.1:{server.server_port}",
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": TOKEN,
            "TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS": "5",
            "TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": "5",
            "TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES": "1",
            "no_proxy": "127.0.0.1",
            "NO_PROXY": "127.0.0.1",
        }.items():
            monkeypatch.setenv(variable, value)
        monkeypatch.setattr(t5x, "_PATIENCE", {"gcs_request_retries": {"max_retries": 2, "initial_delay": "10ms"}})
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(timeout=5)


def test_an_address_loads_like_the_directory(bucket, tmp_path, tokenizer):
    directory = write(tmp_path / "checkpoint_3", CONFIG)
    (directory / "config.json").write_text(json.dumps({"relative_attention_max_distance": 20}))
    expected = jp.load_model(directory, tokenizer=False)
    bucket.put(directory, INSIDE)
    lm = jp.load_model(f"{ADDRESS}/", tokenizer=tokenizer.name_or_path)
    jax.tree.map(np.testing.assert_array_equal, lm.params, expected.params)
    # config.json was read too: the shapes do not tell the distance.
    assert lm.config == expected.config
    assert lm.config.relative_attention_max_distance == 20
    assert lm.tokenizer.get_vocab() == tokenizer.get_vocab()
    # Everything came over the wire, and all of it once.
    assert bucket.asked == dict.fromkeys(bucket.objects, 1)


def test_a_whole_bucket_is_a_directory_too(bucket, tmp_path):
    directory = write(tmp_path / "checkpoint_3", CONFIG, inline=True)
    bucket.put(directory, "")
    lm = jp.load_model("gs://bucket", tokenizer=False)
    jax.tree.map(np.testing.assert_array_equal, lm.params, jp.load_model(directory, tokenizer=False).params)


def test_who_may_not_list_the_bucket_can_load(bucket, tmp_path):
    # Google Cloud Storage then answers 403 for what is not there, here config.json.
    bucket.put(write(tmp_path / "checkpoint_3", CONFIG, inline=True), INSIDE)
    bucket.refusal = 403
    lm = jp.load_model(ADDRESS, tokenizer=False)
    assert lm.config.relative_attention_max_distance == 128
    assert bucket.asked[f"{INSIDE}/config.json"] == 1


def test_missing_objects(bucket, tmp_path):
    bucket.put(write(tmp_path / "checkpoint_3", CONFIG), INSIDE)
    with pytest.raises(CheckpointError, match=r"gs://bucket/runs holds no file 'checkpoint', so it is no T5X"):
        jp.load_model("gs://bucket/runs", tokenizer=False)
    query = "target.encoder.layers_0.attention.query.kernel"
    chunk = bucket.objects.pop(f"{INSIDE}/{query}/1.0")
    with pytest.raises(CheckpointError, match=rf"{ADDRESS}: {query[7:]} is not all there .*copy the checkpoint again"):
        jp.load_model(ADDRESS, tokenizer=False)
    bucket.objects[f"{INSIDE}/{query}/1.0"] = chunk
    del bucket.objects[f"{INSIDE}/{query}/.zarray"]
    with pytest.raises(CheckpointError, match=rf"{ADDRESS} refers to {query}, which cannot be opened"):
        jp.load_model(ADDRESS, tokenizer=False)


@pytest.mark.parametrize(
    ("status", "reason"), [(401, "PERMISSION_DENIED"), (403, "no access to"), (503, "All 2 retry attempts failed")]
)
def test_a_bucket_that_does_not_answer(bucket, status, reason):
    bucket.refusal = status
    with pytest.raises(CheckpointError, match=rf"{ADDRESS}/checkpoint cannot be read: .*{reason}.*gcloud auth"):
        jp.load_model(ADDRESS, tokenizer=False)


def test_what_cannot_be(bucket, tmp_path):
    with pytest.raises(CheckpointError, match=r"Invalid GCS bucket name.*check the address"):
        jp.load_model("gs:///checkpoint_3", tokenizer=False)
    with pytest.raises(CheckpointError, match="has no revision 'main'; leave `revision` out"):
        jp.load_model(ADDRESS, tokenizer=False, revision="main")
    bucket.put(write(tmp_path / "checkpoint_3", CONFIG, inline=True), INSIDE)
    with pytest.raises(CheckpointError, match=r"holds no tokenizer .*give another directory as `tokenizer`"):
        jp.load_model(ADDRESS)
    for content, problem in ((b"{", "is not valid JSON"), (b"[]", "holds a JSON list, expected an object")):
        bucket.objects[f"{INSIDE}/config.json"] = content
        with pytest.raises(CheckpointError, match=f"{ADDRESS}/config.json {problem}"):
            jp.load_model(ADDRESS, tokenizer=False)
