"""InceptionV1 and torchvision's GoogLeNet: layers, weights, preprocessing, activations."""

from isae.inception.layers import LayerInfo, layer_table
from isae.inception.loading import load_model
from isae.inception.network import CHUNK, Network, WeightsInfo

__all__ = ["CHUNK", "LayerInfo", "Network", "WeightsInfo", "layer_table", "load_model"]
