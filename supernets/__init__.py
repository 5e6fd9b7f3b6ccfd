"""Search spaces and weight-sharing networks. Torch only, and what needs no torch does not import it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneshot._lazy import lazy

if TYPE_CHECKING:
    from .base import OperationSupernet as OperationSupernet
    from .base import Subnet as Subnet
    from .base import Supernet as Supernet
    from .connection import CellGraph as CellGraph
    from .connection import connected as connected
    from .darts import DARTSNetwork as DARTSNetwork
    from .darts import DARTSSpace as DARTSSpace
    from .darts import DARTSSupernet as DARTSSupernet
    from .darts import darts_space as darts_space
    from .darts import reduced_space as reduced_space
    from .elastic import ElasticArch as ElasticArch
    from .elastic import ElasticNetwork as ElasticNetwork
    from .elastic import ElasticSpace as ElasticSpace
    from .elastic import ElasticSupernet as ElasticSupernet
    from .elastic import sort_channels as sort_channels
    from .elastic_resnet import ElasticResNetNetwork as ElasticResNetNetwork
    from .elastic_resnet import ElasticResNetSpace as ElasticResNetSpace
    from .elastic_resnet import ElasticResNetSupernet as ElasticResNetSupernet
    from .execution import CellPlan as CellPlan
    from .execution import CellRun as CellRun
    from .execution import ChainPlan as ChainPlan
    from .execution import EqualPlan as EqualPlan
    from .execution import WiredPlan as WiredPlan
    from .execution import Wiring as Wiring
    from .fbnet import FBNetNetwork as FBNetNetwork
    from .fbnet import FBNetSpace as FBNetSpace
    from .fbnet import FBNetSupernet as FBNetSupernet
    from .genotype import NASNET_CELLS as NASNET_CELLS
    from .genotype import PUBLISHED as PUBLISHED
    from .genotype import Genotype as Genotype
    from .mixed_op import MixedOp as MixedOp
    from .mlp import MLPNetwork as MLPNetwork
    from .mlp import MLPSpace as MLPSpace
    from .mlp import MLPSupernet as MLPSupernet
    from .mobilenetv3 import MobileNetV3Network as MobileNetV3Network
    from .mobilenetv3 import MobileNetV3Space as MobileNetV3Space
    from .mobilenetv3 import MobileNetV3Supernet as MobileNetV3Supernet
    from .nasbench1shot1 import NASBench1Shot1Network as NASBench1Shot1Network
    from .nasbench1shot1 import NASBench1Shot1Space as NASBench1Shot1Space
    from .nasbench1shot1 import NASBench1Shot1Supernet as NASBench1Shot1Supernet
    from .nasbench101 import NASBench101Cell as NASBench101Cell
    from .nasbench101 import NASBench101Network as NASBench101Network
    from .nasbench101 import NASBench101Space as NASBench101Space
    from .nasbench201 import NASBench201Network as NASBench201Network
    from .nasbench201 import NASBench201Space as NASBench201Space
    from .nasbench201 import NASBench201Supernet as NASBench201Supernet
    from .nasbench201 import nasbench201_space as nasbench201_space
    from .nasbenchmacro import NASBenchMacroNetwork as NASBenchMacroNetwork
    from .nasbenchmacro import NASBenchMacroSpace as NASBenchMacroSpace
    from .nasbenchmacro import NASBenchMacroSupernet as NASBenchMacroSupernet
    from .nasnet import NASNetNetwork as NASNetNetwork
    from .nasnet import NASNetSpace as NASNetSpace
    from .nasnet import NASNetSupernet as NASNetSupernet
    from .pretrained import Loaded as Loaded
    from .pretrained import convert_ofa as convert_ofa
    from .pretrained import load_timm as load_timm
    from .proxyless import ProxylessNetwork as ProxylessNetwork
    from .proxyless import ProxylessSpace as ProxylessSpace
    from .proxyless import ProxylessSupernet as ProxylessSupernet
    from .recurrent import PUBLISHED_RECURRENT as PUBLISHED_RECURRENT
    from .recurrent import LSTMLanguageModel as LSTMLanguageModel
    from .recurrent import RecurrentGenotype as RecurrentGenotype
    from .recurrent import RecurrentLanguageModel as RecurrentLanguageModel
    from .recurrent import RecurrentSpace as RecurrentSpace
    from .recurrent import RecurrentSupernet as RecurrentSupernet
    from .segmentation import SQUEEZENAS as SQUEEZENAS
    from .segmentation import SegmentationNetwork as SegmentationNetwork
    from .segmentation import SegmentationSupernet as SegmentationSupernet
    from .segmentation import segmentation_space as segmentation_space
    from .series import SeriesNetwork as SeriesNetwork
    from .series import SeriesSpace as SeriesSpace
    from .series import SeriesSupernet as SeriesSupernet
    from .series import TextNetwork as TextNetwork
    from .series import TextSpace as TextSpace
    from .series import TextSupernet as TextSupernet
    from .series import VolumeNetwork as VolumeNetwork
    from .series import VolumeSpace as VolumeSpace
    from .series import VolumeSupernet as VolumeSupernet
    from .space import ArchGraph as ArchGraph
    from .space import Choice as Choice
    from .space import IntMatrix as IntMatrix
    from .space import SearchSpace as SearchSpace
    from .space import SubnetConfig as SubnetConfig
    from .space import load_config as load_config
    from .vit import AUTOFORMER_SPACES as AUTOFORMER_SPACES
    from .vit import AUTOFORMERS as AUTOFORMERS
    from .vit import ViTNetwork as ViTNetwork
    from .vit import ViTSpace as ViTSpace
    from .vit import ViTSupernet as ViTSupernet
    from .vit import vit_blocks as vit_blocks

__getattr__, __dir__, __all__ = lazy(__name__)
