"""The work: cost model, options, plan, certificate, explanation, and the doors to it."""
