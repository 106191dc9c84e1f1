"""What is said: scenario, hardware, model, workload, objective and plan, as frozen models with units in the names."""
