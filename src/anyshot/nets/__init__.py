"""Networks that turn an image into feature maps: one contract, timm models and our own ResNet-38."""
