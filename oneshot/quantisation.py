"""ONNX models of floats as models of INT8: static quantisation by ONNX Runtime, from calibration samples.

Weights become int8, symmetric, with a scale for each channel of the output; what runs between the layers becomes uint8
with one scale and zero point for each tensor, from the least and the largest value that calibration samples give
(Jacob et al., arXiv:1712.05877, section 2.1; per channel: Krishnamoorthi, arXiv:1806.08342, section 2.2). The model
keeps pairs of QuantizeLinear and DequantizeLinear (QDQ), which every runtime understands, and takes and gives floats
as before; its outputs are not rounded to 256 steps. Batch normalisation is folded into the convolutions first.

uint8 with int8 is what ONNX Runtime has kernels for on x86; networks with int8 between the layers were slower there
than those of floats.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import missing_extra

Arrays = Mapping[str, npt.NDArray[Any]]

WEIGHT_BITS = 7  # what every processor adds up; which one will run the file is not known
BITS = "weight_bits must be 7, which every processor adds up, or 8; got {!r}. Leave it out for 7."
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
SIXTH = "hard_sigmoid_sixth"  # the constant 1/6
RATIO = np.float32(1 / 6)  # of a hard-sigmoid


class Quantised(NamedTuple):
    """What :func:`quantised` gives.

    Args:
        model: The ONNX file.
        layers: Number of layers with weights in it.
        int8: How many of them have int8 weights.
        floats: Names of those that keep floats.
    """

    model: bytes
    layers: int
    int8: int
    floats: tuple[str, ...]


def check_installed() -> None:
    """Check that ONNX and ONNX Runtime can be imported.

    Raises:
        MissingExtraError: If they are not installed.
    """
    for package in ("onnx", "onnxruntime"):
        if find_spec(package) is None:
            raise missing_extra(package, "onnx", "Quantising to INT8")


def quantised(
    model: bytes,
    batches: Iterable[Arrays],
    *,
    float_ends: bool = False,
    weight_bits: int = WEIGHT_BITS,
    fixed_shapes: bool = False,
) -> Quantised:
    """Quantise an ONNX model.

    HardSwish and HardSigmoid, which ONNX Runtime computes in floats only, are written as additions, clips and products
    before, so that they run in INT8, too.

    Args:
        model: An ONNX file of floats.
        batches: Inputs by name, ``[B, ...]``; read once, one after the other.
        float_ends: Whether the first and the last layer with weights keep floats; they are the most sensitive ones.
        weight_bits: 7 or 8. On x86 processors without VNNI, sums of products of 8 bits are cut off.
        fixed_shapes: Whether the model has no free dimension, so that shapes are found in a third of the time.

    Raises:
        MissingExtraError: If ONNX Runtime is not installed.
        ValueError: If there are no batches, a batch has NaN or infinity, the model has no layer to quantise, or
            ``weight_bits`` is another number.
    """
    if weight_bits not in (7, 8):
        raise ValueError(BITS.format(weight_bits))
    check_installed()
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no annotations
        def __init__(self) -> None:
            self.batches = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else _checked(batch)

    with TemporaryDirectory() as folder, _quiet():
        simplified, prepared, made = (Path(folder, f"{name}.onnx") for name in ("simplified", "prepared", "int8"))
        graph = onnx.load_model_from_string(model)
        _simplify_hard_sigmoids(graph.graph)
        onnx.save(graph, simplified)
        try:
            quant_pre_process(simplified, prepared, skip_symbolic_shape=fixed_shapes)
        except Exception as error:  # ONNX Runtime raises this class itself, before 1.31 for files of PyTorch 2.11
            if "symbolic shape" not in str(error):
                raise
            quant_pre_process(simplified, prepared, skip_symbolic_shape=True)
        ready = onnx.load(prepared).graph
        ends = _weighted(ready)
        if not ends:
            raise ValueError(
                f"A network to quantise must have layers with weights ({', '.join(WEIGHTED)}); this one has none. "
                "Leave INT8 out."
            )
        kept = (ends[0], ends[-1]) if float_ends else ()
        try:
            quantize_static(
                prepared,
                made,
                Reader(),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=weight_bits == 7,
                nodes_to_exclude=[*kept, *_about_shapes(ready)],
            )
        except ValueError as error:
            if "No data is collected" not in str(error):
                raise
            raise ValueError(
                "The ranges of INT8 must come from at least one batch of samples; got none. Pass an iterable that is "
                "not used up."
            ) from error
        result = onnx.load(made)
    _scale_instead_of_multiplying(result.graph)
    _give_floats(result.graph)
    _drop_unused_domains(result)
    count = _int8_layers(result.graph)
    if not count:
        raise ValueError(
            f"ONNX Runtime must be able to quantise a layer; it has left all {len(ends)} with weights as they are. "
            "Leave INT8 out."
        )
    return Quantised(result.SerializeToString(), len(ends), count, kept)


def _checked(batch: Arrays) -> dict[str, Any]:
    for name, values in batch.items():
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            raise ValueError(f"Calibration samples must be finite; a batch of {name!r} has NaN or infinity.")
    return dict(batch)


def _weighted(graph: Any) -> list[str]:
    """Names of the layers with weights, in the order they run."""
    weights = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type in WEIGHTED and not weights.isdisjoint(node.input[1:2])]


def _about_shapes(graph: Any) -> list[str]:
    """Names of the nodes that compute with shapes and constants alone: rounded to 256 steps they would be wrong.

    Padding as in TensorFlow, for example, is computed in floats where the size of the images is not known.
    """
    of_data = {given.name for given in graph.input}
    found = []
    for node in graph.node:
        if node.op_type not in ("Shape", "Size") and not of_data.isdisjoint(node.input):
            of_data.update(node.output)
        else:
            found.append(node.name)
    return found


def _int8_layers(graph: Any) -> int:
    """Number of layers whose weights are int8."""
    from onnx import TensorProto

    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    weights = {
        node.output[0]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and kinds.get(node.input[0]) == TensorProto.INT8
    }
    return sum(node.op_type in WEIGHTED and node.input[1] in weights for node in graph.node)


def _simplify_hard_sigmoids(graph: Any) -> None:
    """Write hard-sigmoid as ``clip(x + 3, 0, 6) / 6``, and hard-swish as ``x`` times ``clip(x + 3, 0, 6)``, over 6.

    Those with other slopes stay. arXiv:1905.02244, section 5.2.
    """
    from onnx import helper, numpy_helper

    nodes: list[Any] = []
    changed = False
    for node in graph.node:
        slope = {attribute.name: attribute.f for attribute in node.attribute}
        usual = abs(slope.get("alpha", 0.2) - RATIO) < 1e-6 and slope.get("beta", 0.5) == 0.5
        if node.op_type != "HardSwish" and not (node.op_type == "HardSigmoid" and usual):
            nodes.append(node)
            continue
        (x,), (out,), changed = node.input, node.output, True
        nodes.append(helper.make_node("Add", [x, "hard_sigmoid_3"], [f"{out}_shifted"], name=f"{out}_add"))
        clipped = f"{out}_clipped"
        limits = [f"{out}_shifted", "hard_sigmoid_0", "hard_sigmoid_6"]
        nodes.append(helper.make_node("Clip", limits, [clipped], name=f"{out}_clip"))
        if node.op_type == "HardSwish":
            nodes.append(helper.make_node("Mul", [x, clipped], [f"{out}_product"], name=f"{out}_mul"))
            clipped = f"{out}_product"
        nodes.append(helper.make_node("Mul", [clipped, SIXTH], [out], name=f"{out}_{SIXTH}"))
    if changed:
        constants = {"hard_sigmoid_3": 3, "hard_sigmoid_0": 0, "hard_sigmoid_6": 6, SIXTH: 1 / 6}
        graph.initializer.extend(
            numpy_helper.from_array(np.array(v, np.float32), name) for name, v in constants.items()
        )
        del graph.node[:]
        graph.node.extend(nodes)


def _scale_instead_of_multiplying(graph: Any) -> None:
    """Divide the scale of a tensor by 6 where the tensor was divided: the integers stay, and nothing is rounded."""
    from onnx import numpy_helper

    made = {output: node for node in graph.node for output in node.output}
    read: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            read.setdefault(name, []).append(node)
    values = {tensor.name: tensor for tensor in graph.initializer}
    given = {output.name for output in graph.output}
    for product in [node for node in graph.node if node.name.endswith(SIXTH) and node.op_type == "Mul"]:
        before, after = made.get(product.input[0]), read.get(product.output[0], [])
        if before is None or before.op_type != "DequantizeLinear" or product.output[0] in given:
            continue
        if [node.op_type for node in after] != ["QuantizeLinear"] or after[0].output[0] in given:
            continue
        readers = read.get(after[0].output[0], [])
        if not readers or any(node.op_type != "DequantizeLinear" for node in readers):
            continue
        scale = numpy_helper.to_array(values[before.input[1]]) * RATIO
        name = f"{before.input[1]}_{SIXTH}_{len(graph.initializer)}"
        graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), name))
        for node in readers:
            node.input[:] = [before.input[0], name, before.input[2]]
        graph.node.remove(product)
        graph.node.remove(after[0])
    _drop_unread(graph)


def _give_floats(graph: Any) -> None:
    """Leave the outputs as the last layer computes them: 256 steps for all of them are too few for numbers."""
    made = {output: node for node in graph.node for output in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    for output in graph.output:
        chain = _producers(made, output.name, ("DequantizeLinear", "QuantizeLinear"))
        if chain is None or readers[output.name] or any(readers[node.input[0]] != 1 for node in chain):
            continue
        last, before = chain
        if (layer := made.get(before.input[0])) is None:
            continue
        layer.output[list(layer.output).index(before.input[0])] = output.name
        graph.node.remove(before)
        graph.node.remove(last)
    _drop_unread(graph)


def _producers(made: Mapping[str, Any], name: str, kinds: Sequence[str]) -> list[Any] | None:
    """The node that makes a tensor, the one that makes its first input, and so on; None if they are of other kinds."""
    found: list[Any] = []
    for kind in kinds:
        node = made.get(name)
        if node is None or node.op_type != kind:
            return None
        found.append(node)
        name = node.input[0]
    return found


def _drop_unread(graph: Any) -> None:
    """Remove nodes whose outputs nothing reads, and constants that nothing reads."""
    given = {output.name for output in graph.output}
    while True:
        read = given | {name for node in graph.node for name in node.input}
        unread = [node for node in graph.node if read.isdisjoint(node.output)]
        if not unread:
            break
        for node in unread:
            graph.node.remove(node)
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _drop_unused_domains(model: Any) -> None:
    """Name the operator sets that the nodes are of, and no others: other runtimes refuse names they do not know."""
    used = {"", *(node.domain for node in model.graph.node)}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Inside, ONNX Runtime logs and warns of nothing, and the handlers of the root logger are those of the caller."""
    handlers, disabled = logging.root.handlers[:], logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        logging.root.handlers[:] = handlers
