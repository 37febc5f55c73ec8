"""Lesson 08, convolution (합성곱), taken apart: by hand, its sizes and costs, what one output value sees.

sizes                    output size, parameters, operations, shapes that fit
by_hand                  by loops, as one matrix product, transposed
fourier                  through the fast Fourier transform
kernels                  kernels by name, and what they make of a picture
receptive_field          by formula and by gradient
equivariance             what a shift of the picture does
strips                   one picture over several ranks
checks                   of the exercises

Pictures: `kernels_picture`, `receptive_field_picture`.
"""

LESSON = 8
