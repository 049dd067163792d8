"""The derivative of a target loss through K training steps, as a small engine.

Everything here takes pure functions and arrays; it knows of no tree, no text and
no language model.
"""
