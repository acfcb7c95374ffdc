"""Results of a check of labels (`suspects`) and decisions of people about them (`decisions`), each a file of JSON lines.

The page reads and writes these files, too, so nothing heavy is imported here. `manta.data.corrections` applies the decisions.
"""
