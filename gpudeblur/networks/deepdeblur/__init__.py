"""DeepDeblur of [WangL2017]: network and training."""
