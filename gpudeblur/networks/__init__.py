"""Networks, and what trains them: the only folder that imports torch; nothing outside loads it before it is used.

`classifier` tells clear pictures from blurred ones (seed 3); `weights` reads and writes safetensors; `pairs` makes
training pictures of clear ones; `training` trains.
"""
