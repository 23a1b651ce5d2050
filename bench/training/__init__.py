"""What made the data files of the package: `python -m bench.training.epll` and `bench.training.classifier_data`."""
