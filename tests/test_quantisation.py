"""Quantised models against float64 computations of their own, on small ONNX models that are written here."""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from oneshot import quantisation
from oneshot.errors import MissingExtraError
from oneshot.quantisation import quantised

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

Floats = npt.NDArray[np.float64]
RANDOM = np.random.default_rng(0)
FIRST, DEPTHWISE, LAST = (RANDOM.normal(size=shape) for shape in ((6, 2, 1, 1), (6, 1, 1, 1), (3, 6)))
LAST[1] *= 100  # a channel that one scale for all would spoil the others for
CLOSE = 0.3  # of the deviation of outputs that are means of gates; wrong variants are off by more than 0.5
finely = partial(quantised, weight_bits=8)  # with 7, rounding hides what wrong variants do
SAMPLES = RANDOM.normal(size=(64, 2, 4, 4)).astype(np.float32)


def model(activation: str = "HardSwish", *, several: bool = False, weights: bool = True) -> bytes:
    """1x1 convolution, activation, 1x1 depthwise convolution, hard-sigmoid, mean over places, linear layer."""
    node, tensor = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    float_, shape = onnx.TensorProto.FLOAT, ["batch", 2, 4, 4]
    inputs = [tensor("images", float_, shape), *([tensor("more", float_, shape)] if several else [])]
    nodes = [node("Add", ["images", "more"], ["x"], name="sum")] if several else []
    x = "x" if several else "images"
    if weights:
        nodes += [
            node("Conv", [x, "first"], ["a"], name="first_layer"),
            node(activation, ["a"], ["b"], name="act"),
            node("Conv", ["b", "depthwise"], ["c"], name="depthwise_layer", group=6),
            node("HardSigmoid", ["c"], ["d"], name="gate", alpha=1 / 6, beta=0.5),
            node("GlobalAveragePool", ["d"], ["e"], name="mean"),
            node("Flatten", ["e"], ["f"], name="flat"),
            node("Gemm", ["f", "last"], ["logits"], name="last_layer", transB=1),
        ]
    else:
        nodes += [node("Relu", [x], ["r"], name="relu"), node("GlobalAveragePool", ["r"], ["logits"], name="mean")]
    named = {"first": FIRST, "depthwise": DEPTHWISE, "last": LAST} if weights else {}
    values = [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in named.items()]
    output = tensor("logits", float_, ["batch", 3] if weights else ["batch", 2, 1, 1])
    graph = onnx.helper.make_graph(nodes, "graph", inputs, [output], values)
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    made.ir_version = 9
    return made.SerializeToString()  # type: ignore[no-any-return]  # onnx


def exact(x: npt.NDArray[np.float32]) -> Floats:
    """The model with HardSwish, in float64."""

    def gate(values: Floats) -> Floats:
        return np.clip(values + 3, 0, 6) / 6

    a = np.einsum("bchw,oc->bohw", x.astype(np.float64), FIRST[:, :, 0, 0])
    c = a * gate(a) * DEPTHWISE[:, 0, 0, 0][None, :, None, None]
    return gate(c).mean((2, 3)) @ LAST.T


def run(content: bytes, *, fused: bool = False, **inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What a file says, computed in floats; ``fused``, by the integers of this processor, as it is deployed."""
    options, levels = onnxruntime.SessionOptions(), onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if fused else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    outputs: npt.NDArray[np.float32] = session.run(None, inputs)[0]
    return outputs


def off(got: npt.NDArray[np.float32], wanted: Floats) -> float:
    """Largest root mean squared difference of an output, relative to its standard deviation."""
    return float((np.sqrt(((got - wanted) ** 2).mean(0)) / wanted.std(0)).max())


def batches() -> list[dict[str, npt.NDArray[np.float32]]]:
    return [{"images": SAMPLES[:20]}, {"images": SAMPLES[20:]}]


@pytest.mark.parametrize(("bits", "close"), [(8, 0.3), (7, 0.6)])  # steps of the weights are twice as large with 7
def test_a_quantised_model_gives_what_float64_gives_up_to_its_steps(bits: int, close: float) -> None:
    np.testing.assert_allclose(run(model(), images=SAMPLES), exact(SAMPLES), rtol=1e-4, atol=1e-5)
    made = quantised(model(), batches(), weight_bits=bits)
    assert off(run(made.model, images=SAMPLES), exact(SAMPLES)) < close
    assert off(run(made.model, images=SAMPLES[:1]), exact(SAMPLES)) != pytest.approx(0)  # any batch size runs
    assert (made.layers, made.int8, made.floats) == (3, 3, ())


def test_shapes_that_onnx_runtime_cannot_follow_by_symbols_are_left_to_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """As versions before 1.31 cannot in files of PyTorch 2.11."""
    from onnxruntime.quantization import shape_inference

    prepare, ways = shape_inference.quant_pre_process, list[bool]()

    def older(*files: Any, skip_symbolic_shape: bool) -> None:
        ways.append(skip_symbolic_shape)
        if not skip_symbolic_shape:
            raise Exception("Incomplete symbolic shape inference")  # the class that it raises
        prepare(*files, skip_symbolic_shape=True)

    monkeypatch.setattr(shape_inference, "quant_pre_process", older)
    made = quantised(model(), batches(), weight_bits=8)
    assert ways == [False, True] and off(run(made.model, images=SAMPLES), exact(SAMPLES)) < 0.3


def test_every_processor_adds_up_what_the_file_says() -> None:
    """x86 processors without VNNI cut the sum of two products, uint8 by int8, off at 16 bits. With weights of 8 bits
    the last channel of this model was off by ten deviations on one of them."""
    content = quantised(model(), batches()).model
    assert off(run(content, images=SAMPLES, fused=True), run(content, images=SAMPLES).astype(np.float64)) < 0.1

    def largest_sum(content: bytes) -> int:
        tensors = map(onnx.numpy_helper.to_array, onnx.load_model_from_string(content).graph.initializer)
        return 2 * 255 * max(int(abs(x.astype(int)).max()) for x in tensors if x.dtype == np.int8)

    assert largest_sum(content) < 2**15 < largest_sum(finely(model(), batches()).model)


def test_outputs_are_not_rounded_to_the_steps_of_one_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    got = run(finely(model(), batches()).model, images=SAMPLES)
    monkeypatch.setattr(quantisation, "_give_floats", lambda graph: None)
    rounded = run(finely(model(), batches()).model, images=SAMPLES)
    assert len(np.unique(got[:, 0])) > 30 and len(np.unique(rounded[:, 0])) < 5
    assert off(rounded, exact(SAMPLES)) > 0.5


def test_what_is_divided_by_six_has_another_scale_and_no_product(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = Counter(node.op_type for node in onnx.load_model_from_string(finely(model(), batches()).model).graph.node)
    assert kinds["Mul"] == 1  # x times clip(x + 3, 0, 6), of the hard-swish
    assert not kinds["HardSwish"] and not kinds["HardSigmoid"] and not kinds["Clip"]
    monkeypatch.setattr(quantisation, "_scale_instead_of_multiplying", lambda graph: None)
    as_it_was = finely(model(), batches()).model
    assert Counter(n.op_type for n in onnx.load_model_from_string(as_it_was).graph.node)["Mul"] == 3
    assert off(run(as_it_was, images=SAMPLES), exact(SAMPLES)) < CLOSE


def test_without_the_division_the_outputs_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantisation, "RATIO", np.float32(1))
    monkeypatch.setattr(quantisation, "_simplify_hard_sigmoids", simplified_with(1 / 6))
    assert off(run(finely(model(), batches()).model, images=SAMPLES), exact(SAMPLES)) > 0.5


def simplified_with(slope: float) -> Any:
    """The rewriting as it is, with the slope it needs, whatever the scale is divided by later."""
    rewrite = quantisation._simplify_hard_sigmoids

    def simplify(graph: Any) -> None:
        ratio, quantisation.RATIO = quantisation.RATIO, np.float32(slope)
        rewrite(graph)
        quantisation.RATIO = ratio

    return simplify


@pytest.mark.parametrize(("bits", "largest"), [(8, 127), (7, 64)])
def test_weights_have_the_scale_of_their_channel(bits: int, largest: int) -> None:
    graph = onnx.load_model_from_string(quantised(model(), batches(), weight_bits=bits).model).graph
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for name, weights in (("first", FIRST), ("depthwise", DEPTHWISE), ("last", LAST)):
        (node,) = [n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0].startswith(f"{name}_quant")]
        found, scale = tensors[node.input[0]], tensors[node.input[1]]
        per_channel = np.abs(weights).reshape(len(weights), -1).max(1) / largest
        np.testing.assert_allclose(scale, per_channel, rtol=0.02)
        assert found.dtype == np.int8 and np.abs(found.astype(int)).max() <= largest
        steps = scale.reshape(-1, *[1] * (weights.ndim - 1))
        assert (np.abs(found * steps - weights) <= 0.51 * steps).all()
        one_for_all = np.abs(weights).max() / largest
        assert len(scale) == len(weights) and not np.allclose(scale, one_for_all)


def test_the_first_and_the_last_layer_can_keep_floats() -> None:
    made = finely(model(), batches(), float_ends=True)
    assert (made.layers, made.int8, made.floats) == (3, 1, ("first_layer", "last_layer"))
    assert off(run(made.model, images=SAMPLES), exact(SAMPLES)) < CLOSE


def test_a_hard_sigmoid_of_another_slope_stays_and_the_model_is_right() -> None:
    content = onnx.load_model_from_string(model("Relu"))
    (gate,) = [node for node in content.graph.node if node.op_type == "HardSigmoid"]
    del gate.attribute[:]  # alpha 0.2
    made = finely(content.SerializeToString(), batches())
    wanted = run(content.SerializeToString(), images=SAMPLES).astype(np.float64)
    assert off(run(made.model, images=SAMPLES), wanted) < CLOSE
    assert "HardSigmoid" in {node.op_type for node in onnx.load_model_from_string(made.model).graph.node}


def with_padding(content: bytes) -> bytes:
    """The model behind a padding by ``8 (ceil(2 H) - floor(2 H))`` rows, computed of its input's height in floats."""
    made = onnx.load_model_from_string(content)
    node, values = onnx.helper.make_node, onnx.numpy_helper.from_array
    steps = [
        node("Shape", ["images"], ["shape"], start=2, end=3),
        node("Cast", ["shape"], ["height"], to=onnx.TensorProto.FLOAT),
        node("Mul", ["height", "two"], ["twice"], name="twice"),
        node("Ceil", ["twice"], ["ceil"], name="ceil"),
        node("Floor", ["twice"], ["floor"], name="floor"),
        node("Sub", ["ceil", "floor"], ["difference"], name="difference"),
        node("Mul", ["difference", "eight"], ["rows"], name="rows"),
        node("Cast", ["rows"], ["whole"], to=onnx.TensorProto.INT64),
        node("Concat", ["zeros", "whole", "zero", "zeros", "zero", "zero"], ["pads"], axis=0),
        node("Pad", ["images", "pads"], ["padded"], name="pad"),
    ]
    made.graph.initializer.extend(values(np.array([v], np.float32), n) for n, v in (("two", 2.0), ("eight", 8.0)))
    made.graph.initializer.extend(values(np.zeros(n, np.int64), name) for n, name in ((2, "zeros"), (1, "zero")))
    for other in made.graph.node:
        other.input[:] = ["padded" if name == "images" else name for name in other.input]
    nodes = [*steps, *made.graph.node]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    made.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"  # so that nothing is folded
    return made.SerializeToString()  # type: ignore[no-any-return]  # onnx


def test_what_is_computed_of_shapes_is_not_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    content = with_padding(model())
    tall = np.random.default_rng(1).normal(size=(5, 2, 11, 4)).astype(np.float32)
    samples = [{"images": SAMPLES}, {"images": tall}]  # the range of 2 H is 0 to 22, and 8 is none of its 256 steps
    np.testing.assert_allclose(run(content, images=SAMPLES), exact(SAMPLES), rtol=1e-4, atol=1e-5)
    assert off(run(finely(content, samples).model, images=SAMPLES), exact(SAMPLES)) < CLOSE
    monkeypatch.setattr(quantisation, "_about_shapes", lambda graph: [])
    rounded = run(finely(content, samples).model, images=SAMPLES)
    assert off(rounded, exact(SAMPLES)) > 0.5  # 8 rows too many


def test_networks_with_several_inputs_are_quantised() -> None:
    both = {"images": SAMPLES, "more": SAMPLES[::-1].copy()}
    made = finely(model(several=True), [both])
    assert off(run(made.model, **both), exact(SAMPLES + SAMPLES[::-1])) < CLOSE


def test_only_operators_of_onnx_itself_are_in_the_file_and_it_is_valid() -> None:
    made = onnx.load_model_from_string(finely(model(), batches()).model)
    onnx.checker.check_model(made, full_check=True)
    assert {node.domain for node in made.graph.node} == {""} == {entry.domain for entry in made.opset_import}


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    handlers, disabled = logging.root.handlers[:], logging.root.manager.disable
    quantised(model(), batches())
    with pytest.raises(ValueError, match="finite"):
        quantised(model(), [{"images": np.full_like(SAMPLES, np.nan)}])
    assert not list(tmp_path.iterdir())
    assert (logging.root.handlers, logging.root.manager.disable) == (handlers, disabled)


def test_what_cannot_be_quantised_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must have layers with weights \(Conv, .*\); this one has none"):
        quantised(model(weights=False), batches())
    with pytest.raises(ValueError, match=r"weight_bits must be 7, .*, or 8; got 6\. Leave it out for 7"):
        quantised(model(), batches(), weight_bits=6)
    with pytest.raises(ValueError, match="at least one batch of samples; got none"):
        quantised(model(), [])
    with pytest.raises(ValueError, match="Calibration samples must be finite; a batch of 'images'"):
        quantised(model(), [{"images": np.full_like(SAMPLES, np.inf)}])


def test_without_onnx_runtime_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(quantisation, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    with pytest.raises(MissingExtraError, match=r"INT8 needs onnxruntime\. Install it with: pip install 'oneshot-nas"):
        quantised(model(), batches())
