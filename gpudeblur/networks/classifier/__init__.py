"""The classifier of clear and blurred images of [Li2018]: network, data, training, evaluation, command."""
