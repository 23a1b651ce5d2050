"""Deblurring with an unknown kernel: the two-step method of [Chen2017]. Read `deblur` first."""
