"""The compiler below tensors: traces, graphs, passes over them, plans."""
