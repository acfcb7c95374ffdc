"""The sections of a config, a module each: the meaning, default and bounds of each setting.

The text under a field is its explanation. `manta schema` and error messages print it.
"""
