"""Adam's relatives, amsgrad and maximize: the numbers of PyTorch, on each device."""

import numpy as np
import pytest

import portanet as pn
from portanet import nn, optim
from portanet.testing import assert_close

START = np.array([1.0, -2.0, 3.0, -4.0]) / 4
DECAY = {"lr": 0.01, "weight_decay": 0.1}

# After twelve steps whose gradients are START times 1, 2, -1 in turn, by torch 2.13.0 in
# float64. fmt: off
RECORDED = [
    (
        optim.Adam,
        {"lr": 0.01, "amsgrad": True, "maximize": True},
        [
            0.3205542354885291,
            -0.5705542365310883,
            0.8205542368786085,
            -1.0705542370523682,
        ],
    ),
    (
        optim.AdamW,
        {**DECAY, "amsgrad": True},
        [
            0.17689916797540967,
            -0.4239156120630939,
            0.6709320568413567,
            -0.9179485017922645,
        ],
    ),
    (
        optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True},
        [
            1.3867309580487748,
            -2.7734619160975496,
            4.1601928741463245,
            -5.546923832195099,
        ],
    ),
    (
        optim.Adadelta,
        {"lr": 0.5, "weight_decay": 0.1},
        [
            0.24029661693616966,
            -0.49028478970813727,
            0.7402808997085939,
            -0.9902789645716953,
        ],
    ),
    (
        optim.Adamax,
        {**DECAY, "maximize": True},
        [
            0.2999151866702378,
            -0.5500435540474852,
            0.8000861884434083,
            -1.0501074766913907,
        ],
    ),
    (
        optim.NAdam,
        DECAY,
        [
            0.19521299388239863,
            -0.4449276444611072,
            0.6948324000544561,
            -0.9447847542157018,
        ],
    ),
    (
        optim.NAdam,
        {**DECAY, "decoupled_weight_decay": True, "momentum_decay": 0.1},
        [
            0.1960513345296469,
            -0.44306777888815096,
            0.6900842237566871,
            -0.9371006687527312,
        ],
    ),
    (
        optim.RAdam,
        DECAY,
        [
            0.23498764069817074,
            -0.47160576607527666,
            0.7082239426247817,
            -0.944842131966984,
        ],
    ),
    (
        optim.RAdam,
        {**DECAY, "decoupled_weight_decay": True, "betas": (0.8, 0.9)},
        [
            0.22086882125569318,
            -0.4559759232580411,
            0.6910830254306191,
            -0.9261901276457544,
        ],
    ),
]  # fmt: on
NAMES = [f"{r[0].__name__}-{i}" for i, r in enumerate(RECORDED)]


def trained(kind, options, device, dtype, steps=range(12), state=None):
    """The parameter after these steps, and the state of the optimizer."""
    p = nn.Parameter(pn.tensor(START, dtype, device))
    optimizer = kind([p], **options)
    if state is not None:
        p, optimizer = state
    for k in steps:
        p.grad = pn.tensor(START * (1, 2, -1)[k % 3], dtype, device)
        optimizer.step()
    return p, optimizer


@pytest.mark.parametrize("kind, options, want", RECORDED, ids=NAMES)
def test_steps_are_those_of_pytorch(kind, options, want, device):
    # 12 steps that each round a number below 6 to float32.
    assert_close(
        trained(kind, options, device, "float32")[0], want, rtol=3e-6, atol=2e-6
    )


@pytest.mark.parametrize("kind, options, want", RECORDED, ids=NAMES)
def test_steps_in_float64_are_those_of_pytorch(kind, options, want):
    assert_close(trained(kind, options, "cpu", "float64")[0], want, rtol=2e-7)


@pytest.mark.parametrize("kind, options, want", RECORDED, ids=NAMES)
def test_a_saved_state_goes_on(kind, options, want, device):
    half = trained(kind, options, device, "float32", range(5))
    p = nn.Parameter(half[0].detach())
    resumed = kind([p], **options)
    resumed.load_state_dict(half[1].state_dict())
    p, _ = trained(kind, options, device, "float32", range(5, 12), (p, resumed))
    assert p.tolist() == trained(kind, options, device, "float32")[0].tolist()


@pytest.mark.parametrize("kind, options, want", RECORDED, ids=NAMES)
def test_a_replayed_step_is_that_of_an_eager_one(kind, options, want, device):
    p = nn.Parameter(pn.tensor(START, "float32", device))
    optimizer = kind([p], **options)

    @pn.compile
    def step(g):
        optimizer.zero_grad()
        (p * g).sum().backward()
        optimizer.step()

    for k in range(12):
        step(pn.tensor(START * (1, 2, -1)[k % 3], "float32", device))
    assert_close(p, want, rtol=3e-6, atol=2e-6)


def test_radam_rectifies_late_steps_in_float32(device):
    """rho is a difference of two numbers of about 2000; see the rule."""
    p = nn.Parameter(pn.ones(1, device=device))
    optimizer = optim.RAdam([p], lr=1.0)
    beta2, found, want = 0.999, [], []
    end = 2 / (1 - beta2) - 1
    for t in range(1, 41):
        before = p.item()
        p.grad = pn.ones(1, device=device)
        optimizer.step()
        found.append(before - p.item())
        rho = end - 2 * t * beta2**t / (1 - beta2**t)
        part = (rho - 4) * (rho - 2) * end / ((end - 4) * (end - 2) * rho)
        want.append(np.sqrt(part) if rho > 5 else 1.0)
    assert_close(np.array(found), np.array(want), rtol=2e-5, atol=2e-6)


def test_options_are_checked():
    p = [nn.Parameter([1.0])]
    bad = [
        (lambda: optim.Adadelta(p, rho=1.0), r"rho must be in \[0, 1.0\), not 1.0"),
        (lambda: optim.NAdam(p, momentum_decay=-1.0), "NAdam: momentum_decay must be"),
        (
            lambda: optim.RAdam(p, betas=(0.9, 0.5)),
            r"RAdam: betas\[1\] must be above 2/3",
        ),
    ]
    for call, message in bad:
        with pytest.raises(ValueError, match=message):
            call()


def test_a_module_in_place_of_its_parameters_is_named():
    with pytest.raises(TypeError, match=r"SGD: .* one Linear; give it .parameters\(\)"):
        optim.SGD(nn.Linear(1, 1))
