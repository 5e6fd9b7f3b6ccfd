"""Which networks ``oneshot.convert`` converts: how much of each varies, what is fixed and why, whether it is right.

Every network of the list is converted with random weights. It is checked that the largest architecture computes what
the original computes, and that the smallest and random ones compute the same in the supernet and standing alone, bit by
bit. Usage:

    python experiments/convert/coverage.py [--networks timm:resnet50 torchvision:resnet18 ...] [--out FOLDER]

Writes coverage.json and coverage.md; networks that are in coverage.json already keep their lines unless they are named.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import oneshot  # noqa: E402
from oneshot.conversion import build  # noqa: E402
from oneshot.conversion.network import output_of  # noqa: E402
from oneshot.cost import count  # noqa: E402

# Reasons that hold for any network: these sides belong to data, not to the network, or are too small to be cut.
ORDINARY = (
    "side of the input",
    "side of the output",
    "vocabulary",
    "number of tokens",
    "looked up by their numbers",
    "too few channels for multiple",
)
THOSE_ASKED_FOR = """
timm:resnet50 timm:efficientnet_b0 timm:tf_efficientnet_lite0 timm:mobilenetv3_small_100 timm:convnext_atto
timm:vit_tiny_patch16_224 timm:swin_tiny_patch4_window7_224 timm:mobilenetv4_conv_small timm:repvit_m0_9
timm:efficientformerv2_s0 timm:fastvit_t8 timm:levit_128s timm:regnety_002 torchvision:resnet18 torchvision:resnet50
torchvision:mobilenet_v3_small torchvision:shufflenet_v2_x1_0 torchvision:densenet121 torchvision:deeplabv3_resnet50
torchvision:fcn_resnet50 torchvision:vit_b_16 torchvision:swin_t
"""
OTHERS = """
torchvision:alexnet torchvision:vgg11_bn torchvision:squeezenet1_1 torchvision:googlenet torchvision:mnasnet0_5
torchvision:mobilenet_v2 torchvision:efficientnet_b0 torchvision:regnet_y_400mf torchvision:convnext_tiny
torchvision:resnext50_32x4d torchvision:lraspp_mobilenet_v3_large timm:ghostnet_100 timm:edgenext_xx_small
timm:poolformer_s12 timm:mixer_s32_224 timm:gmlp_s16_224 timm:resmlp_12_224 timm:convmixer_768_32
timm:res2net50_14w_8s timm:dla34 timm:hrnet_w18_small timm:cspresnet50 timm:efficientvit_b0 timm:efficientvit_m0
timm:tiny_vit_5m_224 timm:deit_tiny_patch16_224 timm:beit_base_patch16_224 timm:cait_xxs24_224 timm:pit_ti_224
timm:coat_lite_tiny timm:xcit_nano_12_p16_224 timm:nf_regnet_b0 timm:resnetv2_50 timm:ese_vovnet19b_dw
timm:inception_next_tiny timm:mobileone_s0 timm:pvt_v2_b0 timm:davit_tiny timm:eca_resnet33ts timm:resnest14d
timm:starnet_s1 timm:mambaout_femto timm:hgnetv2_b0 timm:sequencer2d_s timm:mixnet_s timm:lcnet_050 timm:rexnet_100
timm:twins_pcpvt_small timm:focalnet_tiny_srf timm:visformer_tiny timm:swiftformer_xs
"""
LIST = {
    **dict.fromkeys((THOSE_ASKED_FOR + OTHERS).split(), 224),
    "timm:mobilevit_xxs": 256,
    "timm:mobilevitv2_050": 256,
    "timm:swinv2_tiny_window8_256": 256,
    "torchvision:inception_v3": 299,
}
HEAD = ("network", "converted", "groups", "blocks", "M params", "GMACs", "largest", "alone", "s", "what is fixed")


def built(source: str) -> nn.Module:
    """A network with random weights in which every layer matters."""
    arguments: dict[str, Any] = {}
    if source.startswith("torchvision:") and any(name in source for name in ("deeplab", "fcn", "lraspp")):
        arguments = {"weights_backbone": None}
    if source in ("torchvision:googlenet", "torchvision:inception_v3"):
        arguments = {"init_weights": False, "aux_logits": False}
    torch.manual_seed(0)
    network = build(source, arguments).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1 and not parameter.any():  # last layers that begin with zeros
                parameter.normal_(0, 0.02)
    return network


def outputs(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return output_of(network(x), None)


def line(source: str, side: int, architectures: int = 3) -> dict[str, Any]:
    """What there is to say about a network."""
    network = built(source)
    torch.manual_seed(1)
    x = torch.randn(2, 3, side, side)
    wanted, start = outputs(network, x), time.perf_counter()
    try:
        supernet = oneshot.convert(network, x)
    except ValueError as error:
        return {"network": source, "converted": "refused", "why": str(error)}
    seconds, space = time.perf_counter() - start, supernet.space
    supernet.eval()
    rng = np.random.default_rng(0)
    configs = [space.smallest, *(space.config_of(row) for row in space.draw_genes(architectures, rng)), space.largest]
    alone, counts = [], []
    for place, config in enumerate(configs):
        extracted = supernet.extract(config).eval()
        with torch.no_grad():
            alone.append(torch.equal(extracted(x), supernet(x, config)))
        if place in (0, len(configs) - 1):
            counts.append(count(extracted, (3, side, side)))
    with torch.no_grad():
        error = float((supernet(x, space.largest) - wanted).abs().max() / wanted.abs().max())
    reasons: dict[str, list[str]] = {}
    for item in supernet.graph.fixed:
        if not any(word in item.why for word in ORDINARY):
            reasons.setdefault(item.why, []).append(f"{item.what} ({item.size})")
    smallest, largest = counts
    return {
        "network": source,
        "converted": "in part" if reasons else "wholly",
        "side": side,
        "groups": len(supernet.graph.groups),
        "blocks": sum(len(stage.blocks) for stage in supernet.graph.stages),
        "architectures": f"{space.size:.1e}" if space.size < 10**300 else f"10^{len(str(space.size)) - 1}",
        "params": [smallest.params, largest.params],
        "macs": [smallest.macs, largest.macs],
        "largest_error": error,
        "alone_equal": all(alone),
        "seconds": round(seconds, 1),
        "fixed": reasons,
        "without_rule": [f"{name} in {module}" for name, module in supernet.graph.unknown],
    }


def cells(entry: dict[str, Any]) -> list[str]:
    """A line of the table."""
    if entry["converted"] == "refused":
        return [entry["network"], "refused", *[""] * 7, entry["why"]]
    params, macs = ([f"{n / scale:.2f}" for n in entry[key]] for key, scale in (("params", 1e6), ("macs", 1e9)))
    fixed = "; ".join(f"{len(what)} x {why}" for why, what in entry["fixed"].items())
    return [
        entry["network"],
        entry["converted"],
        str(entry["groups"]),
        str(entry["blocks"]),
        " to ".join(params),
        " to ".join(macs),
        f"{entry['largest_error']:.0e}",
        "equal" if entry["alone_equal"] else "**differs**",
        f"{entry['seconds']:.0f}",
        fixed[:160] + ("..." if len(fixed) > 160 else "") or "nothing",
    ]


def table(entries: list[dict[str, Any]]) -> str:
    kinds = [entry["converted"] for entry in entries]
    told = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("wholly", "in part", "refused"))
    rows = [HEAD, ["---"] * len(HEAD), *(cells(entry) for entry in entries)]
    return "\n".join(
        [
            f"{len(entries)} networks: {told}. Written by coverage.py, torch {torch.__version__.partition('+')[0]}.",
            "",
            "`M params` and `GMACs` are of the smallest and the largest architecture. `largest` is the"
            " relative difference between outputs of the largest one and of the original. `alone` tells whether"
            " extracted networks compute what the supernet computes, bit by bit. `s` is the seconds of"
            " `oneshot.convert`, on one core that other programs used too. `what is fixed` leaves out sides of inputs,"
            " outputs, tokens and tables, and groups"
            " that are too small to be cut.",
            "",
            *("| " + " | ".join(str(cell).replace("|", "/").replace("\n", " ") for cell in row) + " |" for row in rows),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", metavar="SOURCE", help="only these; by default all that are missing")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of coverage.json and coverage.md")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", module=r"(timm|torch|torchvision)\.")  # of old names and initial weights
    file = given.out / "coverage.json"
    done = {entry["network"]: entry for entry in json.loads(file.read_text(encoding="utf-8"))} if file.exists() else {}
    for source in given.networks or [source for source in LIST if source not in done]:
        done[source] = line(source, LIST.get(source, 224))
        print(" | ".join(cells(done[source])), flush=True)
        order = {name: place for place, name in enumerate(LIST)}
        entries = sorted(done.values(), key=lambda entry: order.get(entry["network"], len(order)))
        given.out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
        (given.out / "coverage.md").write_text(table(entries), encoding="utf-8")


if __name__ == "__main__":
    main()
