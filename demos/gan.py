"""A generative adversarial network that learns a Gaussian distribution in two dimensions.

Figure to reach: mean and covariance of the samples within 10 % of those of the data.

The generator sees noise, the discriminator (relu, 3 layers) sees both. Its gradient at the
data is kept small (the R1 penalty; Mescheder, Geiger, Nowozin, ICML 2018), which needs
gradients of gradients; samples come from the running mean of the generator's weights.

    portanet demo gan --device cpu
"""

import sys

import demo_kit as kit
import numpy as np
import portanet as pn
from portanet import nn, optim

MEAN = np.array([2.0, 1.0], np.float32)
MAP = np.array([[1.0, 2.0], [-0.2, 0.5]], np.float32)  # data = noise @ MAP + MEAN
PENALTY = 0.5
KEPT = 0.99  # of the running mean, at each step


def real(n):
    return pn.randn(n, 2) @ pn.tensor(MAP) + pn.tensor(MEAN)


def networks(hidden):
    generator = nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, 2))
    discriminator = nn.Sequential(
        nn.Linear(2, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, 1),
    )
    return generator, discriminator


def distances(samples):
    """How far mean and covariance are from the true ones, as parts of these."""
    covariance = MAP.T @ MAP
    mean = np.linalg.norm(samples.mean(axis=0) - MEAN) / np.linalg.norm(MEAN)
    found = np.cov(samples.T)
    return mean, np.linalg.norm(found - covariance) / np.linalg.norm(covariance)


def picture(args, samples, data):
    made = kit.figure(5, 5)
    axes = made.subplots()
    for points, name in ((data, "data"), (samples, "samples")):
        axes.plot(*points.T, ".", markersize=2, alpha=0.5, label=name)
    axes.legend()
    kit.save(made, args, "gan")


def main():
    args = kit.arguments(__doc__)
    steps, batch = kit.pick(args, 4000, 2000), kit.pick(args, 256, 128, 16)
    generator, discriminator = networks(kit.pick(args, 64, 32, 8))
    averaged, _ = networks(kit.pick(args, 64, 32, 8))
    averaged.load_state_dict(generator.state_dict())
    g_optimizer = optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.99))
    d_optimizer = optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.5, 0.99))
    softplus = nn.functional.softplus

    @pn.compile
    def step():
        x, fake = real(batch), generator(pn.randn(batch, 2)).detach()
        slope = pn.grad(lambda v: discriminator(v).sum())(x)
        d_optimizer.zero_grad()
        loss = softplus(-discriminator(x)).mean() + softplus(discriminator(fake)).mean()
        (loss + PENALTY * slope.square().sum(axis=1).mean()).backward()
        d_optimizer.step()
        g_optimizer.zero_grad()
        softplus(-discriminator(generator(pn.randn(batch, 2)))).mean().backward()
        g_optimizer.step()
        for a, p in zip(averaged.parameters(), generator.parameters(), strict=True):
            with pn.no_grad():
                a.assign(KEPT * a + (1 - KEPT) * p)
        return loss.detach()

    losses = []
    for _ in kit.track(range(steps), steps, lambda: kit.last(losses)):
        losses.append(step())
    with pn.no_grad():
        samples = averaged(pn.randn(20000, 2)).numpy()
    picture(args, samples[:1000], real(1000).numpy())
    mean, covariance = distances(samples)
    return kit.verdict(
        args,
        ("distance of the means", mean, "<=", 0.1),
        ("distance of the covariances", covariance, "<=", 0.1),
    )


if __name__ == "__main__":
    sys.exit(main())
