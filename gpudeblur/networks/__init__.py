"""Networks, and what trains them. The only folder that imports torch; nothing outside loads it but for a function's use.

`classifier` tells clear pictures from blurred ones (seed 3); `weights` reads and writes safetensors; `pairs` makes
training pictures of clear ones; `training` trains.
"""
