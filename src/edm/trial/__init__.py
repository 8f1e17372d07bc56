"""Trials: frames run through the real pipeline, of which nothing is kept, counted or logged.

A made-up frame and a state come in, and what becomes of it goes out (:mod:`edm.trial.explain`); or sampled frames and
two states, and what changes between them (:mod:`edm.trial.compare`). The decisions are those of :mod:`edm.pipeline`:
another stage needs nothing here but the words about it in :mod:`edm.trial.telling`.
"""
