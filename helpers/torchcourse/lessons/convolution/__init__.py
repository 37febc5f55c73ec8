"""Convolution (합성곱), taken apart: computed by hand in three ways, its sizes and costs, what one output value sees.

`by_hand` (loops, a matrix product, transposed) · `fourier` (through the fast Fourier transform) · `sizes` (output size,
parameters, operations) · `receptive_field` (by formula and by gradient) ·
`equivariance` (what a shift of the picture does) · `strips` (one picture over several ranks) · `pictures`
"""

LESSON = 8
