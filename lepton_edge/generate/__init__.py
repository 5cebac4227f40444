"""Requests: sampling parameters, the sampler, stop strings, and the loop that turns a prompt into pieces of text."""
