"""Studies: many runs by one command, and a report that says which claims their results bear out.

`definition` reads what a study is made of, `runner` does the runs, `results` and `claims` judge them, `report` and
`plots` show it, `cli` is `spo study`.
"""
