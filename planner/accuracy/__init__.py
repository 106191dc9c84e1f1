"""How well predictions meet measurements: points, the halves they are split into, scores and the page made of them."""
