"""What a check of labels finds (`suspects`) and what people decide about it (`decisions`), each a file of JSON lines.

The page reads and writes these files, too, so nothing heavy is imported here. `manta.data.corrections` applies the decisions.
"""
