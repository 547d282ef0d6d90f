"""Meta-gradients enclosed in balls: certificates for results in floating-point arithmetic. Needs the extra `exact`.

`problems` has the derivatives of one task's losses, `gradients` the unrolled and the implicit meta-gradient from them,
`minimiser` the stationary one; `balls.inside` judges a float64 or double-double result by such an enclosure.
"""
