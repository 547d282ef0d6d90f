"""The speed of a meta-gradient here and in the libraries that compute one: `python -m benchmarks.peers`.

Every contender is given the same numbers and asked for the same thing: the meta-gradient of each task, from theta, by
gradient descent on `support loss + strength/2 |w - theta|^2` and either backpropagation through it (MAML) or the
implicit formula with a fixed number of iterations of conjugate gradients (iMAML).
"""
