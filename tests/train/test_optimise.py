"""The optimiser that loads no compiler is torch's, to the last bit."""

import torch

from omni_lab.train.optimise import AdamW


def steps(kind: type[torch.optim.AdamW]) -> tuple[list[torch.Tensor], dict]:
    """Weights after two steps, a save, a load into another of its kind, and three more; and what it then holds."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))
    groups = [{"params": [model[0].weight], "weight_decay": 0.3}, {"params": [model[0].bias, *model[2].parameters()]}]
    optimiser = kind(groups, lr=0.05, betas=(0.8, 0.95))
    for step in range(5):
        if step == 2:
            saved, optimiser = optimiser.state_dict(), kind(groups, lr=1.0)
            optimiser.load_state_dict(saved)
        optimiser.zero_grad()
        model(torch.randn(4, 5)).square().sum().backward()
        optimiser.step()
    return [p.detach() for p in model.parameters()], optimiser.state_dict()


def test_adamw_is_torchs() -> None:
    (ours, held), (theirs, expected) = steps(AdamW), steps(torch.optim.AdamW)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert held["param_groups"] == expected["param_groups"] and held["state"].keys() == expected["state"].keys()
    for index, entry in held["state"].items():
        assert all(torch.equal(value, expected["state"][index][name]) for name, value in entry.items())
