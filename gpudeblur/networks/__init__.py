"""Neural networks: the only room that imports torch, and only when a network is used. One network, one folder."""
