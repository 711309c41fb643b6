"""The sides of `inference.py`: one model in one library, in a process that computes batches when it is told.

Started by `inference.py`; ``python benchmarks/sides.py NAME`` serves the side NAME, ``--prepare FOLDER SIZE`` writes one model with
random weights in every library's format. numpy only at the top: JAX may be in an environment without the others.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from turns import SideError, peak_mb, serve

__all__ = ["PEERS", "TIMM", "calibrate_once", "mend_torchvision", "timm_model"]

Array = np.ndarray[Any, Any]
Run = Callable[[Array], Array]
TIMM = {"Ti": "vit_tiny_patch16_224", "S": "vit_small_patch16_224", "B": "vit_base_patch16_224"}
THREADS = len(os.sched_getaffinity(0))
SEED, MOST = 0, 32  # of the weights and images; images that there are


class Cell(NamedTuple):
    """What is computed: a model's folder, its size, images at once."""

    folder: Path
    size: str
    batch: int


class Loaded(NamedTuple):
    """A side that is ready."""

    run: Run  # images (B, 3, 224, 224) to logits (B, 1000), both float32
    library: str
    ours: bool | None = None  # of vitkit's engines: False is a wrapped runtime; None: a peer
    notes: tuple[str, ...] = ()


def version(*names: str) -> str:
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def mend_torchvision() -> None:
    """Make torchvision importable beside a CPU torch: its wheel is a CUDA build that lacks two operators there."""
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    mend_torchvision.kept = library  # type: ignore[attr-defined]
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def in_torch(model: Any, dtype: Any = None, autocast: bool = False) -> Run:
    import torch

    @torch.inference_mode()
    def run(images: Array) -> Array:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            given = torch.from_numpy(images)
            found = model(given if dtype is None else given.to(dtype))
        return getattr(found, "logits", found).float().numpy()

    return run


def timm_model(folder: Path, size: str) -> Any:
    """timm's model with the weights of ``folder``."""
    mend_torchvision()
    import timm
    from safetensors.torch import load_file

    model = timm.create_model(TIMM[size])
    model.load_state_dict(load_file(folder / "timm.safetensors"))
    return model.eval()


def timm_side(kind: str, cell: Cell) -> Loaded:
    import torch

    model = timm_model(cell.folder, cell.size)
    if kind == "bf16":
        return Loaded(in_torch(model.bfloat16(), torch.bfloat16), version("timm", "torch"))
    if kind == "compiled":
        torch._dynamo.reset()
        return Loaded(in_torch(torch.compile(model, dynamic=False)), version("timm", "torch"))
    return Loaded(in_torch(model, autocast=kind == "autocast"), version("timm", "torch"))


def transformers_side(cell: Cell) -> Loaded:
    mend_torchvision()
    from transformers import ViTForImageClassification

    model = ViTForImageClassification.from_pretrained(cell.folder / "huggingface")
    return Loaded(in_torch(model.eval()), version("transformers", "torch"))


def torchvision_side(cell: Cell) -> Loaded:
    if cell.size != "B":
        raise SideError(f"torchvision has no ViT-{cell.size}/16")
    mend_torchvision()
    import torch
    import torchvision

    model = torchvision.models.vit_b_16()
    model.load_state_dict(torch.load(cell.folder / "torchvision.pth", weights_only=True))
    return Loaded(in_torch(model.eval()), version("torchvision", "torch"))


_WAYS: dict[str, str] = {}  # size -> the way that was faster at a batch above 1


def faster(size: str, images: Array, ways: dict[str, Callable[[], Run]]) -> tuple[Run, tuple[str, ...]]:
    """The fastest of several ways to run a batch, found once a size, by turns."""
    if size not in _WAYS:
        made = {name: make() for name, make in ways.items()}
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(4):
            for name, run in made.items():
                began = time.perf_counter()
                run(images)
                times[name].append(time.perf_counter() - began)
        _WAYS[size] = min(times, key=lambda name: min(times[name]))
    return ways[_WAYS[size]](), (_WAYS[size],)


def in_parts(images: Array) -> list[Array]:
    return np.array_split(images, THREADS)


def openvino_side(precision: str, cell: Cell) -> Loaded:
    """OpenVINO as its documentation drives it: one request of the whole batch, or a request for each thread's part of it."""
    import openvino as ov

    core = ov.Core()
    hint = {"fp32": ov.Type.f32, "bf16": ov.Type.bf16}[precision]

    def compiled(shape: int, streams: int) -> Any:
        model = core.read_model(cell.folder / "openvino.xml")
        model.reshape([shape, 3, 224, 224])
        settings = {
            "INFERENCE_PRECISION_HINT": hint,
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": THREADS,
            "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
        }
        return core.compile_model(model, "CPU", settings)

    def whole() -> Run:
        request = compiled(cell.batch, 1).create_infer_request()
        return lambda images: request.infer({0: images}, share_inputs=True)[0]

    def parts() -> Run:
        model = compiled(cell.batch // THREADS, THREADS)
        requests = [model.create_infer_request() for _ in range(THREADS)]

        def run(images: Array) -> Array:
            for request, part in zip(requests, in_parts(images), strict=True):
                request.start_async({0: part}, share_inputs=True)
            for request in requests:
                request.wait()
            return np.concatenate([request.get_output_tensor(0).data for request in requests])

        return run

    return _best(cell, whole, parts, version("openvino"))


def onnxruntime_side(precision: str, cell: Cell) -> Loaded:
    """ONNX Runtime on timm's exported graph: one run with all threads, or a run of one thread for each part of the batch."""
    import onnxruntime

    file = cell.folder / ("model.onnx" if precision == "fp32" else "model_int8.onnx")

    def session(threads: int) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def whole() -> Run:
        made = session(THREADS)
        return lambda images: made.run(None, {"images": images})[0]

    def parts() -> Run:
        made, pool = session(1), ThreadPoolExecutor(THREADS)
        return lambda images: np.concatenate(
            list(pool.map(lambda part: made.run(None, {"images": part})[0], in_parts(images)))
        )

    return _best(cell, whole, parts, version("onnxruntime"))


def _best(cell: Cell, whole: Callable[[], Run], parts: Callable[[], Run], library: str) -> Loaded:
    if cell.batch < 2 or cell.batch % THREADS or THREADS == 1:
        return Loaded(whole(), library)
    images = np.zeros((cell.batch, 3, 224, 224), np.float32)
    run, notes = faster(cell.size, images, {"one request": whole, "a request a thread": parts})
    return Loaded(run, library, notes=notes)


def jax_side(cell: Cell) -> Loaded:
    """The forward pass written in jax.numpy, compiled for the batch."""
    import jax
    import jax.numpy as jnp

    given = {name: jnp.asarray(value) for name, value in np.load(cell.folder / "weights.npz").items()}
    heads = given["cls_token"].shape[-1] // 64
    depth = 1 + max(int(name.split(".")[1]) for name in given if name.startswith("blocks."))

    def norm(w: Any, name: str, x: Any) -> Any:
        mean = x.mean(-1, keepdims=True)
        spread = ((x - mean) ** 2).mean(-1, keepdims=True)
        return (x - mean) * jax.lax.rsqrt(spread + 1e-6) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(w: Any, name: str, x: Any) -> Any:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    @jax.jit
    def forward(w: Any, images: Any) -> Any:
        B, D = images.shape[0], w["cls_token"].shape[-1]
        kernel = w["patch_embed.proj.weight"].reshape(D, -1)
        x = images.reshape(B, 3, 14, 16, 14, 16).transpose(0, 2, 4, 1, 3, 5).reshape(B, 196, -1)
        x = x @ kernel.T + w["patch_embed.proj.bias"]
        x = jnp.concatenate([jnp.broadcast_to(w["cls_token"], (B, 1, D)), x], axis=1) + w["pos_embed"]
        for index in range(depth):
            block = f"blocks.{index}"
            qkv = linear(w, f"{block}.attn.qkv", norm(w, f"{block}.norm1", x)).reshape(B, 197, 3, heads, 64)
            q, k, v = qkv.transpose(2, 0, 3, 1, 4)
            weights = jax.nn.softmax(q @ k.swapaxes(-1, -2) * 0.125, axis=-1)
            x = x + linear(w, f"{block}.attn.proj", (weights @ v).transpose(0, 2, 1, 3).reshape(B, 197, D))
            hidden = jax.nn.gelu(linear(w, f"{block}.mlp.fc1", norm(w, f"{block}.norm2", x)), approximate=False)
            x = x + linear(w, f"{block}.mlp.fc2", hidden)
        return linear(w, "head", norm(w, "norm", x[:, 0]))

    return Loaded(lambda images: np.asarray(forward(given, images)), version("jax"))


_ENGINES: dict[tuple[Path, str, str], Any] = {}  # an engine serves every batch size


def calibrate_once(model: Path, images: Sequence[Array]) -> None:
    """Ranges for int8 of images (C, H, W), kept with the model; sides that need them wait for the first."""
    import io

    from filelock import FileLock

    from vitkit.console import Console
    from vitkit.engines.calibration import calibrate, find_calibration, write_calibration
    from vitkit.jobs.load import load

    with FileLock(model.with_name("calibration.lock")):
        bundle = load(model)
        if find_calibration(bundle) is None:
            write_calibration(bundle, calibrate(bundle, images, Console(io.StringIO(), io.StringIO())))


def vitkit_side(engine: str, precision: str, cell: Cell) -> Loaded:
    """An engine of vitkit through its public interface."""
    from vitkit.engines.book import ENGINES, missing, precisions

    if engine not in ENGINES:
        raise SideError("this vitkit has no such engine")
    if reason := missing(engine):
        raise SideError(reason)
    if precision not in precisions(engine):
        raise SideError(f"the engine has no {precision}")
    from vitkit.jobs.load import load

    key = (cell.folder, engine, precision)
    if precision == "int8":
        calibrate_once(cell.folder / "bundle", list(np.load(cell.folder / "images.npy")))
    if key not in _ENGINES:
        _ENGINES.clear()
        _ENGINES[key] = load(cell.folder / "bundle", engine=engine, precision=precision).run
    made = _ENGINES[key]
    facts = made.facts
    return Loaded(lambda images: made(images).logits, facts.library, facts.ours, facts.notes)


class Peak:
    """The machine's best rate of matrix products, GFLOP/s, of the shapes that B/16 has and of a square one."""

    SHAPES = ((1576, 768, 3072), (1576, 3072, 768), (2048, 2048, 2048))  # rows, inputs, outputs

    def __init__(self, precision: str) -> None:
        self.products = [(2 * n * k * m, self._product(precision, n, k, m)) for n, k, m in self.SHAPES]

    def _product(self, precision: str, rows: int, inputs: int, outputs: int) -> Callable[[], Any]:
        import torch

        x, w = torch.randn(rows, inputs), torch.randn(outputs, inputs)
        if precision == "int8":
            x, w = (x * 20 + 128).clamp(0, 255).to(torch.uint8), (w * 20).clamp(-127, 127).to(torch.int8)
            packed = torch.ops.onednn.qlinear_prepack(w, list(x.shape))
            ones, zeros = torch.ones(outputs), torch.zeros(outputs, dtype=torch.int32)
            rest = (None, 1.0, 0, torch.float32, "none", [], "")
            return lambda: torch.ops.onednn.qlinear_pointwise(x, 1.0, 128, packed, ones, zeros, *rest)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        x = x.to(dtype)
        packed = torch.ops.mkldnn._reorder_linear_weight(w.to(dtype), rows)
        return lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")

    def rate(self, seconds: float) -> float:
        import torch

        best = 0.0
        with torch.inference_mode():
            for flop, product in self.products:
                product()
                began, count = time.perf_counter(), 0
                while (spent := time.perf_counter() - began) < seconds / len(self.products):
                    product()
                    count += 1
                best = max(best, flop * count / spent / 1e9)
        return best


PEERS: dict[str, Callable[[Cell], Loaded]] = {
    "timm-fp32": partial(timm_side, "fp32"),
    "timm-autocast-bf16": partial(timm_side, "autocast"),
    "timm-bf16": partial(timm_side, "bf16"),
    "timm-compiled-fp32": partial(timm_side, "compiled"),
    "transformers-fp32": transformers_side,
    "torchvision-fp32": torchvision_side,
    "openvino-fp32": partial(openvino_side, "fp32"),
    "openvino-bf16": partial(openvino_side, "bf16"),
    "onnxruntime-fp32": partial(onnxruntime_side, "fp32"),
    "onnxruntime-int8": partial(onnxruntime_side, "int8"),
    "jax-fp32": jax_side,
}


class Serving:
    """One side: it loads a model for a batch size, then computes rounds."""

    def __init__(self, name: str) -> None:
        self.name, self.run, self.images = name, None, np.zeros(0)
        self.peak: Peak | None = None

    def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.name.startswith("peak-"):
            self.peak = self.peak or Peak(self.name.removeprefix("peak-"))
            return {"rate": self.peak.rate(request["seconds"]), "seconds": request["seconds"], "mb": peak_mb()}
        return self.load(**request) if "folder" in request else self.round(**request)

    def load(self, folder: str, size: str, batch: int) -> dict[str, Any]:
        """Make the model, and compute the batch once: its logits are kept beside it for comparison."""
        home, cell = Path(folder), Cell(Path(folder), size, batch)
        self.run = None  # what the last one held is free
        Path("/proc/self/clear_refs").write_text("5")  # a new peak of memory begins
        if self.name.startswith("vitkit-"):
            _, engine, precision = self.name.split("-")
            loaded = vitkit_side(engine, precision, cell)
        else:
            loaded = PEERS[self.name](cell)
        self.run, self.images = loaded.run, np.load(home / "images.npy")[:batch].copy()
        for _ in range(2):  # the second time without what the first compiles and reserves
            began = time.perf_counter()
            logits = self.run(self.images)
            if (call := time.perf_counter() - began) > 1:
                break
        if logits.shape != (batch, 1000):
            raise SideError(f"logits of shape {logits.shape}")
        (home / "logits").mkdir(exist_ok=True)
        np.save(home / "logits" / f"{self.name}-{batch}.npy", logits)
        return {"library": loaded.library, "ours": loaded.ours, "notes": loaded.notes, "call": call, "mb": peak_mb()}

    def round(self, seconds: float, warm: float) -> dict[str, Any]:
        """Compute for about ``seconds``, after a warm-up where a batch is short."""
        run, images = self.run, self.images
        assert run is not None
        until = time.perf_counter() + warm
        while time.perf_counter() < until:
            run(images)
        count, began = 0, time.perf_counter()
        while not count or time.perf_counter() - began < seconds:
            run(images)
            count += 1
        spent = time.perf_counter() - began
        return {"rate": count * len(images) / spent, "seconds": spent, "mb": peak_mb()}


def prepare(folder: Path, size: str) -> None:
    """One model with random weights in every format, and images of N(0, 1). What a library that is not here needs is left out."""
    import torch

    from vitkit.bundle import Bundle
    from vitkit.data.pixels import Preprocess
    from vitkit.jobs.convert import convert
    from vitkit.models.vit import VisionTransformer, ViTConfig

    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", np.random.default_rng(SEED).standard_normal((MOST, 3, 224, 224), np.float32))
    model = VisionTransformer(ViTConfig.named(f"{size}/16", gelu="erf"))
    model.init_weights(SEED)
    draw = torch.Generator().manual_seed(SEED)
    assert model.head is not None
    with torch.no_grad():
        model.head.weight.normal_(0, model.config.embed_dim**-0.5, generator=draw)  # logits of about N(0, 1)
    Bundle(model.eval(), Preprocess((224, 224), fit="crop"), source=f"random weights, {size}/16").save(
        folder / "bundle"
    )
    convert(folder / "bundle", folder / "timm.safetensors", to="timm", force=True)
    convert(folder / "bundle", folder / "huggingface", to="huggingface", force=True)
    if size == "B":
        convert(folder / "bundle", folder / "torchvision.pth", to="torchvision", force=True)
    made = timm_model(folder, size)
    np.savez(folder / "weights.npz", **{name: tensor.numpy() for name, tensor in made.state_dict().items()})
    images = torch.from_numpy(np.load(folder / "images.npy")[:2])
    if importlib.util.find_spec("openvino"):
        import openvino as ov

        ov.save_model(ov.convert_model(made, example_input=images), folder / "openvino.xml", compress_to_fp16=False)
    if importlib.util.find_spec("onnx"):
        for block in made.blocks:
            block.attn.fused_attn = False  # exported as two products and a softmax, which ONNX Runtime knows to fuse
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                made, (images,), str(folder / "model.onnx"), dynamo=False, opset_version=17, input_names=["images"],
                output_names=["logits"], dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
            )  # fmt: skip
    if importlib.util.find_spec("onnx") and importlib.util.find_spec("onnxruntime"):
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(folder / "model.onnx", folder / "model_int8.onnx", weight_type=QuantType.QInt8)
    (folder / "ready").touch()


def early(name: str) -> None:
    """Import what the side needs before it is asked, while others import theirs."""
    library = name.split("-")[0]
    if library in ("timm", "transformers", "torchvision"):
        mend_torchvision()
    modules = {"peak": ["torch"], "vitkit": ["torch", "vitkit.jobs.load"], "transformers": ["transformers.models.vit"]}
    for module in modules.get(library, [library]):
        with contextlib.suppress(ImportError):  # the load says so
            importlib.import_module(module)


if __name__ == "__main__":
    if sys.argv[1] == "--prepare":
        prepare(Path(sys.argv[2]), sys.argv[3])
    else:
        early(sys.argv[1])
        serve(Serving(sys.argv[1]))
