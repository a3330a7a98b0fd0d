"""The health report of a model: what each layer of its encoder does to the order of time."""
