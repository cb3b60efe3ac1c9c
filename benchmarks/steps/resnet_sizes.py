"""The convolutions of the course's ResNet-9: (inputs, outputs, kernel, stride), those of a
residual part in a list. Each is followed by batch normalisation and relu. 431,946
parameters with the head, 128 to 128 to 10."""


def layers():
    """In order, for images (3, 32, 32)."""
    return [
        (3, 16, 7, 4),
        (16, 32, 3, 2),
        [(32, 32, 3, 1), (32, 32, 3, 1)],
        (32, 64, 3, 2),
        (64, 128, 3, 2),
        [(128, 128, 3, 1), (128, 128, 3, 1)],
    ]
