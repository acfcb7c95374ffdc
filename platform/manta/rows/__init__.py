"""Files of rows: CSV, TSV, JSON lines, a JSON array, Parquet. Training, batch prediction and the page read them here.

`text_file` opens a file of text as UTF-8, whatever its encoding and compression, and `contents` refuses what is no text.
`delimited` and `json_rows` find the records in it. `columns` finds a column by its name, and `parquet` one of a table.
"""
