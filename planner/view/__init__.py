"""What a terminal shows: rich renderables made from the models of `specs`. They draw at most 100 columns."""
