"""What made the data files of the package: `python -m bench.training.epll`, `python -m bench.training.classifier_data`."""
