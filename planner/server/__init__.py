"""The HTTP door: jobs in a store, solves in worker processes, and the routes that lead to them.

`planner.server.app` puts the parts together: routes take requests, the desk (`desk`) keeps the jobs, the crew (`crew`)
runs them in processes of their own, the store (`store`) remembers them over a restart.
"""
