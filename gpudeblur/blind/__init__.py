"""Deblurring with an unknown kernel: the two-step method of Chen & Chang 2017. Read `deblur` first."""
