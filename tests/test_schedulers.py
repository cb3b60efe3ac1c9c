"""Schedulers: the rates that PyTorch sets, their formulas, their state, replayed steps."""

import copy
import math
import pickle

import numpy as np
import pytest

import portanet as pn
from portanet import nn, optim
from portanet.optim import lr_scheduler as S


def sgd(*rates, device="cpu"):
    groups = [
        {"params": [nn.Parameter(pn.ones(1, device=device))], "lr": lr} for lr in rates
    ]
    return optim.SGD(groups)


def rates(optimizer, scheduler, steps=20):
    found = []
    for _ in range(steps):
        found.append([g["lr"] for g in optimizer.param_groups])
        scheduler.step()
    return found


MAKE = {
    "StepLR": lambda o: S.StepLR(o, 3, 0.3),
    "MultiStepLR": lambda o: S.MultiStepLR(o, [2, 5, 5, 9], 0.5),
    "ExponentialLR": lambda o: S.ExponentialLR(o, 0.9),
    "CosineAnnealingLR": lambda o: S.CosineAnnealingLR(o, 7, eta_min=0.05),
    "WarmRestarts": lambda o: S.CosineAnnealingWarmRestarts(o, 3, 2, eta_min=0.05),
    "WarmRestarts1": lambda o: S.CosineAnnealingWarmRestarts(o, 4),
    "OneCycle": lambda o: S.OneCycleLR(o, 2.0, total_steps=20),
    "OneCycleLinear": lambda o: S.OneCycleLR(
        o,
        [2.0, 1.0],
        epochs=4,
        steps_per_epoch=5,
        pct_start=0.4,
        anneal_strategy="linear",
        div_factor=10,
        final_div_factor=100,
    ),
    "OneCycle3": lambda o: S.OneCycleLR(o, 2.0, total_steps=20, three_phase=True),
    "LinearLR": lambda o: S.LinearLR(o, 0.25, 1.0, total_iters=6),
    "ConstantLR": lambda o: S.ConstantLR(o, 0.25, total_iters=3),
    "CyclicLR": lambda o: S.CyclicLR(o, 0.1, [1.0, 2.0], 7, 3),
    "CyclicLR2": lambda o: S.CyclicLR(o, 0.1, 1.0, 3, mode="triangular2"),
    "CyclicLRExp": lambda o: S.CyclicLR(o, 0.1, 1.0, 4, mode="exp_range", gamma=0.95),
    "MultiplicativeLR": lambda o: S.MultiplicativeLR(o, lambda t: 1 - 0.5 / (t + 1)),
    "PolynomialLR": lambda o: S.PolynomialLR(o, total_iters=4, power=2.0),
    "LambdaLR": lambda o: S.LambdaLR(o, [lambda t: 1 / (1 + t), lambda t: 0.9**t]),
    "Sequential": lambda o: S.SequentialLR(
        o,
        [
            S.LinearLR(o, 0.1, total_iters=4),
            S.CosineAnnealingLR(o, 8),
            S.ExponentialLR(o, 0.5),
        ],
        [4, 12],
    ),
    "Chained": lambda o: S.ChainedScheduler(
        [
            S.LinearLR(o, 0.5, total_iters=4),
            S.ExponentialLR(o, 0.8),
            S.StepLR(o, 5, 0.5),
        ]
    ),
}
PLATEAUS = {
    "Plateau": {"patience": 1, "factor": 0.5},
    "PlateauMax": {
        "mode": "max",
        "patience": 2,
        "factor": 0.5,
        "cooldown": 2,
        "threshold": 0.1,
        "threshold_mode": "abs",
        "min_lr": [0.1, 0.2],
    },
    "PlateauAbs": {
        "patience": 0,
        "factor": 0.5,
        "cooldown": 1,
        "threshold": 0.5,
        "threshold_mode": "abs",
    },
    "PlateauMaxRel": {"mode": "max", "patience": 0, "factor": 0.5},
}
MEASURED = [5, 4, 4, 3.9999, 3.9998, 4, 4, 4, 4, 2, 3, 3, 3, 3, 3, 3, 3, 3, 1, 1]

# The rate of the first group, of 1.0, after 0, 1, 4, 8, 13 and 19 steps (for the plateaus
# one more); by torch 2.13.0, with cycle_momentum=False.
AT = (0, 1, 4, 8, 13, 19)
RECORDED = {
    "CyclicLR": [
        0.1,
        0.2285714285714287,
        0.6142857142857141,
        0.6999999999999997,
        0.48571428571428554,
        0.40000000000000024,
    ],
    "CyclicLR2": [
        0.1,
        0.40000000000000013,
        0.7000000000000003,
        0.3999999999999998,
        0.17499999999999993,
        0.13749999999999987,
    ],
    "CyclicLRExp": [
        0.1,
        0.31375,
        0.8330556249999999,
        0.1,
        0.4465059062136658,
        0.35471368171133244,
    ],
    "MultiplicativeLR": [
        1.0,
        0.75,
        0.4921875,
        0.370941162109375,
        0.29889196157455444,
        0.2507413752391585,
    ],
    "StepLR": [1.0, 1.0, 0.3, 0.09, 0.0081, 0.0007289999999999999],
    "MultiStepLR": [1.0, 1.0, 0.5, 0.125, 0.0625, 0.0625],
    "ExponentialLR": [
        1.0,
        0.9,
        0.6561000000000001,
        0.43046721000000016,
        0.25418658283290013,
        0.13508517176729928,
    ],
    "CosineAnnealingLR": [
        1.0,
        0.952960212253649,
        0.41930255637075065,
        0.09703978774635091,
        0.9529602122536497,
        0.2288423441171018,
    ],
    "WarmRestarts": [
        1.0,
        0.7625,
        0.9363620667976085,
        0.11363793320239161,
        0.7625,
        0.11363793320239161,
    ],
    "WarmRestarts1": [
        1.0,
        0.8535533905932737,
        1.0,
        1.0,
        0.8535533905932737,
        0.14644660940672627,
    ],
    "OneCycle": [
        0.08000000000000007,
        0.2633436854000506,
        1.8166563145999495,
        1.7818323551421,
        0.7774839561274215,
        8e-06,
    ],
    "OneCycleLinear": [
        0.2,
        0.45714285714285713,
        1.2285714285714284,
        1.8335,
        1.001,
        0.0020000000000000018,
    ],
    "OneCycle3": [
        0.08000000000000007,
        0.2633436854000506,
        1.8166563145999495,
        0.7433436854000505,
        0.06000200000000001,
        8e-06,
    ],
    "ConstantLR": [0.25, 0.25, 1.0, 1.0, 1.0, 1.0],
    "PolynomialLR": [1.0, 0.5625, 0.0, 0.0, 0.0, 0.0],
    "LinearLR": [0.25, 0.375, 0.75, 1.0, 1.0, 1.0],
    "LambdaLR": [1.0, 0.5, 0.2, 0.1111111111111111, 0.07142857142857142, 0.05],
    "Sequential": [0.1, 0.325, 1.0, 0.5, 0.5, 0.0078125],
    "Chained": [
        0.5,
        0.5,
        0.4096,
        0.08388608000000003,
        0.013743895347200009,
        0.0018014398509482003,
    ],
    "Plateau": [1.0, 1.0, 0.5, 0.125, 0.03125, 0.0078125],
    "PlateauMax": [1.0, 1.0, 0.5, 0.25, 0.125, 0.1],
    "PlateauAbs": [1.0, 1.0, 0.25, 0.0625, 0.015625, 0.001953125],
    "PlateauMaxRel": [
        1.0,
        0.5,
        0.0625,
        0.00390625,
        0.0001220703125,
        1.9073486328125e-06,
    ],
}


@pytest.mark.parametrize("name", MAKE)
def test_rates_are_those_that_pytorch_sets(name):
    optimizer = sgd(1.0, 0.5)
    found = rates(optimizer, MAKE[name](optimizer))
    assert [found[t][0] for t in AT] == pytest.approx(RECORDED[name], rel=1e-12)


@pytest.mark.parametrize("name", PLATEAUS)
def test_plateaus_are_found_where_pytorch_finds_them(name):
    optimizer = sgd(1.0, 0.5)
    scheduler = S.ReduceLROnPlateau(optimizer, **PLATEAUS[name])
    found = []
    for value in MEASURED:
        scheduler.step(value)
        found.append(scheduler.get_last_lr()[0])
    assert [found[t] for t in AT] == pytest.approx(RECORDED[name], rel=1e-12)


def test_rates_are_the_formula_of_the_count_for_each_group():
    bases = (1.0, 0.5)
    formulas = {
        "StepLR": lambda t, b: b * 0.3 ** (t // 3),
        "MultiStepLR": lambda t, b: b * 0.5 ** sum(t >= m for m in (2, 5, 5, 9)),
        "ExponentialLR": lambda t, b: b * 0.9**t,
        "CosineAnnealingLR": lambda t, b: (
            0.05 + (b - 0.05) * (1 + math.cos(math.pi * t / 7)) / 2
        ),
        "ConstantLR": lambda t, b: b * (0.25 if t < 3 else 1),
        "PolynomialLR": lambda t, b: b * max(0, 1 - t / 4) ** 2,
        "LinearLR": lambda t, b: b * (0.25 + 0.75 * min(t, 6) / 6),
        "Chained": lambda t, b: (
            b * (0.5 + 0.5 * min(t, 4) / 4) * 0.8**t * 0.5 ** (t // 5)
        ),
    }
    for name, formula in formulas.items():
        optimizer = sgd(*bases)
        for t, found in enumerate(rates(optimizer, MAKE[name](optimizer))):
            want = [formula(t, b) for b in bases]
            assert found == pytest.approx(want, rel=1e-12), (name, t)


@pytest.mark.parametrize("name", MAKE)
def test_a_scheduler_goes_on_from_its_state(name):
    optimizer = sgd(1.0, 0.5)
    scheduler = MAKE[name](optimizer)
    rates(optimizer, scheduler, 7)
    saved = pickle.loads(pickle.dumps(scheduler.state_dict()))
    other = sgd(9.0, 9.0)
    resumed = MAKE[name](other)
    resumed.load_state_dict(saved)
    assert resumed.get_last_lr() == scheduler.get_last_lr()
    assert rates(other, resumed, 10) == rates(optimizer, scheduler, 10)


def test_a_plateau_goes_on_from_its_state():
    options = PLATEAUS["PlateauMax"]
    optimizer, other = sgd(1.0, 0.5), sgd(9.0, 9.0)
    scheduler = S.ReduceLROnPlateau(optimizer, **options)
    for value in MEASURED[:9]:
        scheduler.step(value)
    resumed = S.ReduceLROnPlateau(other, **options)
    resumed.load_state_dict(pickle.loads(pickle.dumps(scheduler.state_dict())))
    for value in MEASURED[9:]:
        scheduler.step(value)
        resumed.step(pn.tensor(float(value)))
        assert resumed.get_last_lr() == scheduler.get_last_lr()


def test_schedulers_of_one_optimizer_start_from_its_first_rate():
    optimizer = sgd(1.0)
    S.LinearLR(optimizer, 0.5)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert S.ExponentialLR(copy.deepcopy(optimizer), 0.9).get_last_lr() == [1.0]
    assert S.ExponentialLR(optimizer, 0.9).base_lrs == [1.0]


def test_a_replayed_step_obeys_a_scheduler(device):
    ends = []
    for compiled in (False, True):
        p = nn.Parameter(pn.ones(3, device=device))
        optimizer = optim.SGD([p], lr=0.5)
        scheduler = S.SequentialLR(
            optimizer,
            [
                S.LinearLR(optimizer, 0.25, total_iters=3),
                S.ExponentialLR(optimizer, 0.5),
            ],
            [3],
        )

        def step(x, p=p, optimizer=optimizer):
            optimizer.zero_grad()
            loss = (p * x).sum()
            loss.backward()
            optimizer.step()
            return loss

        run = pn.compile(step) if compiled else step
        for _ in range(6):
            run(pn.ones(3, device=device))
            scheduler.step()
        ends.append(p.tolist())
    factors = [0.25, 0.5, 0.75, 1, 0.5, 0.25]
    assert ends[0] == ends[1] == [1 - 0.5 * sum(factors)] * 3


def test_a_count_may_be_given_and_be_a_fraction():
    optimizer = sgd(1.0)
    scheduler = S.CosineAnnealingWarmRestarts(optimizer, 4)
    scheduler.step(5.5)
    want = (1 + math.cos(math.pi * 1.5 / 4)) / 2
    assert scheduler.get_last_lr() == pytest.approx([want])
    scheduler.step()
    assert scheduler.last_epoch == 6.5


def test_a_rate_of_zero_stays_zero_in_a_chain():
    optimizer = sgd(0.0)
    chain = S.ChainedScheduler([S.ExponentialLR(optimizer, 0.5)])
    chain.step()
    assert chain.get_last_lr() == [0.0]


def test_bad_options_are_refused():
    o, other = sgd(1.0), sgd(1.0)
    one = S.ExponentialLR(o, 0.5)
    bad = [
        (lambda: S.StepLR(nn.Linear(1, 1), 3), TypeError, "StepLR: an Optimizer is"),
        (lambda: S.LambdaLR(1, abs), TypeError, "LambdaLR: an Optimizer is"),
        (lambda: S.ReduceLROnPlateau(1), TypeError, "Plateau: an Optimizer is"),
        (lambda: S.StepLR(o, 0), ValueError, "StepLR: step_size must be at least 1"),
        (lambda: S.LinearLR(o, 2.0), ValueError, r"start_factor is in \[0, 1\]"),
        (lambda: S.ConstantLR(o, 2.0), ValueError, r"factor is in \[0, 1\], not 2.0"),
        (lambda: S.PolynomialLR(o, 0), ValueError, "PolynomialLR: total_iters"),
        (
            lambda: S.CyclicLR(o, 0.1, 1.0, 0),
            ValueError,
            "step_size_up must be at least",
        ),
        (
            lambda: S.CyclicLR(o, 0.1, 1.0, mode="x"),
            ValueError,
            "CyclicLR: mode is one",
        ),
        (lambda: S.LambdaLR(o, [abs, abs]), ValueError, "2 of lr_lambda .* 1 groups"),
        (lambda: S.CosineAnnealingLR(o, 0), ValueError, "T_max must be at least 1"),
        (
            lambda: S.CosineAnnealingWarmRestarts(o, 3, 0),
            ValueError,
            "T_mult must be at least 1",
        ),
        (lambda: S.OneCycleLR(o, 1.0), ValueError, "OneCycleLR: give total_steps"),
        (
            lambda: S.OneCycleLR(o, 1.0, total_steps=5, anneal_strategy="x"),
            ValueError,
            "anneal_strategy is 'cos' or 'linear'",
        ),
        (
            lambda: S.OneCycleLR(o, 1.0, total_steps=5).step(6),
            ValueError,
            "step 6 is past the last, of 5",
        ),
        (lambda: S.SequentialLR(o, [one, one], []), ValueError, "ascending milestone"),
        (lambda: S.SequentialLR(o, [], []), ValueError, "SequentialLR"),
        (lambda: S.ChainedScheduler([]), ValueError, "list of schedulers is empty"),
        (
            lambda: S.ChainedScheduler([one, S.ExponentialLR(other, 0.5)]),
            ValueError,
            "scheduler 1 is of another optimizer",
        ),
        (
            lambda: S.ChainedScheduler([one, S.ReduceLROnPlateau(o)]),
            TypeError,
            "scheduler 1 is a ReduceLROnPlateau",
        ),
        (lambda: S.ReduceLROnPlateau(o, mode="up"), ValueError, "mode is 'min' or"),
        (lambda: S.ReduceLROnPlateau(o, factor=1.0), ValueError, "factor is in"),
        (
            lambda: one.load_state_dict({"last_epoch": 1, "base_lrs": [1.0, 2.0]}),
            ValueError,
            "2 groups were saved, the optimizer has 1",
        ),
    ]
    for make, error, message in bad:
        with pytest.raises(error, match=message):
            make()


def test_a_numpy_number_is_a_measurement():
    optimizer = sgd(1.0)
    scheduler = S.ReduceLROnPlateau(optimizer, patience=0)
    for _ in range(2):
        scheduler.step(np.float32(1.0))
    assert scheduler.get_last_lr() == [0.1]
