"""The enhancement GAN of [Qi2020]: network and training."""
