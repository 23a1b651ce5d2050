"""Networks: the only room that imports torch, and only when one is used. One network, one folder."""
