"""What a call costs: seconds, bytes and floating-point operations, each measured in a run of its own.

A clock is never read while something counts: counting slows every operation down, and keeps tensors alive.
"""
