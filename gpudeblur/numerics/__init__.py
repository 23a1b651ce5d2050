"""Arrays and transforms on NumPy and CuPy. Nothing here knows a deblurring method."""
