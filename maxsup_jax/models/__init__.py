"""Flax linen models that return logits and what led to them."""

from maxsup_jax.models.alexnet import AlexNetCifar as AlexNetCifar
from maxsup_jax.models.blur_pool import BlurPool as BlurPool
from maxsup_jax.models.causal_norm import CausalNormHead as CausalNormHead
from maxsup_jax.models.deeplab import DeepLabV3Plus as DeepLabV3Plus
from maxsup_jax.models.densenet import DenseNet as DenseNet
from maxsup_jax.models.drop_path import ChannelDropout as ChannelDropout
from maxsup_jax.models.drop_path import Dropout as Dropout
from maxsup_jax.models.drop_path import DropPath as DropPath
from maxsup_jax.models.layers import at_layer as at_layer
from maxsup_jax.models.layers import saliency_layer as saliency_layer
from maxsup_jax.models.layers import without_head as without_head
from maxsup_jax.models.lstm import LSTMClassifier as LSTMClassifier
from maxsup_jax.models.mobilenet import MobileNetV2 as MobileNetV2
from maxsup_jax.models.own import OwnModel as OwnModel
from maxsup_jax.models.own import checked_model as checked_model
from maxsup_jax.models.own import own_model as own_model
from maxsup_jax.models.parameters import PARAMETER_KINDS as PARAMETER_KINDS
from maxsup_jax.models.parameters import count_parameters as count_parameters
from maxsup_jax.models.parameters import decay_mask as decay_mask
from maxsup_jax.models.parameters import parameter_kinds as parameter_kinds
from maxsup_jax.models.registry import DTYPES as DTYPES
from maxsup_jax.models.registry import MODELS as MODELS
from maxsup_jax.models.registry import READERS as READERS
from maxsup_jax.models.registry import SEGMENTERS as SEGMENTERS
from maxsup_jax.models.registry import TRANSFORMERS as TRANSFORMERS
from maxsup_jax.models.registry import ModelEntry as ModelEntry
from maxsup_jax.models.registry import create_model as create_model
from maxsup_jax.models.registry import create_segmenter as create_segmenter
from maxsup_jax.models.resampling import resize_bilinear as resize_bilinear
from maxsup_jax.models.resnet import STEMS as STEMS
from maxsup_jax.models.resnet import BasicBlock as BasicBlock
from maxsup_jax.models.resnet import BottleneckBlock as BottleneckBlock
from maxsup_jax.models.resnet import ResNet as ResNet
from maxsup_jax.models.resnet_bbn import ResNetBBN as ResNetBBN
from maxsup_jax.models.resnet_preact import (
  PreActivationResNet as PreActivationResNet,
)
from maxsup_jax.models.upernet import UPerNet as UPerNet
from maxsup_jax.models.vit import ViT as ViT
from maxsup_jax.models.vit import ViTBackbone as ViTBackbone
