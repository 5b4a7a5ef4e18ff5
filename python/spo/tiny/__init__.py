"""The `tiny` task: a family of small problems, its tokenizer, and a reference policy that gets them wrong.

Everything a training run needs that would otherwise be downloaded is made here in about a minute:
`programs` is the language of the family, `problems` the tasks, `tokenizer` the vocabulary and `reference`
the model trained on right and wrong programs. Nothing here trains by reinforcement, samples or judges.
"""
