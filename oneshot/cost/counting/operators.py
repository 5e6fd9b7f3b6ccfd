"""What PyTorch's operators multiply and add up: a formula, nothing, or unknown."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from oneshot._lightning import (
    MKLDNN,
    HigherOrderOperator,
    OpOverload,
    argument_names,
    nested_sizes,
    packet_of,
    tree_leaves,
)

Formula = Callable[[dict[str, Any], Any], int | None]


def macs_of(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int | None:
    """Multiply-accumulates of one call of an operator.

    They come from the formulas of this file, and else from those of PyTorch, among which are the ones that users add by
    ``torch.utils.flop_counter.register_flop_formula``; two of its FLOPs are one multiply-accumulate.

    Args:
        operator: The operator, as a ``TorchDispatchMode`` gets it.
        args: Its arguments.
        kwargs: Its named arguments.
        out: What it returned.

    Returns:
        The number; 0 for what multiplies nothing by the convention of :func:`~oneshot.cost.count`; None where it is
        unknown: neither a formula nor the list of operators that count nothing has it, or a formula is for dense
        tensors and got sparse or nested ones.
    """
    if isinstance(operator, HigherOrderOperator):
        theirs = flop_registry.get(operator)
        return None if theirs is None else theirs(*args, **kwargs, out_val=out) // 2
    name = packet_of(operator).__name__.removesuffix("_")  # x.addmm_(...) is addmm in place
    aten = operator.namespace == "aten"
    if aten and name in FORMULAS:
        bound = _bound(operator, args, kwargs)
        return FORMULAS[name](bound, out) if name in RAGGED or _dense((args, kwargs)) else None
    packet = getattr(torch.ops.aten, name, packet_of(operator)) if aten else packet_of(operator)
    if (theirs := flop_registry.get(packet)) is not None:
        return theirs(*args, **kwargs, out_val=out) // 2 if _dense((args, kwargs)) else None
    return 0 if _multiplies_nothing(operator) else None


def _bound(operator: OpOverload[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by their names."""
    return dict(zip(argument_names(operator), args, strict=False)) | kwargs


def _dense(arguments: object) -> bool:
    tensors = [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)]
    dense = (torch.strided, MKLDNN)
    return not any(t.is_nested or t.layout not in dense for t in tensors)


# Formulas. Each gets the arguments by name, and the output.


def _matrix(of: str) -> Formula:
    """Matrix products: every number of the output adds up one row of the matrix ``of``."""
    return lambda a, out: out.numel() * a[of].shape[-1]


def _vector(of: str) -> Formula:
    """Products with a vector: every number of ``of`` is multiplied once."""
    return lambda a, out: a[of].numel()


def _grouped(a: dict[str, Any], out: Any) -> int:
    """Matrix products of groups of rows; the groups of ``[M, K]`` and ``[K, N]`` together make one product."""
    first, second = a["self"] if "self" in a else a["mat_a"], a["mat2"] if "mat2" in a else a["mat_b"]
    shared = first.shape[0] if first.dim() == 3 and second.dim() == 2 else 1
    return int(first.numel() * second.shape[-1] // shared)


def _convolution(a: dict[str, Any], out: Any) -> int:
    x, weight = a["input" if "input" in a else "self"], a["weight"]
    return int((x if a.get("transposed") else out).numel() * math.prod(weight.shape[1:]))


def _transposed(a: dict[str, Any], out: Any) -> int:
    return int(a["self"].numel() * math.prod(a["weight"].shape[1:]))


def _convolution_backward(a: dict[str, Any], out: Any) -> int:
    """As much for each of the two gradients as for the output."""
    once = (a["input"] if a["transposed"] else a["grad_output"]).numel() * math.prod(a["weight"].shape[1:])
    return int(sum(a["output_mask"][:2]) * once)


def _recurrent(weights: Callable[[dict[str, Any]], list[Tensor]], passes: int = 1) -> Formula:
    """Recurrent layers: every step of every sequence runs through all matrices; vectors are biases."""

    def formula(a: dict[str, Any], out: Any) -> int:
        steps = math.prod(a["input"].shape[:-1])
        return int(passes * steps * sum(w.numel() for w in weights(a) if w.dim() == 2))

    return formula


def _lengths(x: Tensor) -> list[int]:
    """Lengths of the sequences ``[B, L, E]``, nested or not."""
    if not x.is_nested:
        return [x.shape[1]] * x.shape[0]
    return [int(length) for length in nested_sizes(x)[:, 0]]


def _attended(queries: list[int], keys: list[int], size: int) -> int:
    """Scores of all pairs, and sums of the values by them."""
    return 2 * size * sum(q * k for q, k in zip(queries, keys, strict=True))


def _attention(a: dict[str, Any], out: Any) -> int:
    """The whole of ``nn.MultiheadAttention``: three projections, attention, and the projection of the output."""
    query, key, value = (_lengths(a[name]) for name in ("query", "key", "value"))
    size: int = a["embed_dim"]
    projected = (2 * sum(query) + sum(key) + sum(value)) * size * size
    return projected + _attended(query, key, size)


def _encoder_layer(a: dict[str, Any], out: Any) -> int:
    """The whole of ``nn.TransformerEncoderLayer``."""
    lengths = _lengths(a["src"])
    weights = sum(a[name].numel() for name in ("qkv_weight", "proj_weight", "ffn_weight_1", "ffn_weight_2"))
    return int(sum(lengths) * weights) + _attended(lengths, lengths, a["embed_dim"])


def _scaled_dot_product(a: dict[str, Any], out: Any) -> int:
    """Attention of ``[..., L, E]`` over ``[..., S, E]`` and ``[..., S, V]``."""
    query, key, value = a["query"], a["key"], a["value"]
    return int(math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1]))


def _trilinear(a: dict[str, Any], out: Any) -> int:
    """``nn.Bilinear``: one product of two inputs and a weight for every element that is added up."""
    shapes = []
    for index in "123":
        shape = list(a["i" + index].shape)
        for dim in sorted(a["expand" + index]):
            shape.insert(dim, 1)
        shapes.append(shape)
    return math.prod(max(sizes) for sizes in zip(*shapes, strict=True))


def _distances(a: dict[str, Any], out: Any) -> int | None:
    """Euclidean distances: every pair squares and adds up its differences; other norms multiply otherwise."""
    return int(out.numel() * a["x1"].shape[-1]) if a.get("p", 2) == 2 else None


def _layer_weights(a: dict[str, Any]) -> list[Tensor]:
    return [a["weight1" if "weight1" in a else "weight0"], a["weight2" if "weight2" in a else "weight1"]]


FORMULAS: dict[str, Formula] = {
    **dict.fromkeys(
        ("_int_mm", "_weight_int8pack_mm", "_weight_int4pack_mm", "_weight_int4pack_mm_for_cpu", "mkldnn_linear"),
        _matrix("self"),
    ),
    "linear": _matrix("input"),
    "_mixed_dtypes_linear": _matrix("input"),
    "_dyn_quant_matmul_4bit": _matrix("inp"),
    "_addmm_activation": _matrix("mat1"),
    "_scaled_mm": _matrix("self"),
    "_scaled_mm_v2": _matrix("self"),
    "_grouped_mm": _grouped,
    "_scaled_grouped_mm": _grouped,
    "addbmm": lambda a, out: a["batch1"].numel() * a["batch2"].shape[-1],
    "conv_tbc": lambda a, out: out.numel() * math.prod(a["weight"].shape[:2]),
    "mv": _vector("self"),
    "addmv": _vector("mat"),
    "dot": _vector("self"),
    "vdot": _vector("self"),
    "addr": lambda a, out: a["vec1"].numel() * a["vec2"].numel(),
    **dict.fromkeys(
        ("affine_grid_generator", "cudnn_affine_grid_generator"), lambda a, out: out.numel() * a["theta"].shape[-1]
    ),
    **dict.fromkeys(
        (
            *("convolution", "_convolution", "convolution_overrideable", "_slow_conv2d_forward", "slow_conv3d_forward"),
            *("slow_conv_dilated2d", "slow_conv_dilated3d", "_conv_depthwise2d", "conv_depthwise3d"),
            *("_nnpack_spatial_convolution", "mkldnn_convolution", "_mps_convolution", "cudnn_convolution"),
            *("cudnn_convolution_relu", "cudnn_convolution_add_relu", "miopen_convolution", "miopen_convolution_relu"),
            *("miopen_convolution_add_relu", "miopen_depthwise_convolution"),
        ),
        _convolution,
    ),
    **dict.fromkeys(
        (
            *("cudnn_convolution_transpose", "miopen_convolution_transpose", "_mps_convolution_transpose"),
            *("slow_conv_transpose2d", "slow_conv_transpose3d"),
        ),
        _transposed,
    ),
    "convolution_backward": _convolution_backward,
    "mkldnn_rnn_layer": _recurrent(lambda a: [a["weight0"], a["weight1"]]),
    "mkldnn_rnn_layer_backward": _recurrent(lambda a: [a["weight1"], a["weight2"]], passes=2),
    "_cudnn_rnn": _recurrent(lambda a: a["weight"]),
    "miopen_rnn": _recurrent(lambda a: a["weight"]),
    "_native_multi_head_attention": _attention,
    "_transformer_encoder_layer_fwd": _encoder_layer,
    "_scaled_dot_product_fused_attention_overrideable": _scaled_dot_product,
    "_scaled_dot_product_flash_attention_for_cpu": _scaled_dot_product,  # PyTorch 2.11 has none
    "_scaled_dot_product_attention_math_for_mps": _scaled_dot_product,
    "_trilinear": _trilinear,
    "_euclidean_dist": _distances,
    "_cdist_forward": _distances,
}
RAGGED = {"_native_multi_head_attention", "_transformer_encoder_layer_fwd"}  # formulas that know nested tensors

# What counts nothing, by subject. Elementwise operators and views are known by what PyTorch says of them. Names stand
# for their in-place, out, backward, _foreach and _copy forms as well.
FREE_BY_SUBJECT = {
    "made, copied and shaped": """
        arange blackman_window bartlett_window hamming_window hann_window kaiser_window empty empty_like empty_permuted
        empty_affine_quantized empty_per_channel_affine_quantized empty_quantized empty_strided eye from_file full
        full_like linspace logspace new_empty new_empty_strided new_full new_ones new_zeros ones ones_like range
        scalar_tensor zeros zeros_like zero fill tril_indices triu_indices fft_fftfreq fft_rfftfreq efficientzerotensor
        new_zeros_with_same_feature_meta block_diag cat chunk_cat channel_shuffle col2im complex polar constant_pad_nd
        copy copy_from copy_from_and_resize diag_embed flip im2col lazy_clone lift mkldnn_reshape mkldnn_transpose
        mkldnn_reorder_conv2d_weight mkldnn_reorder_conv3d_weight narrow pad pin_memory pixel_shuffle pixel_unshuffle
        reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave replication_pad1d replication_pad2d
        replication_pad3d reshape resize resize_as resize_output roll rot90 set shallow_copy_data split split_with_sizes
        stack to to_dense to_mkldnn to_padded_tensor to_sparse to_sparse_bsc to_sparse_bsr to_sparse_csc to_sparse_csr
        tril triu unbind unfold unsafe_split unsafe_split_with_sizes unsafe_view record_stream sparse_coo_tensor
        sparse_coo_tensor_with_dims sparse_coo_tensor_with_dims_and_tensors sparse_compressed_tensor
        sparse_compressed_tensor_with_dims sparse_mask sparse_resize sparse_resize_and_clear coalesce coalesced
        convert_indices_from_coo_to_csr convert_indices_from_csr_to_coo nested_from_padded
        nested_from_padded_and_nested_example nested_from_padded_tensor nested_tensor_from_mask
        nested_tensor_from_mask_left_aligned nested_tensor_from_tensor_list nested_select nested_sum
        jagged_to_padded_dense padded_dense_to_jagged pack_padded_sequence
    """,
    "random numbers": """
        bernoulli binomial cauchy dirichlet_grad dropout exponential fill_mem_eff_dropout_mask fused_dropout geometric
        log_normal multinomial native_dropout normal normal_functional philox_key_fold_in philox_key_split philox_normal
        philox_randint philox_uniform poisson rand rand_like randint randint_like randn randn_like random randperm
        rrelu_with_noise rrelu_with_noise_functional sample_dirichlet standard_gamma standard_gamma_grad uniform
        cudnn_init_dropout_state
    """,
    "look-ups, orders and sets": """
        argsort bincount bucketize embedding embedding_bag embedding_bag_dense embedding_bag_forward_only
        embedding_bag_per_sample_weights embedding_dense embedding_renorm gather hash_tensor histc histogram
        histogramdd_bin_edges histogramdd_from_bin_cts histogramdd_from_bin_tensors index index_add index_fill index_put
        index_put_impl index_reduce index_select isin kthvalue masked_select masked median mode nanmedian nonzero
        nonzero_static put scatter scatter_add scatter_reduce searchsorted segment_reduce sort take topk unique unique2
        unique_consecutive unique_dim unique_dim_consecutive unsafe_index unsafe_index_put unsafe_masked_index
        unsafe_masked_index_put_accumulate
    """,
    "elementwise operators that PyTorch does not mark, activations and optimisers": """
        add_relu floor_divide fake_quantize_learnable_per_channel_affine fake_quantize_learnable_per_tensor_affine
        fake_quantize_per_channel_affine_cachemask fake_quantize_per_tensor_affine_cachemask
        fake_quantize_per_tensor_affine_cachemask_tensor_qparams fused_moving_avg_obs_fq_helper
        fused_moving_avg_obs_fq_helper_functional quantize_per_channel quantize_per_tensor quantize_per_tensor_dynamic
        make_per_channel_quantized_tensor make_per_tensor_quantized_tensor dequantize int_repr glu hardswish irshift
        ilshift leaky_relu linalg_cross log_sigmoid masked_scale prelu_kernel threshold thnn_fused_gru_cell
        thnn_fused_lstm_cell transform_bias_rescale_qkv amp_foreach_non_finite_check_and_unscale amp_update_scale
        fused_adagrad fused_adam fused_adamw fused_sgd cudnn_rnn_flatten_weight
    """,
    "sums and other reductions, softmax": """
        all allclose amax amin aminmax any argmax argmin count_nonzero cummax cummax_helper cummin cummin_helper cumprod
        cumsum dist equal is_all_true is_any_true linalg_vector_norm linalg_powsum linalg__powsum log_softmax
        logcumsumexp logsumexp masked_softmax max mean min nansum native_norm nested_tensor_softmax_with_shape norm
        powsum prod renorm safe_softmax softmax std std_mean sum trace var var_mean sparse_sum sparse_softmax
        sparse_log_softmax sparse_csr_sum sparse_csr_prod
    """,
    "normalisation": """
        batch_norm batch_norm_backward_elemt batch_norm_backward_reduce batch_norm_elemt batch_norm_gather_stats
        batch_norm_gather_stats_with_counts batch_norm_no_update batch_norm_reduce batch_norm_stats
        batch_norm_update_stats batch_norm_with_update batch_norm_with_update_functional cudnn_batch_norm fused_rms_norm
        miopen_batch_norm native_batch_norm native_batch_norm_legit native_batch_norm_legit_functional
        native_batch_norm_legit_no_training native_group_norm native_layer_norm quantized_batch_norm
        weight_norm_interface
    """,
    "pooling and interpolation": """
        adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d avg_pool1d
        avg_pool2d avg_pool3d cudnn_grid_sampler fractional_max_pool2d fractional_max_pool3d grid_sampler_2d
        grid_sampler_2d_cpu_fallback grid_sampler_3d max_pool2d max_pool2d_with_indices max_pool3d_with_indices
        max_unpool2d max_unpool3d mkldnn_adaptive_avg_pool2d mkldnn_max_pool2d mkldnn_max_pool3d quantized_max_pool1d
        quantized_max_pool2d quantized_max_pool3d upsample_bicubic2d upsample_bicubic2d_aa upsample_bilinear2d
        upsample_bilinear2d_aa upsample_lanczos2d_aa upsample_linear1d upsample_nearest1d upsample_nearest2d
        upsample_nearest3d upsample_nearest_exact1d upsample_nearest_exact2d upsample_nearest_exact3d
        upsample_trilinear3d
    """,
    "losses": """
        binary_cross_entropy binary_cross_entropy_with_logits ctc_loss cudnn_ctc_loss huber_loss miopen_ctc_loss
        mse_loss multi_margin_loss multilabel_margin_loss nll_loss nll_loss2d smooth_l1_loss soft_margin_loss
    """,
    "questions and checks": """
        assert_async assert_scalar assert_tensor_metadata dense_dim dimI dimV functional_assert_async
        functional_assert_scalar functional_sym_constrain_range functional_sym_constrain_range_for_size fused_sdp_choice
        has_same_storage_numel is_coalesced is_pinned is_same_size is_set_to linalg_check_errors local_scalar_dense
        make_dep_token nested_compute_contiguous_strides_offsets nested_get_jagged_dummy nested_get_lengths
        nested_get_max_seqlen nested_get_min_seqlen nested_get_offsets nested_get_ragged_idx nested_tensor_size
        nested_tensor_storage_offsets nested_tensor_strides nnz print q_per_channel_axis q_per_channel_scales
        q_per_channel_zero_points q_scale q_zero_point qscheme sparse_dim sym_constrain_range
        sym_constrain_range_for_size use_cudnn_ctc_loss use_miopen_ctc_loss validate_compressed_sparse_indices item size
        stride numel dim sym_size sym_stride sym_numel sym_storage_offset storage_offset is_contiguous sym_is_contiguous
        is_strides_like_format is_non_overlapping_and_dense
    """,
}
FREE = frozenset(name for names in FREE_BY_SUBJECT.values() for name in names.split())
QUIET = ("prim", "profiler", "c10d", "_c10d_functional", "_c10d_functional_autograd")  # questions, records, messages


@functools.cache
def _multiplies_nothing(operator: OpOverload[..., Any]) -> bool:
    if operator.namespace != "aten":
        return operator.namespace in QUIET
    name = packet_of(operator).__name__
    bare = name.removeprefix("_foreach_").strip("_")
    forms = {name, bare}
    for suffix in ("_jvp", "_data", "_impl", "_backward", "_copy", "_forward", "_scatter", "_backward"):
        bare = bare.removesuffix(suffix)
        forms.add(bare)
    return not forms.isdisjoint(FREE) or any(_elementwise_or_view(form) for form in forms)


def _elementwise_or_view(name: str) -> bool:
    packet = getattr(torch.ops.aten, name, None)
    overloads = [] if packet is None else [getattr(packet, overload) for overload in packet.overloads()]
    marks = {torch.Tag.pointwise, torch.Tag.inplace_view}
    return any(overload.is_view or not marks.isdisjoint(overload.tags) for overload in overloads)
