"""The nano world: pictures, sounds, speech, videos and talk about them; and the readers of the field's own sets.

Everything a model learns from is a `sample.Sample`; `world.samples` makes them without end.
"""
