"""Refits drafters on what verifiers saw: replay, selection, objective, steps, gate, publish.

window     lessons as they come, the newest of them kept
schedule/  when a refit pays; drift
jobs       a refit that survives being killed
gate       whether the result is better than what it came from
learner    all of it, in order
"""
