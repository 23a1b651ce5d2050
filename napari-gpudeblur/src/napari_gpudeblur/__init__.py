"""Widgets of napari for gpudeblur: Deblur (the kernel is estimated) and Deconvolve (it is known).

`widgets` has the two, `layers` what they read from layers and make of results, `thread` how they run.
"""
