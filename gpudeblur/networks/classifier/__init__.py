"""The classifier of Li et al. 2018, which tells clear images from blurred ones: network, data, training, evaluation."""
