"""Images and kernels as data: checks, files, planes, noise, saturation. Nothing here knows a deblurring method."""
