"""The study on top of the core: methods by name, cached runs, experiments, claims, figures."""
